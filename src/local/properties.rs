//! What holds for every input: nothing panics, what goes out is publishable, what was encoded is decoded again.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::command::{decode, decode_call};
use super::escape::is_unsendable;
use super::filter::{MAX_SLASHES, MAX_STRING};
use super::*;
use crate::protocol::{Call, Content, GroupId, Kind, Message, Push, Subject, Uid, content};

fn base() -> Base {
    "home/ilink".parse().unwrap()
}

fn rules() -> Rules {
    Rules { allow_calls: Globs::all(), max_content: 1000 }
}

/// Ids as they should never be, but could.
fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9]{1,6}", "(?s).{1,8}", "[/+#%$\0\n a\u{fffe}]{1,6}"]
}

/// Topics near those that mean something.
fn topic() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        prop_oneof![
            Just("send"),
            Just("call"),
            Just("by"),
            Just("user"),
            Just("group"),
            Just("topic"),
            Just("text"),
            Just("file"),
            Just("self_test"),
            Just("send_msg"),
            Just("ham_group"),
            Just("list"),
            Just("")
        ]
        .prop_map(str::to_owned),
        "[%0-9a-f]{0,4}",
        "[^/]{0,4}",
    ];
    proptest::collection::vec(level, 0..7).prop_map(|levels| format!("home/ilink/{}", levels.join("/")))
}

/// JSON objects near those that are calls.
fn call_json() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("\"1\""),
        Just("1"),
        Just("\"\""),
        Just("null"),
        Just("[\"1\",2]"),
        Just("[]"),
        Just("\"base64\""),
        Just("\"aGk=\""),
        Just("1e9"),
        Just("{\"a\":[1]}"),
        Just("\"\\ud800\"")
    ];
    let key = prop_oneof![
        Just("accept_uid"),
        Just("group_id"),
        Just("subject"),
        Just("content"),
        Just("encoding"),
        Just("qos"),
        Just("group_name"),
        Just("uid_list"),
        Just("username"),
        Just("nickname"),
        Just("ref"),
        Just("ttl"),
        Just("x")
    ];
    proptest::collection::vec((key, value), 0..5).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

fn assert_publishable(topic: &str) {
    assert!(
        topic.starts_with("home/ilink/") && !topic.contains(['+', '#']) && !topic.contains(is_unsendable),
        "{topic:?}"
    );
    assert!(topic.split('/').all(|level| !level.is_empty()), "{topic:?}");
}

proptest! {
    #[test]
    fn any_message_on_a_command_topic_is_a_command_or_a_rejection(
        topic in topic(),
        payload in prop_oneof![call_json().prop_map(String::into_bytes), any::<Vec<u8>>()],
    ) {
        let result = base().result(&topic);
        match decode(&base(), &topic, &payload, &rules(), &Names::default()) {
            Ok(Parsed::Command(command)) => {
                prop_assert!(result.is_some());
                prop_assert!(command.call.content().is_none_or(|content| (1..=1000).contains(&content.len())));
                // What the spool stores is what was asked for.
                let stored = postcard::to_stdvec(&command).unwrap();
                prop_assert_eq!(postcard::from_bytes::<Command>(&stored).unwrap(), command);
            }
            Ok(Parsed::SelfTest(random)) => prop_assert_eq!(base().self_test(&random), topic),
            Err(rejection) => {
                prop_assert!(!rejection.message.is_empty() && rejection.message.len() < 600);
                let result = CommandResult::rejected(Ulid::nil(), rejection, 0);
                prop_assert!(serde_json::from_slice::<Value>(&result.to_json()).is_ok());
            }
        }
    }

    // Whatever a broker lets through: the result of a command can be published, and the bridge does not hear it.
    #[test]
    fn every_command_can_be_answered(
        head in prop_oneof![Just("send/topic/"), Just("call/"), Just("by/c/send/user/"), Just("by/"), Just("send")],
        level in "(?s)[^/]{0,5}|[a+#\u{1}\u{fffe}/]{1,4}", times in prop_oneof![0usize..8, 190usize..210, 5000usize..22_000],
        slash: bool,
    ) {
        let levels = if slash { format!("{level}/").repeat(times) } else { level.repeat(times) };
        let topic = format!("home/ilink/{head}{levels}send/x");
        if let Some(topics) = base().result(&topic) {
            for answer in [Some(topics.result), topics.ack].into_iter().flatten() {
                prop_assert!(answer.len() <= MAX_STRING && answer.matches('/').count() <= MAX_SLASHES);
                prop_assert!(!answer.contains(['+', '#']) && !answer.contains(is_unsendable));
                prop_assert!(answer.starts_with("home/ilink/result/") || answer.starts_with("home/ilink/by/"));
                prop_assert!(base().result(&answer).is_none(), "the bridge would hear itself");
            }
        }
    }

    #[test]
    fn any_json_is_a_call_or_a_rejection(name in proptest::sample::select(&Call::NAMES[..]), json in call_json()) {
        match decode_call(name, json.as_bytes(), &rules(), &Names::default()) {
            Ok(command) => prop_assert_eq!(command.call.name(), name),
            Err(rejection) => prop_assert!(matches!(rejection.reason, Reason::BadPayload | Reason::TooLarge)),
        }
    }

    #[test]
    fn what_comes_in_on_a_topic_can_be_answered_on_it(uid in id(), group in id(), subject in id()) {
        let (uid, group) = (uid.replace('\0', "0"), group.replace('\0', "0"));
        let subject = subject.replace(['\0', '+', '#'], "/");
        let answer = |topic: String| {
            let topic = topic.replace("/recv/", "/send/");
            match decode(&base(), &topic, b"x", &rules(), &Names::default()) {
                Ok(Parsed::Command(command)) => command.call,
                other => panic!("{topic}: {other:?}"),
            }
        };
        let content = Content { bytes: b"x".to_vec(), not_base64: false };
        let (from, time): (Uid, _) = (uid.parse().unwrap(), None);
        let (group, subject): (GroupId, Subject) = (group.parse().unwrap(), subject.parse().unwrap());
        let text = Message::Text { from: from.clone(), content: content.clone(), time };
        let file = Message::File { from: from.clone(), content: content.clone(), time };
        let said = Message::Group { from: from.clone(), group: group.clone(), content: content.clone(), time };
        let topic = Message::Topic { from: None, subject: subject.clone(), content, time };
        let recv = |message| base().recv(message).unwrap();
        let (to, content) = (from, b"x".to_vec());
        prop_assert_eq!(answer(recv(&text)), Call::SendText { to: to.clone(), content: content.clone() });
        prop_assert_eq!(answer(recv(&file)), Call::SendFile { to, content: content.clone() });
        let (in_group, _) = recv(&said).rsplit_once('/').map(|(topic, uid)| (topic.to_owned(), uid.to_owned())).unwrap();
        prop_assert_eq!(answer(in_group), Call::SendGroup { group, content: content.clone() });
        prop_assert_eq!(answer(recv(&topic)), Call::Publish { subject, content });
    }

    #[test]
    fn raw_and_json_ask_for_the_same_call(uid in id(), content in "(?s).{1,40}") {
        let uid = uid.replace('\0', "0");
        // Else it would be a name.
        let written = if uid.starts_with('@') { format!("@{uid}") } else { uid.clone() };
        let json = json!({ "accept_uid": written, "content": content, "ref": uid.len() }).to_string();
        let command = decode_call("send_msg/text", json.as_bytes(), &rules(), &Names::default()).unwrap();
        let topic = format!("home/ilink/by/c/send/user/{}/text", escape::escape_id(&uid));
        match decode(&base(), &topic, content.as_bytes(), &rules(), &Names::default()) {
            Ok(Parsed::Command(raw)) => prop_assert_eq!(raw.call, command.call),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn every_push_becomes_publishable_messages_with_one_id(
        from in id(), group in id(), to in id(), bytes in any::<Vec<u8>>(), text in ".*",
        msg_type in 0u8..6, fields in any::<[bool; 6]>(), output in 0usize..3, flags in any::<[bool; 3]>(),
    ) {
        let encoded = if fields[4] { content::encode(&bytes) } else { text };
        let all = json!({
            "from_uid": from, "to_uid": to, "group_id": group, "content": encoded, "msg_type": msg_type,
            "type": msg_type % 2, "time": 5, "create_time": 6,
        });
        let keep = |key: &str| match key {
            "from_uid" => fields[0] || fields[5],
            "to_uid" => fields[1],
            "group_id" => fields[2],
            "content" => fields[3],
            "type" => !fields[3],
            _ => true,
        };
        let all = all.as_object().unwrap().clone();
        let body: Map<String, Value> = all.into_iter().filter(|(key, _)| keep(key)).collect();
        let push = Push::decode(Value::Object(body.clone()).to_string().as_bytes()).unwrap();
        let received = Received { id: Ulid::from_parts(7, 8), received_at: "t".to_owned() };
        let output = [Output::Both, Output::Raw, Output::Json][output];
        let (late, not_allowed, stale) = (flags[0], flags[1], flags[2] && push.message.kind() == Kind::Presence);
        let deadline = Some(Duration::from_secs(1));
        let flags = Flags { late, not_allowed };
        let publications = publications(Shape { base: &base(), output, names: &Names::default() }, &push, &received, flags, stale, deadline);

        let nothing = output == Output::Raw && push.message.kind() == Kind::Other && !not_allowed;
        prop_assert_eq!(publications.is_empty(), nothing);
        for publication in &publications {
            assert_publishable(&publication.topic);
            prop_assert!(base().result(&publication.topic).is_none(), "the bridge would hear itself");
            prop_assert_eq!(publication.user_properties[0].clone(), ("id", received.id.to_string()));
            prop_assert!(publication.user_properties.iter().all(|(_, value)| !value.contains(is_unsendable)));
            prop_assert_eq!(publication.retain, publication.topic.starts_with("home/ilink/presence/"));
            if publication.utf8 {
                prop_assert!(std::str::from_utf8(&publication.payload).is_ok());
            }
            if publication.topic.starts_with("home/ilink/recv/") {
                prop_assert!(!late && !not_allowed && output != Output::Json);
                prop_assert_eq!(&publication.payload[..], &push.message.content().unwrap().bytes[..]);
                prop_assert_eq!(publication.deadline, deadline);
            }
        }

        // The envelope says what the push says.
        let envelope: Value = serde_json::from_slice(&envelope_json(&push, &received, flags, &Names::default())).unwrap();
        let from = push.message.from_uid().map(Uid::as_str);
        prop_assert_eq!(envelope.get("from_uid").and_then(Value::as_str), from);
        if let Some(content) = push.message.content() {
            let text = envelope["content"].as_str().unwrap();
            let bytes = match envelope["encoding"].as_str().unwrap() {
                "utf8" => text.as_bytes().to_vec(),
                _ => content::decode(text).bytes,
            };
            prop_assert_eq!(&bytes, &content.bytes);
        }
        if push.message.kind() == Kind::Other {
            prop_assert_eq!(envelope["body"].clone(), Value::Object(body));
        }
    }

    #[test]
    fn results_survive_the_spool(
        mark in proptest::option::of(prop_oneof![
            "-?[1-9][0-9]{0,20}(\\.[0-9]{1,3})?(e[0-9]{1,3})?",
            ".{0,20}".prop_map(|text| json!(text).to_string()),
        ]),
        code in proptest::option::of(any::<i64>()), message in "(?s).*", key in ".*", value in any::<i64>(),
        attempts: u32, elapsed_ms: u64, id: u128, status in 0usize..5,
    ) {
        let status = [Status::Ok, Status::Error, Status::Expired, Status::Uncertain, Status::Rejected][status];
        let result = CommandResult {
            id: Ulid(id), reference: mark.as_deref().map(Reference::new), status, code, name: "n".into(), message,
            data: Map::from_iter([(key, json!(value))]), attempts, elapsed_ms,
        };
        prop_assert_eq!(CommandResult::from_json(&result.to_json()).unwrap(), result);
    }

    #[test]
    fn any_response_topic_can_be_tried(
        topic in prop_oneof![topic(), "(?s).*"],
        filter in prop_oneof![topic(), Just("#".to_owned())],
    ) {
        let filters = [filter, "home/ilink/reply/#".to_owned()];
        if response_topic_allowed(&topic, &base(), "homeassistant", &filters).is_ok() {
            prop_assert!(base().result(&topic).is_none() && !topic.is_empty() && !topic.contains(['+', '#', '$', '\0']));
        }
    }
}
