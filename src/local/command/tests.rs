//! Unseen input is what devices send: every rule for commands, by example.

use std::collections::BTreeSet;

use super::*;
use crate::protocol::{Qos, Receiver};

mod named;

fn base() -> Base {
    "ilink".parse().unwrap()
}

fn rules() -> Rules {
    Rules { allow_calls: Globs::new(["send_msg/*", "ham_topic/*", "ham_group/*", "ham_user/*"]), max_content: 16 }
}

fn raw(topic: &str, payload: &[u8]) -> Result<Call, Reason> {
    match decode(&base(), &format!("ilink/{topic}"), payload, &rules(), &Names::default()) {
        Ok(Parsed::Command(command)) => Ok(command.call),
        Ok(other) => panic!("{other:?}"),
        Err(rejection) => Err(rejection.reason),
    }
}

fn json(name: &str, json: &str) -> Result<Command, Reason> {
    decode_call(name, json.as_bytes(), &rules(), &Names::default()).map_err(|rejection| rejection.reason)
}

fn reference_of(name: &str, json: &str) -> Option<String> {
    match decode_call(name, json.as_bytes(), &rules(), &Names::default()) {
        Ok(command) => command.reference,
        Err(rejection) => rejection.reference,
    }
    .map(|reference| reference.as_json().to_owned())
}

fn text(to: &str, content: &str) -> Call {
    Call::SendText { to: to.parse().unwrap(), content: content.into() }
}

#[test]
fn raw_topics() {
    assert_eq!(raw("send/user/414/text", b"hi"), Ok(text("414", "hi")));
    assert_eq!(
        raw("send/user/a%2fb%25/file", b"\0\xff"),
        Ok(Call::SendFile { to: "a/b%".parse().unwrap(), content: vec![0, 0xff] })
    );
    assert_eq!(raw("send/group/g", b"{}"), Ok(Call::SendGroup { group: "g".parse().unwrap(), content: b"{}".into() }));
    for (levels, subject) in
        [("home/lamp", "home/lamp"), ("a//b", "a//b"), ("a/%2Fb", "a//b"), ("a/", "a/"), ("/a", "/a"), ("/", "/")]
    {
        let call = Call::Publish { subject: subject.parse().unwrap(), content: b"1".into() };
        assert_eq!(raw(&format!("send/topic/{levels}"), b"1"), Ok(call), "{levels}");
    }
    assert_eq!(raw("by/c/send/user/414/text", b"hi"), Ok(text("414", "hi")));
    assert_eq!(raw("by/%zz/send/user/414/text", b"hi"), Ok(text("414", "hi")));
    assert_eq!(raw("by/send/send/user/text/text", b"hi"), Ok(text("text", "hi")));
}

#[test]
fn raw_topics_that_name_nothing() {
    for topic in [
        "send",
        "send/",
        "send/user",
        "send/user/414",
        "send/user/414/Text",
        "send/user/414/text/",
        "send/user/414/text/x",
        "send/user//text",
        "send/user/text",
        "send/user/a/b/text",
        "send/user/%/text",
        "send/user/%4/text",
        "send/user/%zz/text",
        "send/user/%ff/text",
        "send/user/%00/text",
        "send/group",
        "send/group/",
        "send/group/a/b",
        "send/group/a/",
        "send/topic",
        "send/topic/",
        "send/topic/a/%23",
        "send/topic/%2b",
        "send/topic/%00",
        "send/users/414/text",
        "call",
        "call/",
        "call/send_msg",
        "call/send_msg/text/",
        "call/send_msg%2Ftext",
        "call/set_config",
        "call/get_access_token",
        "call/self_test",
        "call/self_test/",
        "call/self_test/a/b",
        "by/c/call/self_test/a",
        "by/c/send",
        "recv/user/1/text",
        "by/c",
    ] {
        assert_eq!(raw(topic, b"{}"), Err(Reason::BadTopic), "{topic}");
    }
    assert!(decode(&base(), "other/send/user/1/text", b"x", &rules(), &Names::default()).is_err());
}

#[test]
fn raw_payloads() {
    for topic in ["send/user/1/text", "send/user/1/file", "send/group/1", "send/topic/a"] {
        assert_eq!(raw(topic, b""), Err(Reason::BadPayload), "{topic}");
        assert!(raw(topic, &[b'x'; 16]).is_ok(), "{topic}");
        assert_eq!(raw(topic, &[b'x'; 17]), Err(Reason::TooLarge), "{topic}");
    }
    // Not parsed, whatever it looks like.
    let rejection =
        decode(&base(), "ilink/send/user/1/text", br#"{"ref":1,"a":"aaaaaaaaaa"}"#, &rules(), &Names::default())
            .unwrap_err();
    assert_eq!(rejection.reference, None);
}

#[test]
fn the_self_test_is_no_command() {
    let parsed = decode(&base(), "ilink/call/self_test/4f2a", b"", &rules(), &Names::default());
    assert_eq!(parsed, Ok(Parsed::SelfTest("4f2a".to_owned())));
}

#[test]
fn every_call() {
    let uids = || vec!["1".parse().unwrap(), "2".parse().unwrap()];
    let (to, group, subject) =
        (|| "414".parse().unwrap(), || "g".parse().unwrap(), || "a//b".parse::<crate::protocol::Subject>().unwrap());
    let content = || b"hi".to_vec();
    let mut named = BTreeSet::new();
    for (payload, call) in [
        (r#"{"accept_uid":"414","content":"hi"}"#, Call::SendText { to: to(), content: content() }),
        (r#"{"accept_uid":414,"content":"hi"}"#, Call::SendFile { to: to(), content: content() }),
        (r#"{"content":"hi","group_id":"g"}"#, Call::SendGroup { group: group(), content: content() }),
        (r#"{"subject":"a//b","content":"hi"}"#, Call::Publish { subject: subject(), content: content() }),
        (r#"{"subject":"a//b"}"#, Call::SubscribeTopic { subject: subject(), qos: Qos::AtLeastOnce }),
        (r#"{"subject":"a//b","qos":0}"#, Call::SubscribeTopic { subject: subject(), qos: Qos::AtMostOnce }),
        (r#"{"subject":"a//b","qos":1}"#, Call::SubscribeTopic { subject: subject(), qos: Qos::AtLeastOnce }),
        (r#"{"subject":"a//b","qos":2}"#, Call::SubscribeTopic { subject: subject(), qos: Qos::ExactlyOnce }),
        (r#"{"subject":"a//b"}"#, Call::UnsubscribeTopic { subject: subject() }),
        (r#"{"group_name":"n","uid_list":["1",2]}"#, Call::CreateGroup { name: "n".into(), members: uids() }),
        (r#"{"group_id":"g"}"#, Call::DeleteGroup { group: group() }),
        ("{}", Call::ListGroups),
        (r#"{"group_id":"g","uid_list":["1","2"]}"#, Call::AddMembers { group: group(), members: uids() }),
        (r#"{"group_id":"g","uid_list":[1,2]}"#, Call::RemoveMembers { group: group(), members: uids() }),
        (r#"{"group_id":"g"}"#, Call::GroupMembers { group: group() }),
        (r#"{"uid_list":["1","2"]}"#, Call::UserStates { uids: uids() }),
        (r#"{"uid_list":["1","2"]}"#, Call::SubscribePresence { uids: uids() }),
        (r#" {"uid_list" : ["1", "2"]} "#, Call::UnsubscribePresence { uids: uids() }),
        (r#"{"username":"u","nickname":"n"}"#, Call::AddUser { username: "u".into(), nickname: "n".into() }),
    ] {
        let name = call.name();
        named.insert(name);
        let all = Rules { allow_calls: Globs::all(), ..rules() };
        let topic = format!("ilink/by/c/call/{name}");
        let command = |payload: &str| decode(&base(), &topic, payload.as_bytes(), &all, &Names::default());
        let expected = Command { call, reference: None, ttl: None };
        assert_eq!(command(payload), Ok(Parsed::Command(expected)), "{name}");
        // Typos are noticed, and each call knows only its own fields.
        let more = |field: &str| {
            payload.trim_end().trim_end_matches('}').to_owned() + if payload == "{}" { "" } else { "," } + field
        };
        for field in [r#""x":1}"#, r#""ref ":1}"#, r#""send_uid":"1"}"#] {
            assert_eq!(command(&more(field)).unwrap_err().reason, Reason::BadPayload, "{name}");
        }
        assert!(command(&more(r#""ref":1,"ttl":5}"#)).is_ok(), "{name}");
        if payload != "{}" {
            assert_eq!(command("{}").unwrap_err().reason, Reason::BadPayload, "{name}");
            for empty in ["", " \n", "\u{feff}"] {
                let refused = command(empty).unwrap_err();
                assert_eq!(refused.reason, Reason::BadPayload, "{name}");
                assert!(refused.message.contains("is empty"), "{name}: {}", refused.message);
            }
        }
    }
    assert_eq!(named, Call::NAMES.into());
    assert_eq!(json("ham_group/list", "").map(|command| command.call), Ok(Call::ListGroups));
}

#[test]
fn payloads_that_are_no_object() {
    for payload in [
        " ",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{",
        "{}}",
        "{},",
        "{\"a\":}",
        "{'a':1}",
        "\u{feff}",
        "{\u{feff}}",
        "{}x",
        "[{}]",
    ] {
        assert_eq!(json("ham_group/list", payload), Err(Reason::BadPayload), "{payload}");
    }
    let rejection = decode_call("ham_group/list", b"{\"ref\":\"\xff\"}", &rules(), &Names::default()).unwrap_err();
    assert_eq!((rejection.reason, rejection.reference), (Reason::BadPayload, None));
}

#[test]
fn what_editors_and_c_strings_leave_around_the_object_is_skipped() {
    for payload in ["\u{feff}{}", "{}\0", " \u{feff}\n{}\r\n\0\0"] {
        assert_eq!(json("ham_group/list", payload).map(|command| command.call), Ok(Call::ListGroups), "{payload:?}");
    }
    let marked = "\u{feff}{\"accept_uid\":\"1\",\"content\":\"\u{feff}a\",\"ref\":1}";
    assert_eq!(reference_of("send_msg/text", marked).as_deref(), Some("1"));
    assert_eq!(json("send_msg/text", marked).map(|command| command.call), Ok(text("1", "\u{feff}a")));
}

#[test]
fn fields_twice_are_refused() {
    for payload in [
        r#"{"accept_uid":"1","content":"a","content":"a"}"#,
        r#"{"accept_uid":"1","accept_uid":"1","content":"a"}"#,
        r#"{"accept_uid":"1","content":"a","\u0063ontent":"a"}"#,
        r#"{"accept_uid":"1","content":"a","ref":1,"ref":1}"#,
        r#"{"accept_uid":"1","content":"a","ttl":1,"ttl":1}"#,
    ] {
        assert_eq!(json("send_msg/text", payload), Err(Reason::BadPayload), "{payload}");
    }
}

#[test]
fn ids_in_json() {
    let to = |id: &str| json("send_msg/text", &format!(r#"{{"accept_uid":{id},"content":"a"}}"#)).map(|c| c.call);
    for (id, uid) in
        [("413", "413"), (r#""a/b#""#, "a/b#"), ("123456789012345678901234567890", "123456789012345678901234567890")]
    {
        assert_eq!(to(id), Ok(text(uid, "a")));
    }
    for id in ["\"\"", "null", "true", "[]", "{}", "[\"1\"]", "1.5", "1e3", r#""\u0000""#, r#""\ud800""#] {
        assert_eq!(to(id), Err(Reason::BadPayload), "{id}");
    }
    for list in ["[]", "\"1\"", "1", "null", "[\"\"]", "[null]", "[[\"1\"]]", "[1,true]", "{}"] {
        assert_eq!(json("ham_user/states", &format!(r#"{{"uid_list":{list}}}"#)), Err(Reason::BadPayload), "{list}");
    }
}

#[test]
fn subjects_in_json() {
    for subject in ["", "#", "a/+", "a#", "a\\u0000"] {
        for name in ["ham_topic/subscribe", "ham_topic/unsubscribe"] {
            assert_eq!(json(name, &format!(r#"{{"subject":"{subject}"}}"#)), Err(Reason::BadPayload), "{subject}");
        }
        let publish = format!(r#"{{"subject":"{subject}","content":"a"}}"#);
        assert_eq!(json("ham_topic/publish", &publish), Err(Reason::BadPayload), "{subject}");
    }
    // A subject is not escaped in JSON.
    let command = json("ham_topic/unsubscribe", r#"{"subject":"a%2Fb"}"#).unwrap();
    assert_eq!(command.call.receiver(), Some(Receiver::Subject("a%2Fb".parse().unwrap())));
    for qos in ["3", "-1", "1.0", "\"1\"", "null", "true"] {
        let payload = format!(r#"{{"subject":"a","qos":{qos}}}"#);
        assert_eq!(json("ham_topic/subscribe", &payload), Err(Reason::BadPayload), "{qos}");
    }
    assert_eq!(json("ham_topic/unsubscribe", r#"{"subject":"a","qos":1}"#), Err(Reason::BadPayload));
}

#[test]
fn content_in_json() {
    let send = |fields: &str| json("send_msg/text", &format!(r#"{{"accept_uid":"1",{fields}}}"#)).map(|c| c.call);
    assert_eq!(send(r#""content":"aGk=""#), Ok(text("1", "aGk=")));
    assert_eq!(send(r#""content":"aGk=","encoding":"utf8""#), Ok(text("1", "aGk=")));
    assert_eq!(send(r#""encoding":"base64","content":"aGk=""#), Ok(text("1", "hi")));
    assert_eq!(send(r#""content":"\u5f00\n\u0000""#), Ok(text("1", "开\n\0")));
    for written in ["21.5", "-0", "1.50e+3", "1234567890123456", "true", "false"] {
        assert_eq!(send(&format!(r#""content": {written} "#)), Ok(text("1", written)), "{written}");
    }
    assert_eq!(send(r#""encoding":"base64","content":2024"#), send(r#""encoding":"base64","content":"2024""#));
    assert_eq!(send(r#""content":12345678901234567"#), Err(Reason::TooLarge));
    for fields in [
        r#""content":"""#,
        r#""content":"","encoding":"base64""#,
        r#""content":null"#,
        r#""content":[]"#,
        r#""content":{}"#,
        r#""encoding":"utf8""#,
        r#""content":"a","encoding":"hex""#,
        r#""content":"a","encoding":"Base64""#,
        r#""content":"a","encoding":null"#,
        r#""content":"aGk","encoding":"base64""#,
        r#""content":"aGk=\n","encoding":"base64""#,
        r#""content":"aGl=","encoding":"base64""#,
        r#""content":"-_-_","encoding":"base64""#,
        r#""content":"hello!","encoding":"base64""#,
        r#""content":"\ud800""#,
    ] {
        assert_eq!(send(fields), Err(Reason::BadPayload), "{fields}");
    }
    // What counts is the decoded size.
    let (full, over) = ("x".repeat(16), "x".repeat(17));
    assert!(send(&format!(r#""content":"{full}""#)).is_ok());
    assert_eq!(send(&format!(r#""content":"{over}""#)), Err(Reason::TooLarge));
    assert!(send(r#""encoding":"base64","content":"MDEyMzQ1Njc4OWFiY2RlZg==""#).is_ok());
    assert_eq!(send(r#""encoding":"base64","content":"MDEyMzQ1Njc4OWFiY2RlZmc=""#), Err(Reason::TooLarge));
}

#[test]
fn references_are_echoed_as_they_were_written() {
    for mark in ["1.0", "-0", "1e400", "12345678901234567890123", r#""\u0041""#, r#""a\/b""#, r#""""#, r#""开""#] {
        let payload = format!(r#"{{ "ref" : {mark} }}"#);
        assert_eq!(reference_of("ham_group/list", &payload).as_deref(), Some(mark));
        // Also where the command is refused, whatever for.
        assert_eq!(reference_of("ham_group/nothing", &payload).as_deref(), Some(mark));
        assert_eq!(reference_of("ham_group/delete", &payload).as_deref(), Some(mark));
        assert_eq!(reference_of("ham_add_user", &payload).as_deref(), Some(mark));
        let read = reference(&base(), "ilink/by/c/call/x", payload.as_bytes());
        assert_eq!(read.as_ref().map(Reference::as_json), Some(mark));
        assert_eq!(reference(&base(), "ilink/send/group/1", payload.as_bytes()), None);
    }
    let long = "a".repeat(256);
    for mark in [format!("\"{long}\""), format!("\"{}\"", "\\u0041".repeat(256)), "1".repeat(256)] {
        assert_eq!(reference_of("ham_group/list", &format!(r#"{{"ref":{mark}}}"#)), Some(mark));
    }
    for mark in [format!("\"{long}a\""), "1".repeat(257), format!("\"{}\"", "开".repeat(86))] {
        assert_eq!(json("ham_group/list", &format!(r#"{{"ref":{mark}}}"#)), Err(Reason::BadPayload));
    }
    for mark in ["null", "true", "[]", "{}", "[1]", r#""\ud800""#] {
        let payload = format!(r#"{{"ref":{mark}}}"#);
        assert_eq!(json("ham_group/list", &payload), Err(Reason::BadPayload), "{mark}");
        assert_eq!(reference_of("ham_group/list", &payload), None, "{mark}");
    }
}

#[test]
fn times_to_live() {
    let ttl = |ttl: &str| json("ham_group/list", &format!(r#"{{"ttl":{ttl}}}"#)).map(|command| command.ttl);
    assert_eq!(ttl("1"), Ok(Some(1)));
    assert_eq!(ttl("2592000"), Ok(Some(2_592_000)));
    for bad in ["0", "2592001", "-1", "1.5", "60.0", "1e2", "\"60\"", "null", "true", "99999999999999999999999"] {
        assert_eq!(ttl(bad), Err(Reason::BadPayload), "{bad}");
    }
}

#[test]
fn permissions_come_before_payloads_and_after_topics() {
    for payload in ["", "junk", "{}"] {
        assert_eq!(json("ham_add_user", payload), Err(Reason::NotAllowed), "{payload}");
    }
    assert_eq!(json("ham_nothing", "{}"), Err(Reason::BadTopic));
    let user_only = Rules { allow_calls: Globs::new(["send_msg/text", "ham_user/*"]), ..rules() };
    let reason = |topic: &str| match decode(&base(), topic, b"", &user_only, &Names::default()) {
        Err(rejection) => rejection.reason,
        Ok(parsed) => panic!("{parsed:?}"),
    };
    assert_eq!(reason("ilink/send/user/1/text"), Reason::BadPayload);
    assert_eq!(reason("ilink/send/user/1/file"), Reason::NotAllowed);
    assert_eq!(reason("ilink/send/topic/a"), Reason::NotAllowed);
    assert_eq!(reason("ilink/send/topic/%23"), Reason::BadTopic);
    assert_eq!(reason("ilink/call/ham_group/list"), Reason::NotAllowed);
    let none = Globs::new(Vec::<String>::new());
    assert!(!none.allow("send_msg/text"));
    assert!(Globs::new(["ham_group/?ist"]).allow("ham_group/list") && Globs::all().allow("ham_add_user"));
}

#[test]
fn messages_say_what_is_allowed_and_hold_no_content() {
    let message =
        |name, json: &str| decode_call(name, json.as_bytes(), &rules(), &Names::default()).unwrap_err().message;
    let typo = message("send_msg/text", r#"{"acept_uid":"1","content":"secret"}"#);
    assert_eq!(typo, r#"unknown field "acept_uid"; allowed are accept_uid, content, encoding, ref, ttl"#);
    assert!(!message("send_msg/text", r#""secret""#).contains("secret"));
    let long = message("ham_group/list", &format!(r#"{{"{}":1}}"#, "开\n".repeat(100_000)));
    assert!(long.len() < 500, "{}", long.len());
    assert!(message(&"x".repeat(60_000), "{}").len() < 500);
}
