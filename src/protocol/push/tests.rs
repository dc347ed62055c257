use super::*;

fn decode(body: &str) -> Message {
    Push::decode(body.as_bytes()).unwrap_or_else(|_| panic!("{body}")).message
}

fn kind(body: &str) -> Kind {
    decode(body).kind()
}

#[test]
fn what_is_not_one_json_object_is_no_push() {
    for body in [
        "",
        " ",
        "null",
        "1",
        "[]",
        "\"{}\"",
        "[{}]",
        "{",
        "{}x",
        "{}{}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{}\0{}",
        "{\0}",
    ] {
        assert_eq!(Push::decode(body.as_bytes()).err(), Some(NotAnObject), "{body:?}");
    }
    for body in [&b"{\"a\":\"\\\xff\"}"[..], b"{\xff\"a\":1}", b"{\"a\":1\xff}", b"{\"a\":\"\\u00\xff0\"}"] {
        assert_eq!(Push::decode(body).err(), Some(NotAnObject), "{body:?}");
    }
    assert_eq!(kind(" \n{} \t"), Kind::Other);
}

#[test]
fn what_stands_around_the_object_is_skipped() {
    for body in ["\u{feff}{}", "{}\0", "\0 \u{feff}{}\r\n\0"] {
        let Message::Other { object: Some(object), bytes: None } = decode(body) else { panic!("{body:?}") };
        assert_eq!(object.get(), "{}");
    }
    assert_eq!(kind("\u{feff}{\"from_uid\":\"1\",\"msg_type\":1,\"content\":\"b24=\"}\0\n"), Kind::Text);
}

#[test]
fn bytes_that_are_not_utf8_cost_their_string_and_nothing_else() {
    let push = |body: &[u8]| Push::decode(body).unwrap();
    let gbk = push(b"{\"from_uid\":\"1\",\"to_uid\":\"\xff\",\"nick\":\"\xb5\xc6\",\"msg_type\":1,\"content\":\"\xbf\xaa\\n\xb5\xc6\"}");
    assert_eq!((gbk.message.kind(), gbk.to_uid), (Kind::Text, None));
    let content = Content { bytes: b"\xbf\xaa\n\xb5\xc6".to_vec(), not_base64: true };
    assert_eq!(gbk.message.content(), Some(&content));
    let spoilt = b"\n{\"from_uid\":\"\xff1\",\"msg_type\":1,\"content\":\"b24=\"}";
    let Message::Other { object: Some(object), bytes: Some(bytes) } = push(spoilt).message else { panic!() };
    assert_eq!(object.get(), "{\"from_uid\":\"\u{fffd}1\",\"msg_type\":1,\"content\":\"b24=\"}");
    assert_eq!(bytes, spoilt);
}

#[test]
fn numbers_and_booleans_are_content_as_they_are_written() {
    for written in ["21.5", "-1", "2024", "1.50e3", "true", "false"] {
        let message = decode(&format!(r#"{{"from_uid":"1","msg_type":1,"content": {written} }}"#));
        assert_eq!(message.content(), Some(&Content { bytes: written.into(), not_base64: true }));
    }
    for written in ["{}", "[1]"] {
        assert_eq!(kind(&format!(r#"{{"from_uid":"1","msg_type":1,"content":{written}}}"#)), Kind::Other);
    }
}

#[test]
fn times_are_whole_seconds() {
    for (written, seconds) in [
        ("1457408202", Some(1_457_408_202)),
        ("1457408202.9", Some(1_457_408_202)),
        ("\" 1457408202.9 \"", Some(1_457_408_202)),
        ("1.457408202E9", Some(1_457_408_202)),
        ("1457408202123", Some(1_457_408_202)),
        ("1457408202123.4", Some(1_457_408_202)),
        ("100000000000", Some(100_000_000_000)),
        ("100000000001", Some(100_000_000)),
        ("-5.5", Some(-5)),
        ("1e300", None),
        ("\"inf\"", None),
        ("\"today\"", None),
    ] {
        let message = decode(&format!(r#"{{"from_uid":"1","msg_type":1,"content":"","create_time":{written}}}"#));
        assert_eq!(message.time(), seconds, "{written}");
    }
    assert_eq!(decode(r#"{"from_uid":"1","type":1,"time":1457408202123}"#).time(), Some(1_457_408_202));
    assert_eq!(kind(r#"{"from_uid":"1","msg_type":1.0,"content":""}"#), Kind::Text);
    assert_eq!(kind(r#"{"from_uid":"1","msg_type":1.5,"content":""}"#), Kind::Other);
}

#[test]
fn what_cannot_be_read_is_kept_as_it_came() {
    let Message::Other { object: None, bytes: Some(bytes) } = Push::unreadable(b"\xff{").message else { panic!() };
    assert_eq!(bytes, b"\xff{");
}

#[test]
fn what_is_passed_on_whole_has_a_limit_of_nesting() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert_eq!(kind(&nested(128)), Kind::Other);
    assert_eq!(Push::decode(nested(129).as_bytes()).err(), Some(NotAnObject));
    assert_eq!(Push::heading(nested(129).as_bytes()).err(), Some(NotAnObject));
    let deep = "[".repeat(1_000_000);
    assert_eq!(Push::decode(format!("{{\"a\":{deep}").as_bytes()).err(), Some(NotAnObject));
    assert_eq!(kind(&format!(r#"{{"a":"\"{deep}"}}"#)), Kind::Other, "brackets in strings do not nest");
}

#[test]
fn an_unknown_field_is_ignored_however_deep_it_nests() {
    let deep = 300_000;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let extra = format!("{}1{}", open.repeat(deep), close.repeat(deep));
        let body = format!(r#"{{"extra":{extra},"from_uid":"413","msg_type":1,"content":"aGVsbG8="}}"#);
        assert_eq!(kind(&body), Kind::Text);
        assert_eq!(Push::heading(body.as_bytes()).unwrap().0, Kind::Text);
        assert_eq!(decode(&body).content().unwrap().bytes, b"hello");
    }
}

#[test]
fn presence_needs_a_user_a_state_and_a_time() {
    let presence = |fields: &str| kind(&format!(r#"{{"msg_type":4,{fields}}}"#));
    assert_eq!(presence(r#""from_uid":"1","type":1,"time":-5"#), Kind::Presence);
    for fields in [
        r#""from_uid":"1","type":2,"time":5"#,
        r#""from_uid":"1","type":true,"time":5"#,
        r#""from_uid":"1","type":1.5,"time":5"#,
        r#""from_uid":"1","type":1,"time":99999999999999999999"#,
        r#""from_uid":"1","type":1,"time":null"#,
        r#""from_uid":"1","time":5"#,
        r#""from_uid":"","type":1,"time":5"#,
        r#""from_uid":["1"],"type":1,"time":5"#,
        r#""type":1,"time":5"#,
    ] {
        assert_eq!(presence(fields), Kind::Other, "{fields}");
    }
}

#[test]
fn content_decides_before_type_and_time() {
    assert_eq!(kind(r#"{"from_uid":"1","content":"","msg_type":1,"type":1,"time":5}"#), Kind::Text);
    assert_eq!(kind(r#"{"from_uid":"1","content":null,"msg_type":1,"type":1,"time":5}"#), Kind::Presence);
}

#[test]
fn a_topic_needs_no_sender_but_everything_else_does() {
    let message = decode(r#"{"group_id":"home/lamp","msg_type":4,"content":"b24="}"#);
    let Message::Topic { from: None, subject, content, time: None } = message else { panic!("{message:?}") };
    assert_eq!((subject.as_str(), &content.bytes[..]), ("home/lamp", &b"on"[..]));
    for body in [
        r#"{"msg_type":1,"content":"b24="}"#,
        r#"{"msg_type":2,"content":"b24="}"#,
        r#"{"msg_type":3,"group_id":"g","content":"b24="}"#,
        r#"{"msg_type":4,"group_id":"","content":"b24="}"#,
        r#"{"msg_type":4,"from_uid":"1","content":"b24="}"#,
        r#"{"from_uid":"1","content":"b24="}"#,
        r#"{"from_uid":"1","group_id":{},"msg_type":1,"content":"b24="}"#,
    ] {
        assert_eq!(kind(body), Kind::Other, "{body}");
    }
}

#[test]
fn an_exact_key_wins_over_one_with_stray_spaces() {
    let from = |body: &str| decode(body).from_uid().map(ToString::to_string);
    for body in [
        r#"{"from_uid":"1","from_uid ":"2","msg_type":1,"content":""}"#,
        r#"{" from_uid":"2","from_uid":"1","msg_type":1,"content":""}"#,
        r#"{"from_uid":"0","from_uid":"1","msg_type":1,"content":""}"#,
        r#"{"from_uid":null," from_uid":"1","msg_type":1,"content":""}"#,
        r#"{"\u0066rom_uid":1,"msg_type":1,"content":""}"#,
    ] {
        assert_eq!(from(body).as_deref(), Some("1"), "{body}");
    }
}

#[test]
fn a_string_that_is_no_unicode_costs_only_its_field() {
    assert_eq!(kind(r#"{"\ud800":1,"x":"\udc00","from_uid":"1","msg_type":1,"content":"b24="}"#), Kind::Text);
    assert_eq!(kind(r#"{"from_uid":"1","msg_type":1,"content":"\ud800"}"#), Kind::Other);
}

#[test]
fn content_that_is_not_base64_is_marked() {
    let message = decode(r#"{"from_uid":"1","msg_type":1,"content":"not base64!"}"#);
    assert_eq!(message.content(), Some(&Content { bytes: b"not base64!".to_vec(), not_base64: true }));
}

#[test]
fn kinds_have_distinct_names() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.into_iter().map(Kind::as_str).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

#[test]
fn debug_shows_no_content() {
    for body in [r#"{"from_uid":"1","msg_type":1,"content":"c2VjcmV0"}"#, r#"{"secret":"secret"}"#] {
        let shown = format!("{:?}", Push::decode(body.as_bytes()));
        assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
    }
}
