//! What holds for every input: nothing from outside panics, every JSON object is a push, and what is written is read back.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9]{1,20}", "[a-f0-9]{8}-[0-9]{6}", "(?s).{1,12}"]
}

fn uid() -> impl Strategy<Value = Uid> {
    id().prop_map(|id| Uid::try_from(id).unwrap())
}

fn group() -> impl Strategy<Value = GroupId> {
    id().prop_map(|id| GroupId::try_from(id).unwrap())
}

fn subject() -> impl Strategy<Value = Subject> {
    id().prop_map(|id| Subject::try_from(id).unwrap())
}

fn call() -> impl Strategy<Value = Call> {
    let content = || any::<Vec<u8>>();
    let uids = || vec(uid(), 0..4);
    let qos = (0_u8..3).prop_map(|level| Qos::try_from(level).unwrap());
    prop_oneof![
        (uid(), content()).prop_map(|(to, content)| Call::SendText { to, content }),
        (uid(), content()).prop_map(|(to, content)| Call::SendFile { to, content }),
        (group(), content()).prop_map(|(group, content)| Call::SendGroup { group, content }),
        (subject(), content()).prop_map(|(subject, content)| Call::Publish { subject, content }),
        (subject(), qos).prop_map(|(subject, qos)| Call::SubscribeTopic { subject, qos }),
        subject().prop_map(|subject| Call::UnsubscribeTopic { subject }),
        (any::<String>(), uids()).prop_map(|(name, members)| Call::CreateGroup { name, members }),
        group().prop_map(|group| Call::DeleteGroup { group }),
        Just(Call::ListGroups),
        (group(), uids()).prop_map(|(group, members)| Call::AddMembers { group, members }),
        (group(), uids()).prop_map(|(group, members)| Call::RemoveMembers { group, members }),
        group().prop_map(|group| Call::GroupMembers { group }),
        uids().prop_map(|uids| Call::UserStates { uids }),
        uids().prop_map(|uids| Call::SubscribePresence { uids }),
        uids().prop_map(|uids| Call::UnsubscribePresence { uids }),
        any::<(String, String)>().prop_map(|(username, nickname)| Call::AddUser { username, nickname }),
    ]
}

fn account() -> Account {
    Account { appkey: "A".to_owned(), secretkey: "S".into(), uid: "413".parse().unwrap(), presence_action: 2 }
}

/// Any JSON value, at most a few levels deep.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any::<String>(), inner), 0..4).prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// An object whose keys are mostly those that matter, with and without stray spaces.
fn pushed_object() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        8 => prop::sample::select(vec!["from_uid", "to_uid", "group_id", "msg_type", "content", "create_time", "time", "type"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["content ", " type", "\tgroup_id"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        2 => (0_i64..6).prop_map(Value::from),
        2 => id().prop_map(Value::from),
        1 => prop::sample::select(vec!["", "1", "aGVsbG8="]).prop_map(Value::from),
        2 => json_value(),
    ];
    vec((key, value), 0..10).prop_map(|fields| Value::Object(Map::from_iter(fields)))
}

/// `value` as the wire may have it: as it is, or a number as a string, or a string of digits as a number.
fn loosely(value: &str, as_number: bool) -> Value {
    match value.parse::<u64>() {
        Ok(number) if as_number && number.to_string() == value => number.into(),
        _ => value.into(),
    }
}

proptest! {
    #[test]
    fn no_push_panics(body: Vec<u8>) {
        let _ = Push::decode(&body);
    }

    #[test]
    fn no_text_in_braces_panics(text in r#"\{["\\{}\[\]:,0-9eE+.\-a-z \u{d7ff}]{0,40}\}"#) {
        let _ = Push::decode(text.as_bytes());
    }

    #[test]
    fn every_json_object_is_some_push_and_nothing_else_is(object in pushed_object(), value in json_value()) {
        let text = object.to_string();
        let push = Push::decode(text.as_bytes()).unwrap();
        if let Message::Other { object, bytes } = push.message {
            prop_assert_eq!((object.map(|object| object.to_string()), bytes), (Some(text), None));
        }
        prop_assert_eq!(Push::decode(value.to_string().as_bytes()).is_ok(), value.is_object());
    }

    #[test]
    fn a_heading_is_what_decoding_finds(object in pushed_object(), bytes: Vec<u8>, at: prop::sample::Index) {
        let whole = object.to_string().into_bytes();
        let mut spoilt = whole.clone();
        spoilt.splice(at.index(whole.len() + 1)..at.index(whole.len() + 1), bytes);
        for body in [whole, spoilt] {
            let decoded = Push::decode(&body).map(|push| (push.message.kind(), push.to_uid));
            prop_assert_eq!(Push::heading(&body), decoded);
        }
    }

    #[test]
    fn what_stands_around_a_push_changes_nothing(
        object in pushed_object(), before in "[\\x00 \t\r\n\u{feff}]{0,4}", after in "[\\x00 \t\r\n\u{feff}]{0,4}",
    ) {
        let text = object.to_string();
        let wrapped = format!("{before}{text}{after}");
        let (plain, wrapped) = (Push::decode(text.as_bytes()).unwrap(), Push::decode(wrapped.as_bytes()).unwrap());
        prop_assert_eq!(format!("{plain:?}"), format!("{wrapped:?}"));
    }

    #[test]
    fn a_spoilt_push_is_a_push(object in pushed_object(), spoilt in vec(0x80_u8.., 1..9), at: prop::sample::Index) {
        let text = object.to_string().into_bytes();
        // Right behind a quote that opens a string: the key's, or the content's.
        let quotes: Vec<_> = (1..text.len()).filter(|n| matches!(&text[n - 1..=*n], b"{\"" | b":\"")).collect();
        prop_assume!(!quotes.is_empty());
        let mut body = text.clone();
        let behind = quotes[at.index(quotes.len())] + 1;
        body.splice(behind..behind, spoilt);
        // A quote of a string's own content opens none.
        if serde_json::from_slice::<Map<String, Value>>(String::from_utf8_lossy(&body).as_bytes()).is_ok() {
            prop_assert!(Push::decode(&body).is_ok());
        }
    }

    #[test]
    fn a_cut_push_is_no_push(object in pushed_object(), at: prop::sample::Index) {
        let text = object.to_string();
        prop_assert!(Push::decode(&text.as_bytes()[..at.index(text.len())]).is_err());
    }

    #[test]
    fn messages_come_back(
        from in id(), to in id(), group in proptest::option::of(id()), content: Vec<u8>, time: u32, msg_type in 1_u8..5,
        numbers: bool, pad in prop::sample::select(vec!["", " ", "\t"]),
    ) {
        let mut object = json!({"content": content::encode(&content), "from_uid": loosely(&from, numbers)});
        object["to_uid"] = loosely(&to, numbers);
        object[format!("{pad}create_time")] = loosely(&time.to_string(), !numbers);
        object[format!("msg_type{pad}")] = loosely(&msg_type.to_string(), !numbers);
        if let Some(group) = &group {
            object[format!("group_id{pad}")] = loosely(group, numbers);
        }
        let expected = match (group.is_some(), msg_type) {
            (true, 1 | 3) => Kind::Group,
            (true, 4) => Kind::Topic,
            (false, 1) => Kind::Text,
            (false, 2) => Kind::File,
            _ => Kind::Other,
        };
        let push = Push::decode(object.to_string().as_bytes()).unwrap();
        prop_assert_eq!(push.to_uid.as_ref().map(Uid::as_str), Some(to.as_str()));
        prop_assert_eq!(push.message.kind(), expected);
        if expected != Kind::Other {
            prop_assert_eq!(push.message.from_uid().unwrap().as_str(), from);
            prop_assert_eq!(&push.message.content().unwrap().bytes, &content);
            prop_assert_eq!(push.message.time(), Some(i64::from(time)));
        }
        match push.message {
            Message::Group { group: id, .. } => prop_assert_eq!(Some(id.as_str()), group.as_deref()),
            Message::Topic { subject: id, .. } => prop_assert_eq!(Some(id.as_str()), group.as_deref()),
            _ => {}
        }
    }

    #[test]
    fn every_call_survives_the_spool(call in call()) {
        let stored = postcard::to_stdvec(&call).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Call>(&stored).unwrap(), call);
    }

    #[test]
    fn no_stored_bytes_panic(stored: Vec<u8>) {
        let _ = postcard::from_bytes::<Call>(&stored);
    }

    #[test]
    fn every_request_proves_itself_in_exactly_one_way(call in call()) {
        let request = call.request(&account());
        let has = |key: &str| request.body.contains_key(key);
        prop_assert_eq!(request.with_token, has("send_uid"));
        prop_assert_eq!(request.with_token, !has("appkey") && !has("secretkey"));
        prop_assert!(call.name().starts_with(request.path));
        if let Some(list) = request.body.get("uid_list") {
            prop_assert!(list.as_array().unwrap().iter().all(Value::is_string));
        }
        if let Some(sent) = request.body.get("content") {
            let sent = content::decode(sent.as_str().unwrap());
            prop_assert_eq!(Some(&sent.bytes[..]), call.content());
        }
    }
}
