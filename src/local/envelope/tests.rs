use super::*;
use crate::local::publication::{BYTES, JSON, TEXT};
use crate::protocol::{Kind, Receiver};

const TEXT_PUSH: &str =
    r#"{"from_uid":"413","to_uid":"414","msg_type":1,"create_time":1457408202,"content":"aGVsbG8="}"#;
const PRESENCE: &str = r#"{"from_uid":"413","to_uid":"414","msg_type":4,"type":1,"time":1457408202}"#;

fn received() -> Received {
    Received { id: Ulid::from_parts(1, 2), received_at: "2026-01-02T03:04:05.678Z".to_owned() }
}

fn push(json: &str) -> Push {
    Push::decode(json.as_bytes()).unwrap()
}

fn envelope(json: &str, flags: Flags) -> String {
    let id = received().id.to_string();
    String::from_utf8(envelope_json(&push(json), &received(), flags, &Names::default())).unwrap().replace(&id, "ID")
}

fn published(json: &str, output: Output, flags: Flags, stale: bool) -> Vec<Publication> {
    let deadline = Some(Duration::from_secs(9));
    let (base, names) = ("ilink".parse().unwrap(), Names::default());
    publications(Shape { base: &base, output, names: &names }, &push(json), &received(), flags, stale, deadline)
}

fn topics(json: &str, output: Output, flags: Flags, stale: bool) -> Vec<String> {
    published(json, output, flags, stale).into_iter().map(|publication| publication.topic).collect()
}

#[test]
fn envelopes_field_by_field() {
    for (json, expected) in [
        (
            TEXT_PUSH,
            r#"{"v":1,"id":"ID","kind":"text","from_uid":"413","to_uid":"414","time":1457408202,"received_at":"2026-01-02T03:04:05.678Z","content":"hello","encoding":"utf8"}"#,
        ),
        (
            r#"{"from_uid":413,"msg_type":2,"content":"/w=="}"#,
            r#"{"v":1,"id":"ID","kind":"file","from_uid":"413","received_at":"2026-01-02T03:04:05.678Z","content":"/w==","encoding":"base64"}"#,
        ),
        (
            r#"{"from_uid":"413","group_id":"g/1","msg_type":3,"content":"?"}"#,
            r#"{"v":1,"id":"ID","kind":"group","from_uid":"413","group_id":"g/1","received_at":"2026-01-02T03:04:05.678Z","content":"?","encoding":"utf8","content_not_base64":true}"#,
        ),
        (
            r#"{"group_id":"home/lamp","msg_type":4,"content":""}"#,
            r#"{"v":1,"id":"ID","kind":"topic","subject":"home/lamp","received_at":"2026-01-02T03:04:05.678Z","content":"","encoding":"utf8"}"#,
        ),
        (
            PRESENCE,
            r#"{"v":1,"id":"ID","kind":"presence","from_uid":"413","to_uid":"414","time":1457408202,"received_at":"2026-01-02T03:04:05.678Z","online":true}"#,
        ),
        (
            r#"{ "a": 1.0, "a": "\u0041" }"#,
            r#"{"v":1,"id":"ID","kind":"other","received_at":"2026-01-02T03:04:05.678Z","body":{ "a": 1.0, "a": "\u0041" }}"#,
        ),
    ] {
        assert_eq!(envelope(json, Flags::default()), expected);
    }
    let flagged = envelope(TEXT_PUSH, Flags { late: true, not_allowed: true });
    assert!(flagged.ends_with(r#""encoding":"utf8","late":true,"not_allowed":true}"#), "{flagged}");
}

#[test]
fn a_message_goes_out_raw_then_as_json() {
    let [raw, event] = published(TEXT_PUSH, Output::Both, Flags::default(), false).try_into().unwrap();
    assert_eq!((raw.topic.as_str(), &raw.payload[..], raw.retain), ("ilink/recv/user/413/text", &b"hello"[..], false));
    assert_eq!((raw.content_type, raw.utf8, raw.deadline), (Some(TEXT), true, Some(Duration::from_secs(9))));
    assert_eq!((event.topic.as_str(), event.retain), ("ilink/event/text", false));
    assert_eq!((event.content_type, event.utf8, event.deadline), (Some(JSON), true, None));
    let id = received().id.to_string();
    let expected = [("id", id.as_str()), ("kind", "text"), ("from_uid", "413"), ("time", "1457408202")];
    for publication in [raw, event] {
        let properties: Vec<_> =
            publication.user_properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(properties, expected);
    }
    let file = r#"{"from_uid":"a/b","group_id":"g\n","msg_type":3,"content":"/w=="}"#;
    let [raw, _] = published(file, Output::Both, Flags::default(), false).try_into().unwrap();
    assert_eq!((raw.topic.as_str(), raw.content_type, raw.utf8), ("ilink/recv/group/g%0A/a%2Fb", Some(BYTES), false));
    assert_eq!(raw.user_properties[2], ("from_uid", "a/b".to_owned()));
    assert_eq!(raw.user_properties[3], ("group_id", "g%0A".to_owned()));
}

#[test]
fn the_output_chooses_and_flags_override_it() {
    let (both, raw, event) = (
        vec!["ilink/recv/user/413/text", "ilink/event/text"],
        vec!["ilink/recv/user/413/text"],
        vec!["ilink/event/text"],
    );
    let none = Flags::default();
    assert_eq!(topics(TEXT_PUSH, Output::Both, none, false), both);
    assert_eq!(topics(TEXT_PUSH, Output::Raw, none, false), raw);
    assert_eq!(topics(TEXT_PUSH, Output::Json, none, false), event);
    for output in [Output::Both, Output::Raw, Output::Json] {
        assert_eq!(topics(TEXT_PUSH, output, Flags { late: true, ..none }, false), event);
        assert_eq!(topics(TEXT_PUSH, output, Flags { not_allowed: true, ..none }, false), event);
    }
}

#[test]
fn presence_is_always_published_unless_it_is_stale_or_unwelcome() {
    let (state, event) = ("ilink/presence/413", "ilink/event/presence");
    let none = Flags::default();
    let late = Flags { late: true, ..none };
    for flags in [none, late] {
        assert_eq!(topics(PRESENCE, Output::Both, flags, false), [state, event]);
        assert_eq!(topics(PRESENCE, Output::Raw, flags, false), [state]);
        assert_eq!(topics(PRESENCE, Output::Json, flags, false), [state, event]);
    }
    for output in [Output::Both, Output::Raw, Output::Json] {
        assert_eq!(topics(PRESENCE, output, none, true), [event]);
        assert_eq!(topics(PRESENCE, output, Flags { not_allowed: true, ..none }, false), [event]);
    }
    let [state, event] = published(PRESENCE, Output::Json, late, false).try_into().unwrap();
    assert_eq!((&state.payload[..], state.retain, state.deadline), (&b"online"[..], true, None));
    assert!(!event.retain && !String::from_utf8_lossy(&event.payload).contains("late"));
    let offline = published(&PRESENCE.replace("\"type\":1", "\"type\":\"0\""), Output::Raw, none, false);
    assert_eq!(&offline[0].payload[..], b"offline");
}

#[test]
fn other_pushes_have_no_raw_form() {
    let none = Flags::default();
    assert_eq!(topics("{}", Output::Both, none, false), ["ilink/event/other"]);
    assert_eq!(topics("{}", Output::Json, none, false), ["ilink/event/other"]);
    assert!(topics("{}", Output::Raw, none, false).is_empty());
    assert_eq!(topics("{}", Output::Raw, Flags { not_allowed: true, ..none }, false), ["ilink/event/other"]);
}

#[test]
fn what_cannot_be_read_comes_as_it_came() {
    let of =
        |push: &Push| String::from_utf8(envelope_json(push, &received(), Flags::default(), &Names::default())).unwrap();
    let unreadable = of(&Push::unreadable(b"\xff{"));
    assert!(
        unreadable.contains(r#""kind":"other""#) && unreadable.ends_with(r#","body_base64":"/3s="}"#),
        "{unreadable}"
    );
    let spoilt = of(&Push::decode(b"{\"a\":\"\xff\"}").unwrap());
    assert!(spoilt.ends_with("\"body\":{\"a\":\"\u{fffd}\"},\"body_base64\":\"eyJhIjoi/yJ9\"}"), "{spoilt}");
    let gbk = of(&Push::decode(b"{\"from_uid\":\"1\",\"msg_type\":1,\"content\":\"\xb5\xc6\"}").unwrap());
    assert!(gbk.ends_with(r#""content":"tcY=","encoding":"base64","content_not_base64":true}"#), "{gbk}");
    let number = of(&Push::decode(br#"{"from_uid":"1","msg_type":1,"content":21.50}"#).unwrap());
    assert!(number.ends_with(r#""content":"21.50","encoding":"utf8","content_not_base64":true}"#), "{number}");
}

#[test]
fn an_id_that_no_property_can_hold_does_not_cost_the_envelope() {
    let long = TEXT_PUSH.replace("413", &"9".repeat(MAX_STRING + 1));
    let event = &published(&long, Output::Json, Flags::default(), false)[0];
    assert!(event.user_properties.iter().all(|(name, _)| *name != "from_uid"));
    assert_eq!(event.topic, format!("ilink/event/{}", Kind::Text));
}

#[test]
fn who_has_a_name_is_called_by_it() {
    let mut names = Names::default();
    names.add("ann", Receiver::User("413".parse().unwrap())).unwrap();
    names.add("family", Receiver::Group("g/1".parse().unwrap())).unwrap();
    names.add("lamp", Receiver::Subject("home/lamp".parse().unwrap())).unwrap();
    let of = |json: &str| {
        let json = envelope_json(&push(json), &received(), Flags::default(), &names);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        ["name", "group_name", "subject_name"].map(|key| json[key].as_str().map(str::to_owned))
    };
    let called = |name: &str| Some(name.to_owned());
    assert_eq!(of(TEXT_PUSH), [called("ann"), None, None]);
    assert_eq!(of(PRESENCE), [called("ann"), None, None]);
    let group = r#"{"from_uid":"413","group_id":"g/1","msg_type":3,"content":""}"#;
    assert_eq!(of(group), [called("ann"), called("family"), None]);
    assert_eq!(of(&group.replace("413", "412").replace("g/1", "413")), [None, None, None]);
    let topic = r#"{"from_uid":"412","group_id":"home/lamp","msg_type":4,"content":""}"#;
    assert_eq!(of(topic), [None, None, called("lamp")]);
}
