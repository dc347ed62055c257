//! Names where ids may stand.

use super::*;
use crate::protocol::Receiver;

fn names() -> Names {
    let mut names = Names::default();
    names.add("ann", Receiver::User("413".parse().unwrap())).unwrap();
    names.add("张三", Receiver::User("411".parse().unwrap())).unwrap();
    names.add("family", Receiver::Group("g/1".parse().unwrap())).unwrap();
    names.add("lamp", Receiver::Subject("home/lamp".parse().unwrap())).unwrap();
    names
}

fn named(topic: &str, payload: &str) -> Result<Call, Rejection> {
    match decode(&base(), &format!("ilink/{topic}"), payload.as_bytes(), &rules(), &names())? {
        Parsed::Command(command) => Ok(command.call),
        Parsed::SelfTest(_) => panic!("{topic}"),
    }
}

#[test]
fn names_in_topics() {
    for (topic, same) in [
        ("send/user/@ann/text", "send/user/413/text"),
        ("send/user/@ann/file", "send/user/413/file"),
        ("send/user/@张三/text", "send/user/411/text"),
        ("send/user/@%E5%BC%A0%E4%B8%89/text", "send/user/411/text"),
        ("send/group/@family", "send/group/g%2F1"),
        ("send/topic/@lamp", "send/topic/home/lamp"),
        ("by/c/send/user/@ann/text", "send/user/413/text"),
        // No names.
        ("send/topic/home/@lamp", "send/topic/home%2F@lamp"),
        ("send/user/a@ann/text", "send/user/a%40ann/text"),
    ] {
        let call = named(topic, "x").unwrap();
        assert_eq!(call, named(same, "x").unwrap(), "{topic}");
        assert_eq!(call.receiver(), named(same, "x").unwrap().receiver(), "their lane is the id's");
    }
    assert_eq!(raw("send/user/%40ann/text", b"x"), Ok(text("@ann", "x")));
    assert_eq!(named("send/user/%40ann/text", "x"), Ok(text("@ann", "x")));
    for (topic, says) in [
        ("send/user/@an/text", "did you mean @ann?"),
        ("send/user/@/text", "no name @;"),
        ("send/user/@family/text", "@family is a group"),
        ("send/group/@ann", "@ann is a user"),
        ("send/topic/@lamp/x", "no name @lamp/x"),
        ("send/user/@%zz/text", "hex"),
    ] {
        let rejection = named(topic, "x").unwrap_err();
        assert_eq!(rejection.reason, Reason::BadTopic, "{topic}");
        assert!(rejection.message.contains(says), "{topic}: {}", rejection.message);
    }
}

#[test]
fn names_in_calls() {
    for (call, json, same) in [
        ("send_msg/text", r#"{"accept_uid":"@ann","content":"x"}"#, r#"{"accept_uid":413,"content":"x"}"#),
        ("send_msg/group", r#"{"group_id":"@family","content":"x"}"#, r#"{"group_id":"g/1","content":"x"}"#),
        ("ham_topic/publish", r#"{"subject":"@lamp","content":"x"}"#, r#"{"subject":"home/lamp","content":"x"}"#),
        ("ham_topic/subscribe", r#"{"subject":"@lamp"}"#, r#"{"subject":"home/lamp"}"#),
        ("ham_user/states", r#"{"uid_list":["@ann",7,"@张三"]}"#, r#"{"uid_list":[413,7,411]}"#),
        (
            "ham_group/add_members",
            r#"{"group_id":"@family","uid_list":["@ann"]}"#,
            r#"{"group_id":"g/1","uid_list":["413"]}"#,
        ),
    ] {
        let call = |json: &str| named(&format!("call/{call}"), json).unwrap();
        assert_eq!(call(json), call(same), "{json}");
    }
    assert_eq!(named("call/send_msg/text", r#"{"accept_uid":"@@ann","content":"x"}"#), Ok(text("@ann", "x")));
    // What is said is not an id.
    assert_eq!(named("call/send_msg/text", r#"{"accept_uid":"1","content":"@ann"}"#), Ok(text("1", "@ann")));
    for (call, json, says) in [
        (
            "send_msg/text",
            r#"{"accept_uid":"@an","content":"x"}"#,
            "accept_uid: there is no name @an; did you mean @ann?",
        ),
        ("send_msg/group", r#"{"group_id":"@ann","content":"x"}"#, "group_id: @ann is a user"),
        ("ham_user/states", r#"{"uid_list":["413","@lamp"]}"#, "uid_list: @lamp is a subject"),
    ] {
        let rejection = named(&format!("call/{call}"), json).unwrap_err();
        assert_eq!(rejection.reason, Reason::BadPayload, "{json}");
        assert!(rejection.message.contains(says), "{json}: {}", rejection.message);
    }
}
