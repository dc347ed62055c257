//! The manual's messages, section by section, against the files in `tests/fixtures`: pushes as they come, requests exactly
//! as the tables prescribe them, replies with what they carry.
//!
//! Where the manual's sample and its table differ and both can arrive, both are fixtures.

use serde_json::{Value, json};

use super::*;

macro_rules! fixture {
    ($path:literal) => {
        include_str!(concat!("../../tests/fixtures/", $path))
    };
}

/// Everything a push says, as one comparable value.
fn said(push: &str) -> Value {
    let Push { to_uid, message } = Push::decode(push.as_bytes()).unwrap();
    let mut said =
        json!({"kind": message.kind().as_str(), "to": to_uid, "from": message.from_uid(), "time": message.time()});
    if let Some(content) = message.content() {
        said["content"] = String::from_utf8_lossy(&content.bytes).into();
        if content.not_base64 {
            said["not_base64"] = true.into();
        }
    }
    match message {
        Message::Presence { online, .. } => said["online"] = online.into(),
        Message::Topic { subject, .. } => said["subject"] = subject.as_str().into(),
        Message::Group { group, .. } => said["group"] = group.as_str().into(),
        Message::Other { object, bytes } => {
            assert_eq!((object.unwrap().get(), bytes), (push.trim(), None));
        }
        Message::Text { .. } | Message::File { .. } => {}
    }
    said
}

#[test]
fn pushes_of_section_4() {
    let time = 1_457_408_202;
    assert_eq!(
        said(fixture!("push/4.1-text.json")),
        json!({"kind": "text", "from": "413", "to": "414", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/4.1-file.json")),
        json!({"kind": "file", "from": "413", "to": "414", "time": time, "content": "\u{fffd}PNG\r\n\u{1a}\n"})
    );
    assert_eq!(
        said(fixture!("push/4.2-group-by-table.json")),
        json!({"kind": "group", "from": "413", "to": "414", "group": "4cdad356-85b4-008627", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/4.2-group-by-sample.json")),
        json!({"kind": "group", "from": "413", "to": null, "group": "4cdad356-85b4-008627", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/4.3-presence-offline.json")),
        json!({"kind": "presence", "from": "414", "to": "413", "time": time, "online": false})
    );
    assert_eq!(
        said(fixture!("push/4.3-presence-online.json")),
        json!({"kind": "presence", "from": "414", "to": "413", "time": time, "online": true})
    );
    assert_eq!(
        said(fixture!("push/4.4-topic.json")),
        json!({"kind": "topic", "from": "414", "to": "413", "subject": "4cdad356-85b4-008627", "time": time, "content": "hello"})
    );
}

#[test]
fn pushes_with_the_liberties_of_the_manuals_samples() {
    let time = 1_457_408_202;
    assert_eq!(
        said(fixture!("push/liberal-ids-as-numbers.json")),
        json!({"kind": "group", "from": "413", "to": "414", "group": "86270000000000000000008627", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/liberal-integers-as-strings.json")),
        json!({"kind": "presence", "from": "414", "to": "413", "time": time, "online": true})
    );
    assert_eq!(
        said(fixture!("push/liberal-stray-spaces.json")),
        json!({"kind": "text", "from": "413", "to": "414", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/liberal-nulls.json")),
        json!({"kind": "text", "from": "413", "to": null, "time": null, "content": "hello"})
    );
}

#[test]
fn pushes_as_servers_between_write_them() {
    let time = 1_457_408_202;
    assert_eq!(
        said(fixture!("push/liberal-byte-order-mark-and-nul.json")),
        json!({"kind": "text", "from": "413", "to": "414", "time": time, "content": "hello"})
    );
    assert_eq!(
        said(fixture!("push/liberal-content-a-number.json")),
        json!({"kind": "text", "from": "413", "to": "414", "time": null, "content": "21.50", "not_base64": true})
    );
    assert_eq!(
        said(fixture!("push/liberal-milliseconds.json")),
        json!({"kind": "presence", "from": "414", "to": "413", "time": time, "online": true})
    );
}

#[test]
fn pushes_of_no_known_shape_are_kept_verbatim() {
    for push in [
        fixture!("push/other-content-not-a-string.json"),
        fixture!("push/other-empty-sender.json"),
        fixture!("push/other-unknown-type.json"),
        fixture!("push/other-empty-group.json"),
    ] {
        assert_eq!(said(push), json!({"kind": "other", "from": null, "to": "414", "time": null}), "{push}");
    }
}

/// The account of the fixtures; its keys are those of the manual's samples.
fn account() -> Account {
    Account {
        appkey: "4cdad356-85b4-008627".to_owned(),
        secretkey: "c7147f6fea0daf6cbd36ed65b037b4c9".into(),
        uid: "413".parse().unwrap(),
        presence_action: 2,
    }
}

#[track_caller]
fn posts(request: &Request, fixture: &str) {
    let posted = json!({"path": request.path, "with_token": request.with_token, "body": request.body});
    assert_eq!(posted, serde_json::from_str::<Value>(fixture).unwrap());
}

#[test]
fn requests_of_the_session() {
    let (url, token) = ("http://bridge.example/cb", "abcdefg");
    posts(&SetConfig::Register { url, token }.request(&account()), fixture!("request/3.1-register.json"));
    posts(&SetConfig::Unregister.request(&account()), fixture!("request/3.2-unregister.json"));
    posts(&SetConfig::Query { url }.request(&account()), fixture!("request/3.3-query.json"));
    posts(&get_access_token(&account()), fixture!("request/5.1-token.json"));
}

/// Every call with the fixture of its request and its public name.
fn calls() -> [(Call, &'static str, &'static str); 16] {
    let to: Uid = "414".parse().unwrap();
    let group: GroupId = "4cdad356-85b4-008627".parse().unwrap();
    let subject: Subject = "asda".parse().unwrap();
    let uids: Vec<Uid> = vec!["415".parse().unwrap(), "414".parse().unwrap()];
    let hello = b"hello".to_vec();
    let file = b"\x89PNG\r\n\x1a\n".to_vec();
    let published = b"sdafasfd".to_vec();
    let (username, nickname) = ("user name1".to_owned(), "nick name".to_owned());
    [
        (Call::SendText { to: to.clone(), content: hello.clone() }, fixture!("request/5.2-text.json"), "send_msg/text"),
        (Call::SendFile { to, content: file }, fixture!("request/5.2-file.json"), "send_msg/file"),
        (
            Call::SendGroup { group: group.clone(), content: hello },
            fixture!("request/5.3-group-message.json"),
            "send_msg/group",
        ),
        (
            Call::CreateGroup { name: "聊天群".to_owned(), members: uids.clone() },
            fixture!("request/5.4-create-group.json"),
            "ham_group/create",
        ),
        (Call::DeleteGroup { group: group.clone() }, fixture!("request/5.5-delete-group.json"), "ham_group/delete"),
        (Call::ListGroups, fixture!("request/5.6-list-groups.json"), "ham_group/list"),
        (
            Call::AddMembers { group: group.clone(), members: uids.clone() },
            fixture!("request/5.7-add-members.json"),
            "ham_group/add_members",
        ),
        (
            Call::RemoveMembers { group: group.clone(), members: uids.clone() },
            fixture!("request/5.8-remove-members.json"),
            "ham_group/remove_members",
        ),
        (Call::GroupMembers { group }, fixture!("request/5.9-list-members.json"), "ham_group/members"),
        (Call::UserStates { uids: uids.clone() }, fixture!("request/5.10-user-states.json"), "ham_user/states"),
        (
            Call::SubscribePresence { uids: uids.clone() },
            fixture!("request/5.11-subscribe-states.json"),
            "ham_user/subscribe",
        ),
        (Call::UnsubscribePresence { uids }, fixture!("request/5.11-unsubscribe-states.json"), "ham_user/unsubscribe"),
        (Call::AddUser { username, nickname }, fixture!("request/5.12-add-user.json"), "ham_add_user"),
        (
            Call::SubscribeTopic { subject: subject.clone(), qos: Qos::ExactlyOnce },
            fixture!("request/5.13-subscribe-topic.json"),
            "ham_topic/subscribe",
        ),
        (
            Call::UnsubscribeTopic { subject: subject.clone() },
            fixture!("request/5.13-unsubscribe-topic.json"),
            "ham_topic/unsubscribe",
        ),
        (Call::Publish { subject, content: published }, fixture!("request/5.14-publish.json"), "ham_topic/publish"),
    ]
}

#[test]
fn requests_of_section_5() {
    for (call, fixture, name) in calls() {
        assert_eq!(call.name(), name);
        posts(&call.request(&account()), fixture);
    }
}

#[test]
fn the_presence_action_is_the_accounts() {
    let account = Account { presence_action: 7, ..account() };
    let request = Call::SubscribePresence { uids: vec!["414".parse().unwrap()] }.request(&account);
    assert_eq!(request.body.get("action_type"), Some(&json!(7)));
    let states = Call::UserStates { uids: vec![] }.request(&account);
    assert_eq!(states.body.get("action_type"), Some(&json!(1)));
}

#[test]
fn receivers_make_the_lanes() {
    for (call, _, name) in calls() {
        let expected = match name {
            "send_msg/text" | "send_msg/file" => Some(Receiver::User("414".parse().unwrap())),
            "ham_topic/publish" | "ham_topic/subscribe" | "ham_topic/unsubscribe" => {
                Some(Receiver::Subject("asda".parse().unwrap()))
            }
            "send_msg/group"
            | "ham_group/delete"
            | "ham_group/members"
            | "ham_group/add_members"
            | "ham_group/remove_members" => Some(Receiver::Group("4cdad356-85b4-008627".parse().unwrap())),
            _ => None,
        };
        assert_eq!(call.receiver(), expected, "{name}");
        assert_eq!(call.never_repeat(), matches!(name, "ham_group/create" | "ham_add_user"), "{name}");
    }
}

#[test]
fn debug_shows_no_secret_and_no_content() {
    let account = account();
    let mut shown = vec![format!("{account:?} {:?}", get_access_token(&account))];
    let (url, token) = ("http://bridge.example/path-secret", "handshaketoken");
    let register = SetConfig::Register { url, token };
    shown.push(format!("{register:?} {:?} {:?}", register.request(&account), SetConfig::Query { url }));
    for (call, _, _) in calls() {
        shown.push(format!("{call:?} {:?}", call.request(&account)));
    }
    let shown = shown.concat();
    for hidden in ["c7147f6f", "handshaketoken", "path-secret", "hello", "aGVsbG8", "104, 101", "nick name"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
    let text = Call::SendText { to: "414".parse().unwrap(), content: b"hello".to_vec() };
    assert_eq!(format!("{text:?}"), r#"send_msg/text { receiver: User(Uid("414")), content_len: 5 }"#);
}

#[test]
fn the_spool_reads_every_call_back() {
    for (call, _, name) in calls() {
        let stored = postcard::to_stdvec(&call).unwrap();
        assert_eq!(postcard::from_bytes::<Call>(&stored).unwrap(), call, "{name}");
    }
}

#[test]
fn replies_carry_what_the_tables_say() {
    let extra = |fixture: &str| {
        let reply = Reply::decode(fixture.as_bytes()).unwrap();
        assert!(reply.code.is_ok());
        Value::Object(reply.extra)
    };
    assert_eq!(extra(fixture!("reply/3.1-done.json")), json!({}));
    assert_eq!(extra(fixture!("reply/5.4-group-created.json")), json!({"group_id": "4cdad356-85b4-008627"}));
    let groups = extra(fixture!("reply/5.6-group-list.json"));
    assert_eq!(groups["group_list"][1]["group_name"], "聊天 2 群");
    assert_eq!(groups["group_list"][0]["create_time"], "2014-12-13 13:13:13");
    assert_eq!(extra(fixture!("reply/5.9-members.json")), json!({"uid_list": ["414", "415"]}));
    let states = json!({"uid_state_list": [{"uid": "414", "state": 1}, {"uid": "415", "state": 0}]});
    assert_eq!(extra(fixture!("reply/5.10-states.json")), states);
    assert_eq!(extra(fixture!("reply/5.12-user-added.json")), json!({"userid": "417"}));
}

#[test]
fn replies_that_are_no_success() {
    let refused = Reply::decode(fixture!("reply/6-no-such-group.json").as_bytes()).unwrap();
    assert_eq!((refused.code.name(), refused.code.class()), ("no_such_group", Class::Permanent));
    let unlisted = Reply::decode(fixture!("reply/6-unlisted.json").as_bytes()).unwrap();
    assert_eq!((unlisted.code.value(), unlisted.code.name()), (7, "unlisted_code"));
    assert_eq!(unlisted.extra.get("msg"), Some(&json!("?")));
}

#[test]
fn the_token_of_5_1() {
    use secrecy::ExposeSecret as _;
    let grant = TokenGrant::from_reply(&Reply::decode(fixture!("reply/5.1-token.json").as_bytes()).unwrap()).unwrap();
    assert_eq!((grant.access_token.expose_secret(), grant.expires_in), ("b7d8a9e1", 7200));
}
