//! What the calls do with the memory of the service.

use ilink2mqtt::sim::Options;
use serde_json::json;

use super::harness::{Callback, Service, Session, account, options, registration};

#[tokio::test]
async fn messages_reach_the_registered() {
    let service = Service::start(options()).await;
    let (mut hook, mut other) = (Callback::start().await, Callback::start().await);
    let alice = service.register("1", &hook).await;
    let bob = service.register("2", &other).await;

    let text = json!({"accept_uid": "2", "msg_type": 1, "content": "aGVsbG8="});
    assert_eq!(alice.code("send_msg", text.clone()).await, 0);
    let mut push = other.push().await;
    assert!(push["create_time"].take().as_u64().unwrap() > 1_700_000_000);
    let expected = json!({"from_uid": "1", "to_uid": "2", "create_time": null, "msg_type": 1, "content": "aGVsbG8="});
    assert_eq!(push, expected);
    assert_eq!(alice.code("send_msg", json!({"accept_uid": 2, "msg_type": "2", "content": "AA=="})).await, 0);
    assert_eq!(other.push().await["msg_type"], 2);
    assert_eq!(alice.code("send_msg", json!({"accept_uid": "413", "msg_type": 1, "content": "AA=="})).await, 0);
    assert_eq!(alice.code("send_msg", json!({"accept_uid": "2", "msg_type": 4, "content": "AA=="})).await, 1010);
    assert_eq!(alice.code("send_msg", json!({"accept_uid": "2", "msg_type": 1})).await, 1010);

    let made = alice.call("ham_group", json!({"action_type": 1, "group_name": "聊天群", "uid_list": ["2", "3"]})).await;
    let group = made["group_id"].as_str().unwrap();
    let members = alice.call("ham_group", json!({"action_type": 6, "group_id": group})).await;
    assert_eq!(members, json!({"code": 0, "uid_list": ["2", "3"]}));
    let list = bob.call("ham_group", json!({"action_type": 3})).await;
    assert_eq!(
        (&list["group_list"][0]["group_id"], &list["group_list"][0]["group_name"]),
        (&json!(group), &json!("聊天群"))
    );
    assert_eq!(list["group_list"][0]["create_time"].as_str().unwrap().len(), "2014-12-13 13:13:13".len());
    assert_eq!(alice.code("send_msg", json!({"group_id": group, "msg_type": 3, "content": "AA=="})).await, 0);
    let push = other.push().await;
    assert_eq!((&push["group_id"], &push["msg_type"], &push["from_uid"]), (&json!(group), &json!(3), &json!("1")));
    // As §5.3's sample has it.
    assert_eq!(bob.code("send_msg", json!({"group_id": group, "msg_type": 1, "content": "AA=="})).await, 0);
    assert_eq!(hook.push().await["msg_type"], 3);
    assert_eq!(bob.code("ham_group", json!({"action_type": 2, "group_id": group})).await, 1014);
    assert_eq!(bob.code("ham_group", json!({"action_type": 5, "group_id": group, "uid_list": ["2"]})).await, 0);
    assert_eq!(bob.code("send_msg", json!({"group_id": group, "msg_type": 3, "content": "AA=="})).await, 1014);
    assert_eq!(alice.code("ham_group", json!({"action_type": 4, "group_id": group, "uid_list": ["2"]})).await, 0);
    assert_eq!(alice.code("ham_group", json!({"action_type": 2, "group_id": group})).await, 0);
    assert_eq!(alice.code("send_msg", json!({"group_id": group, "msg_type": 3, "content": "AA=="})).await, 1013);
    assert_eq!(alice.code("ham_group", json!({"action_type": 7})).await, 1012);
    hook.assert_quiet();
    other.assert_quiet();
}

#[tokio::test]
async fn a_publish_reaches_the_subscribers_of_its_subject() {
    let service = Service::start(options()).await;
    let (mut hook, mut other) = (Callback::start().await, Callback::start().await);
    let alice = service.register("1", &hook).await;
    let bob = service.register("2", &other).await;
    let subscribe = json!({"action_type": 1, "subject": "home/lamp", "qos": 1, "type": 1});
    let publish = json!({"action_type": 2, "subject": "home/lamp", "content": "b24="});
    assert_eq!(alice.code("ham_topic", subscribe.clone()).await, 0);
    assert_eq!(bob.code("ham_topic", subscribe.clone()).await, 0);
    assert_eq!(alice.code("ham_topic", publish.clone()).await, 0);
    for (callback, uid) in [(&mut hook, "1"), (&mut other, "2")] {
        let push = callback.push().await;
        assert_eq!((&push["group_id"], &push["to_uid"]), (&json!("home/lamp"), &json!(uid)));
        assert_eq!((&push["msg_type"], &push["from_uid"]), (&json!(4), &json!("1")));
    }
    assert_eq!(bob.code("ham_topic", json!({"action_type": 1, "subject": "home/lamp", "type": 0})).await, 0);
    assert_eq!(alice.code("ham_topic", publish).await, 0);
    hook.push().await;
    for (field, value, code) in [
        ("subject", json!("home/#"), 1010),
        ("subject", json!(""), 1010),
        ("qos", json!(3), 1010),
        ("qos", json!(null), 1010),
        ("type", json!(2), 1010),
        ("action_type", json!(7), 1012),
    ] {
        let mut body = subscribe.clone();
        body[field] = value;
        assert_eq!(bob.code("ham_topic", body).await, code, "{field}");
    }
    assert_eq!(service.state().await["pushes_total"], 3);
}

#[tokio::test]
async fn presence_follows_registration_and_pushed_presence() {
    let service = Service::start(options()).await;
    let (mut hook, other) = (Callback::start().await, Callback::start().await);
    let alice = service.register("1", &hook).await;
    let states = json!({"action_type": 1, "uid_list": ["1", "2", "3"]});
    let state = async |session: &Session<'_>| {
        let reply = session.call("ham_user", states.clone()).await;
        let list = reply["uid_state_list"].as_array().unwrap().clone();
        list.iter().map(|one| one["state"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(state(&alice).await, [1, 0, 0]);
    assert_eq!(alice.code("ham_user", json!({"action_type": 2, "uid_list": ["2"], "type": 1})).await, 0);
    service.register("2", &other).await;
    let push = hook.push().await;
    assert_eq!((&push["from_uid"], &push["to_uid"]), (&json!("2"), &json!("1")));
    assert_eq!((&push["msg_type"], &push["type"]), (&json!(4), &json!(1)));
    assert!(push["time"].is_u64() && push.get("content").is_none());
    service.register("2", &other).await;
    assert_eq!(state(&alice).await, [1, 1, 0]);
    assert_eq!(service.code("set_config", &account(&json!({"uid": "2", "action_type": 1}))).await, 0);
    assert_eq!(hook.push().await["type"], 0);
    let presence = json!({"from_uid": "3", "to_uid": "1", "msg_type": 4, "time": 1_457_408_202, "type": 1});
    assert_eq!(service.post("sim/push", &presence).await.0, 200);
    assert_eq!(hook.push().await, presence);
    assert_eq!(state(&alice).await, [1, 0, 1]);
    assert_eq!(alice.code("ham_user", json!({"action_type": 2, "uid_list": ["2"], "type": 0})).await, 0);
    service.register("2", &other).await;
    assert_eq!(alice.code("ham_user", json!({"action_type": 7, "uid_list": ["2"], "type": 1})).await, 1012);
    assert_eq!(alice.code("ham_user", json!({"action_type": 1, "uid_list": "2"})).await, 1010);
    hook.assert_quiet();
}

#[tokio::test]
async fn strict_refuses_what_the_tables_do_not_list() {
    let service = Service::start(Options { strict: true, ..options() }).await;
    let hook = Callback::start().await;
    let mut extra = registration("1", &hook.url);
    extra["username"] = json!("google");
    assert_eq!(service.code("set_config", &extra).await, 1010);
    let alice = service.register("1", &hook).await;
    for (path, good, bad) in [
        ("send_msg", json!({"accept_uid": "2", "msg_type": 1, "content": "AA=="}), json!({"content": "not base64!"})),
        ("send_msg", json!({"accept_uid": "2", "msg_type": 2, "content": "AA=="}), json!({"accept_uid": 2})),
        ("ham_group", json!({"action_type": 3}), json!({"group_id": "g"})),
        ("ham_user", json!({"action_type": 1, "uid_list": ["2"]}), json!({"action_type": "1"})),
        ("ham_topic", json!({"action_type": 1, "subject": "s", "type": 0}), json!({"qos": 1})),
    ] {
        assert_eq!(alice.code(path, good.clone()).await, 0, "{path} {good}");
        let mut both = good;
        both.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(alice.code(path, both.clone()).await, 1010, "{path} {both}");
    }
}
