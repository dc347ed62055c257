//! Every command reaches the service with exactly the fields of the manual's tables, and gets its result.

use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{Bridge, UID, base64};
use crate::support::client::Out;
use crate::support::sim::{APPKEY, MASK};

/// A world whose service refuses any field the manual does not list, and that may use every call.
async fn strict() -> World {
    let mut world = World::prepared(&["--strict"], |bridge| bridge.with_toml("mqtt.allow_calls", r#"["*"]"#)).await;
    world.bridge.start().await;
    world
}

/// Publishes a command, returns its result and the bodies it was called with.
async fn command(world: &World, topic: &str, payload: impl AsRef<[u8]>, api: &str) -> (Value, Value) {
    let before = world.sim.calls(api).await.len();
    world.client.publish(&format!("ilink/{topic}"), payload).await;
    let result = world.client.expect(&format!("ilink/result/{topic}")).await;
    assert!(!result.retain);
    let calls = world.sim.calls(api).await;
    assert_eq!(calls.len(), before + 1, "{topic}: {calls:?}");
    assert!(calls[before].with_token || api == "ham_add_user", "{topic}: {calls:?}");
    (result.json(), calls[before].body.clone())
}

/// Checks everything of a good result but `data`, which it returns.
fn ok(result: &Value) -> Value {
    let fields = result.as_object().expect("an object");
    assert_eq!(fields["v"], json!(1), "{result}");
    assert_eq!(fields["id"].as_str().map(str::len), Some(26), "{result}");
    assert_eq!(
        (&fields["status"], &fields["code"], &fields["name"]),
        (&json!("ok"), &json!(0), &json!("ok")),
        "{result}"
    );
    assert!(fields["message"].is_string(), "{result}");
    assert_eq!(fields["attempts"], json!(1), "{result}");
    assert!(fields["elapsed_ms"].is_u64(), "{result}");
    fields.get("data").cloned().unwrap_or_default()
}

#[tokio::test]
async fn raw_sends() {
    let world = strict().await;
    // Nothing of a raw payload is ever read: these bytes are no text, and that is no JSON call.
    let bytes = b"\xff\x00{\"ttl\":1}".as_slice();
    let group = create_group(&world).await;

    let (result, body) = command(&world, "send/user/413/text", bytes, "send_msg").await;
    ok(&result);
    assert_eq!(body, json!({"send_uid": UID, "accept_uid": "413", "msg_type": 1, "content": base64(bytes)}));

    let (result, body) = command(&world, "send/user/413/file", bytes, "send_msg").await;
    ok(&result);
    assert_eq!(body, json!({"send_uid": UID, "accept_uid": "413", "msg_type": 2, "content": base64(bytes)}));

    let (result, body) = command(&world, &format!("send/group/{group}"), bytes, "send_msg").await;
    ok(&result);
    assert_eq!(body, json!({"send_uid": UID, "group_id": group, "msg_type": 3, "content": base64(bytes)}));

    let (result, body) = command(&world, "send/topic/home/lamp", bytes, "ham_topic").await;
    ok(&result);
    assert_eq!(body, json!({"send_uid": UID, "action_type": 2, "subject": "home/lamp", "content": base64(bytes)}));

    // The inverse of the escape, leniently.
    let (_, body) = command(&world, "send/user/a%2Fb%2bc%25/text", "x", "send_msg").await;
    assert_eq!(body["accept_uid"], json!("a/b+c%"));
    let (_, body) = command(&world, "send/topic/a//b/%2F", "x", "ham_topic").await;
    assert_eq!(body["subject"], json!("a//b//"));
}

async fn create_group(world: &World) -> String {
    let payload = json!({"group_name": "family", "uid_list": ["413"]}).to_string();
    let (result, _) = command(world, "call/ham_group/create", payload, "ham_group").await;
    ok(&result)["group_id"].as_str().expect("the new group's id").to_owned()
}

#[tokio::test]
async fn messages_as_json_calls() {
    let world = strict().await;
    let group = create_group(&world).await;
    for (topic, fields, api, expected) in [
        (
            "call/send_msg/text",
            json!({"accept_uid": "413", "content": "héllo"}),
            "send_msg",
            json!({"send_uid": UID, "accept_uid": "413", "msg_type": 1, "content": base64("héllo".as_bytes())}),
        ),
        (
            "call/send_msg/file",
            json!({"accept_uid": 413, "content": "/wA=", "encoding": "base64"}),
            "send_msg",
            json!({"send_uid": UID, "accept_uid": "413", "msg_type": 2, "content": "/wA="}),
        ),
        (
            "call/send_msg/group",
            json!({"group_id": group, "content": "x"}),
            "send_msg",
            json!({"send_uid": UID, "group_id": group, "msg_type": 3, "content": base64(b"x")}),
        ),
        (
            "call/ham_topic/publish",
            json!({"subject": "home/lamp", "content": "on"}),
            "ham_topic",
            json!({"send_uid": UID, "action_type": 2, "subject": "home/lamp", "content": base64(b"on")}),
        ),
    ] {
        let (result, body) = command(&world, topic, fields.to_string(), api).await;
        ok(&result);
        assert_eq!(body, expected, "{topic}");
    }
}

#[tokio::test]
async fn topics_as_json_calls() {
    let world = strict().await;
    for (action, fields, expected) in [
        ("subscribe", json!({"subject": "a/b"}), json!({"subject": "a/b", "action_type": 1, "qos": 1, "type": 1})),
        (
            "subscribe",
            json!({"subject": "a/c", "qos": 2}),
            json!({"subject": "a/c", "action_type": 1, "qos": 2, "type": 1}),
        ),
        ("unsubscribe", json!({"subject": "a/b"}), json!({"subject": "a/b", "action_type": 1, "type": 0})),
    ] {
        let mut expected = expected;
        expected["send_uid"] = json!(UID);
        let (result, body) =
            command(&world, &format!("call/ham_topic/{action}"), fields.to_string(), "ham_topic").await;
        ok(&result);
        assert_eq!(body, expected, "{action}");
    }
    // What was subscribed comes back as a push.
    world.client.publish("ilink/send/topic/a/c", "echo").await;
    world.client.expect_text("ilink/recv/topic/a/c", "echo").await;
}

#[tokio::test]
async fn groups_as_json_calls() {
    let world = strict().await;
    let (result, body) = command(
        &world,
        "call/ham_group/create",
        json!({"group_name": "family", "uid_list": ["413", 412]}).to_string(),
        "ham_group",
    )
    .await;
    assert_eq!(body, json!({"send_uid": UID, "action_type": 1, "group_name": "family", "uid_list": ["413", "412"]}));
    let id = ok(&result)["group_id"].clone();

    for (action, payload, expected) in [
        (
            "add_members",
            json!({"group_id": id, "uid_list": ["411"]}),
            json!({"action_type": 4, "group_id": id, "uid_list": ["411"]}),
        ),
        (
            "remove_members",
            json!({"group_id": id, "uid_list": ["412"]}),
            json!({"action_type": 5, "group_id": id, "uid_list": ["412"]}),
        ),
    ] {
        let mut expected = expected;
        expected["send_uid"] = json!(UID);
        let (result, body) =
            command(&world, &format!("call/ham_group/{action}"), payload.to_string(), "ham_group").await;
        ok(&result);
        assert_eq!(body, expected, "{action}");
    }

    let payload = json!({"group_id": id}).to_string();
    let (result, body) = command(&world, "call/ham_group/members", &payload, "ham_group").await;
    assert_eq!(body, json!({"send_uid": UID, "action_type": 6, "group_id": id}));
    let mut members: Vec<String> = serde_json::from_value(ok(&result)["uid_list"].clone()).unwrap();
    members.sort();
    assert_eq!(members, ["411", "413"]);

    for payload in ["", "{}"] {
        let (result, body) = command(&world, "call/ham_group/list", payload, "ham_group").await;
        assert_eq!(body, json!({"send_uid": UID, "action_type": 3}));
        let list = ok(&result)["group_list"].clone();
        assert_eq!((&list[0]["group_id"], &list[0]["group_name"]), (&id, &json!("family")), "{list}");
    }

    let (result, body) = command(&world, "call/ham_group/delete", &payload, "ham_group").await;
    assert_eq!(body, json!({"send_uid": UID, "action_type": 2, "group_id": id}));
    ok(&result);
}

#[tokio::test]
async fn users_as_json_calls() {
    let world = strict().await;
    let payload = json!({"uid_list": ["413", 414]}).to_string();
    let (result, body) = command(&world, "call/ham_user/states", &payload, "ham_user").await;
    assert_eq!(body, json!({"send_uid": UID, "action_type": 1, "uid_list": ["413", "414"]}));
    assert_eq!(ok(&result)["uid_state_list"], json!([{"uid": "413", "state": 0}, {"uid": "414", "state": 1}]));
    for (action, flag) in [("subscribe", 1), ("unsubscribe", 0)] {
        let (result, body) = command(&world, &format!("call/ham_user/{action}"), &payload, "ham_user").await;
        ok(&result);
        assert_eq!(body, json!({"send_uid": UID, "action_type": 2, "uid_list": ["413", "414"], "type": flag}));
    }

    let payload = json!({"username": "lamp", "nickname": "the lamp"}).to_string();
    let (result, body) = command(&world, "call/ham_add_user", payload, "ham_add_user").await;
    assert!(ok(&result)["userid"].is_string(), "{result}");
    // The simulator masks what is secret.
    assert_eq!(
        body,
        json!({"appkey": APPKEY, "secretkey": MASK, "username": "lamp",
            "nickname": "the lamp"})
    );
}

#[tokio::test]
async fn the_presence_action_is_configurable() {
    let world = World::ready_with(|bridge| bridge.with_toml("ilink.presence_action", "7")).await;
    world.client.publish("ilink/call/ham_user/subscribe", r#"{"uid_list":["413"]}"#).await;
    let result = world.client.expect("ilink/result/call/ham_user/subscribe").await.json();
    // The simulator follows the table, where it is 2.
    assert_eq!(result["name"], json!("invalid_operation"), "{result}");
    assert_eq!(world.sim.calls("ham_user").await.last().unwrap().body["action_type"], json!(7));
}

#[tokio::test]
async fn references_come_back_as_they_were() {
    let world = World::ready().await;
    for reference in ["\"a \\u00e9 \\\" b\"", "12345678901234567890", "1.50", "-0", "\"\"", "1e3"] {
        let payload = format!(r#"{{"accept_uid":"413","content":"x","ref":{reference}}}"#);
        world.client.publish("ilink/call/send_msg/text", payload).await;
        let result = world.client.expect("ilink/result/call/send_msg/text").await;
        ok(&result.json());
        assert!(result.text().contains(&format!("\"ref\":{reference}")), "{reference}: {}", result.text());
    }
    // A refused one has it too.
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"413","ref":"r7"}"#).await;
    let result = world.client.expect("ilink/result/call/send_msg/text").await.json();
    assert_eq!((&result["status"], &result["ref"]), (&json!("rejected"), &json!("r7")), "{result}");
}

#[tokio::test]
async fn per_client_topics_have_results_and_short_acks_of_their_own() {
    let world = World::ready().await;
    world.client.publish("ilink/by/lamp-1/send/user/413/text", "x").await;
    ok(&world.client.expect("ilink/by/lamp-1/result/send/user/413/text").await.json());
    assert_eq!(world.client.expect("ilink/by/lamp-1/ack/send/user/413/text").await.text(), "ok");

    world.client.publish("ilink/by/lamp-1/call/ham_group/delete", r#"{"group_id":"none"}"#).await;
    let result = world.client.expect("ilink/by/lamp-1/result/call/ham_group/delete").await.json();
    assert_eq!((&result["status"], &result["code"]), (&json!("error"), &json!(1013)), "{result}");
    assert_eq!(world.client.expect("ilink/by/lamp-1/ack/call/ham_group/delete").await.text(), "no_such_group");

    world.client.publish("ilink/by/lamp-1/send/user/413/text", "").await;
    assert_eq!(
        world.client.expect_text("ilink/by/lamp-1/ack/send/user/413/text", "bad_payload").await.qos,
        rumqttc::v5::mqttbytes::QoS::AtLeastOnce
    );
    // Others have no ack.
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect("ilink/result/send/user/413/text").await;
    world.client.settle().await;
    assert!(world.client.all(|message| message.topic.starts_with("ilink/ack/")).is_empty());
}

#[tokio::test]
async fn response_topics() {
    let world = World::ready().await;
    let (topic, result) = ("ilink/send/user/413/text", "ilink/result/send/user/413/text");
    world.client.send(Out::new(topic, "x").respond_to("ilink/reply/me", b"\x00correlation\xff")).await;
    let reply = world.client.expect("ilink/reply/me").await;
    assert_eq!(reply.properties.correlation_data.as_deref(), Some(b"\x00correlation\xff".as_slice()));
    assert_eq!(world.client.expect(result).await.json()["id"], reply.json()["id"]);

    world.client.subscribe("elsewhere/#").await;
    world.client.subscribe("homeassistant/#").await;
    for refused in ["elsewhere/x", "ilink/recv/user/413/text", "ilink/send/user/413/text", "homeassistant/x"] {
        world.client.send(Out::new(topic, "x").respond_to(refused, b"c")).await;
        // The command itself is carried out.
        ok(&world.client.expect(result).await.json());
        world.bridge.logged(refused).await;
    }
    world.client.settle().await;
    let stray = world.client.all(|message| {
        !message.topic.starts_with("ilink/result/")
            && message.properties.correlation_data.as_deref() == Some(b"c")
            && message.properties.response_topic.is_none()
    });
    assert!(stray.is_empty(), "{stray:?}");
    drop(world);

    let configured = |bridge: Bridge| bridge.with_toml("mqtt.response_topics", r#"["elsewhere/+/reply"]"#);
    let world = World::ready_with(configured).await;
    world.client.subscribe("elsewhere/#").await;
    world.client.send(Out::new(topic, "x").respond_to("elsewhere/me/reply", b"c")).await;
    world.client.expect("elsewhere/me/reply").await;
}

#[tokio::test]
async fn qos_0_commands_are_taken_too() {
    let world = World::ready().await;
    world.client.send(Out::new("ilink/send/user/413/text", "x").qos0()).await;
    ok(&world.client.expect("ilink/result/send/user/413/text").await.json());
}

#[tokio::test]
async fn mqtt_3_1_1_works_too() {
    let world = World::ready_with(|bridge| bridge.with("mqtt.protocol", "3.1.1")).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    ok(&world.client.expect("ilink/result/send/user/413/text").await.json());
    world.bridge.push(&crate::support::bridge::text_push("413", "hello")).await;
    let raw = world.client.expect_text("ilink/recv/user/413/text", "hello").await;
    assert_eq!(raw.properties.user_properties, []);
}
