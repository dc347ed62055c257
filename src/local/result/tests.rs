use super::*;
use crate::local::publication::TEXT;

fn id() -> Ulid {
    Ulid::from_parts(1, 2)
}

fn mark(json: &str) -> Reference {
    Reference::new(json)
}

fn text(result: &CommandResult) -> String {
    String::from_utf8(result.to_json()).unwrap().replace(&id().to_string(), "ID")
}

#[test]
fn results_field_by_field() {
    let reply = |json: &str| Reply::decode(json.as_bytes()).unwrap();
    let created = CommandResult::answered(id(), Some(mark("1.0")), reply(r#"{"code":0,"group_id":"g"}"#), 1, 42);
    assert_eq!(
        text(&created),
        r#"{"v":1,"id":"ID","ref":1.0,"status":"ok","code":0,"name":"ok","message":"done","data":{"group_id":"g"},"attempts":1,"elapsed_ms":42}"#
    );
    let refused = text(&CommandResult::answered(id(), Some(mark(r#""\u0041""#)), reply(r#"{"code":1013}"#), 1, 42));
    assert!(refused.contains(r#""ref":"\u0041","status":"error","code":1013,"name":"no_such_group""#), "{refused}");
    assert!(refused.contains(r#""data":{}"#), "{refused}");
    let unlisted = text(&CommandResult::answered(id(), None, reply(r#"{"code":7}"#), 1, 42));
    assert!(unlisted.contains(r#""id":"ID","status":"error","code":7,"name":"unlisted_code""#), "{unlisted}");

    let rejection = Rejection::new(crate::local::Reason::QueueFull, "no room", None);
    assert_eq!(
        text(&CommandResult::rejected(id(), rejection, 0)),
        r#"{"v":1,"id":"ID","status":"rejected","name":"queue_full","message":"no room","data":{},"attempts":0,"elapsed_ms":0}"#
    );
    let expired = text(&CommandResult::expired(id(), None, Some(ResultCode::new(1016)), "", 3, 9));
    assert!(expired.contains(r#""status":"expired","code":1016,"name":"expired","#), "{expired}");
    let uncertain = text(&CommandResult::uncertain(id(), None, None, "no answer", 1, 9));
    assert!(uncertain.contains(r#""status":"uncertain","name":"ambiguous","#), "{uncertain}");
    assert!(uncertain.contains("executed: no answer"), "{uncertain}");
}

#[test]
fn a_stored_result_is_read_back() {
    let reply = Reply::decode(r#"{"code":0,"group_list":[{"group_name":"群\n"}]}"#.as_bytes()).unwrap();
    for mark in [None, Some(mark("1e400")), Some(mark(r#""\u0041\n""#))] {
        let result = CommandResult::answered(id(), mark, reply.clone(), 2, 3);
        assert_eq!(CommandResult::from_json(&result.to_json()).unwrap(), result);
    }
    for junk in ["", "{}", "[]", "\u{0}"] {
        assert!(CommandResult::from_json(junk.as_bytes()).is_err());
    }
}

#[test]
fn a_result_is_published_where_it_is_awaited() {
    let rejection = Rejection::new(crate::local::Reason::BadTopic, "m", None);
    let result = CommandResult::rejected(id(), rejection, 0);
    let topics = ResultTopics { result: "r".to_owned(), ack: Some("a".to_owned()) };
    let response = ("x".to_owned(), Some(Bytes::from_static(b"\0c")));
    let [whole, ack, response] = result.publications(topics, Some(response)).try_into().unwrap();
    assert_eq!((whole.topic.as_str(), &whole.payload[..]), ("r", &result.to_json()[..]));
    assert_eq!((ack.topic.as_str(), &ack.payload[..], ack.content_type), ("a", &b"bad_topic"[..], Some(TEXT)));
    assert_eq!((response.topic.as_str(), &response.payload), ("x", &whole.payload));
    assert_eq!((response.correlation_data.as_deref(), whole.correlation_data), (Some(&b"\0c"[..]), None));
    assert!(!whole.retain && !ack.retain && !response.retain);
    let plain = ResultTopics { result: "r".to_owned(), ack: None };
    assert_eq!(result.publications(plain, None).len(), 1);
}

#[test]
fn a_reply_nested_as_deep_as_one_may_be_survives_the_spool() {
    let body = format!(r#"{{"code":0,"a":{}{}}}"#, "[".repeat(126), "]".repeat(126));
    let result = CommandResult::answered(Ulid::nil(), None, Reply::decode(body.as_bytes()).unwrap(), 1, 2);
    assert_eq!(CommandResult::from_json(&result.to_json()).unwrap(), result);
}

fn allowed(topic: &str, filters: &[&str]) -> bool {
    let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
    response_topic_allowed(topic, &"ilink".parse().unwrap(), "homeassistant", &filters).is_ok()
}

#[test]
fn the_default_is_the_reply_tree() {
    for topic in ["ilink/reply", "ilink/reply/c1", "ilink/reply/c1/7", "ilink/reply/"] {
        assert!(allowed(topic, &["ilink/reply/#"]), "{topic}");
    }
    for topic in
        ["", "x", "ilink/replies", "ilink/send/user/1/text", "ilink/reply/+", "ilink/reply/#", "ilink/reply/$x"]
    {
        assert!(!allowed(topic, &["ilink/reply/#"]), "{topic}");
    }
    assert!(!allowed("ilink/reply/x", &[]));
    assert!(!allowed("ilink/reply/a\0", &["ilink/reply/#"]));
    assert!(!allowed(&format!("ilink/reply{}", "/x".repeat(200)), &["ilink/reply/#"]));
}

#[test]
fn a_broad_filter_does_not_reach_under_the_base_or_the_discovery_prefix() {
    for topic in ["ilink", "ilink/reply/x", "ilink/x", "homeassistant", "homeassistant/light/x/config", "$SYS/x"] {
        assert!(!allowed(topic, &["#"]), "{topic}");
        assert!(!allowed(topic, &["+/#"]), "{topic}");
    }
    for topic in ["x", "ilink2/x", "home/x", "homeassistants"] {
        assert!(allowed(topic, &["#"]), "{topic}");
    }
    assert!(allowed("ilink/reply/x", &["#", "ilink/reply/#"]));
}

#[test]
fn no_filter_reaches_the_bridges_own_topics() {
    for tree in ["send", "call/ham_group/list", "recv/x", "result/x", "event/text", "presence/1", "bridge/state"] {
        assert!(!allowed(&format!("ilink/{tree}"), &["ilink/#"]), "{tree}");
    }
    for tree in ["by", "by/c", "by/c/send/x", "by/c/call", "by/c/ack/x", "by/c/result/x"] {
        assert!(!allowed(&format!("ilink/{tree}"), &["ilink/#"]), "{tree}");
    }
    assert!(allowed("ilink/by/c/reply/1", &["ilink/by/+/reply/#"]));
}
