//! What iLink pushes: the body, what is published of it, and the way back of its topics.

use std::time::Duration;

use ilink2mqtt::local::command::decode;
use ilink2mqtt::local::{Flags, Output, Parsed, Publication, Received, Shape, envelope_json, publications};
use ilink2mqtt::protocol::{Call, Kind, Message, Push, Uid, content, lenient};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::input::{assert_mqtt_string, assert_publishable, base, names, parts, rules, switches};

/// Switches, then the body.
pub fn run(data: &[u8]) {
    let [options, body] = parts(data);
    check_gzip(body);
    let text = lenient::text(body);
    let push = Push::decode(body).unwrap_or_else(|_| {
        // Whatever another parser takes for an object is a push.
        assert!(serde_json::from_str::<Map<String, Value>>(&text).is_err(), "a JSON object is no push");
        Push::unreadable(body)
    });
    let _ = format!("{push:?}");

    let [raw, json, late, not_allowed, stale, limited, ..] = switches(options);
    let output = match (raw, json) {
        (true, false) => Output::Raw,
        (false, true) => Output::Json,
        _ => Output::Both,
    };
    let stale = stale && push.message.kind() == Kind::Presence;
    let deadline = limited.then_some(Duration::from_secs(9));
    let received = Received { id: Ulid::from_parts(7, 8), received_at: "2026-01-02T03:04:05.678Z".to_owned() };
    let flags = Flags { late, not_allowed };
    let published =
        publications(Shape { base: &base(), output, names: &names() }, &push, &received, flags, stale, deadline);
    assert!(!published.is_empty() || output == Output::Raw && push.message.kind() == Kind::Other);
    for publication in &published {
        check_publication(publication, &push, &received, body.len());
    }
    check_envelope(&envelope_json(&push, &received, flags, &names()), &push, &text, body);
    check_way_back(&push.message);
}

fn check_gzip(body: &[u8]) {
    let unpacked = lenient::gunzip(body, 1000);
    assert!(unpacked.is_none_or(|unpacked| unpacked.len() <= 1000 && body.starts_with(b"\x1f\x8b")));
}

fn check_publication(publication: &Publication, push: &Push, received: &Received, body: usize) {
    let Publication { topic, payload, retain, .. } = publication;
    assert_publishable(&base(), topic);
    // Escaping makes at most three bytes of one, so what is cut off or refused for its length was as long when it came.
    assert!(topic.len() <= 3 * body + 64);
    let rest = base().strip(topic).unwrap().to_owned();
    assert_eq!(*retain, rest.starts_with("presence/"));
    assert!(!publication.utf8 || std::str::from_utf8(payload).is_ok());
    if rest.starts_with("recv/") {
        assert_eq!(payload[..], push.message.content().unwrap().bytes[..]);
    }
    assert_eq!(publication.user_properties[0], ("id", received.id.to_string()));
    for (_, value) in &*publication.user_properties {
        assert_mqtt_string(value);
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    kind: String,
    from_uid: Option<String>,
    to_uid: Option<String>,
    group_id: Option<String>,
    subject: Option<String>,
    time: Option<i64>,
    online: Option<bool>,
    content: Option<String>,
    encoding: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
    #[serde(default)]
    content_not_base64: bool,
}

/// The envelope says what the push says.
fn check_envelope(json: &[u8], push: &Push, text: &str, whole: &[u8]) {
    let envelope: Envelope = serde_json::from_slice(json).unwrap();
    let message = &push.message;
    assert_eq!(envelope.kind, message.kind().as_str());
    assert_eq!(envelope.from_uid.as_deref(), message.from_uid().map(Uid::as_str));
    assert_eq!(envelope.to_uid.as_deref(), push.to_uid.as_ref().map(Uid::as_str));
    assert_eq!(envelope.time, message.time());
    let (mut group_id, mut subject, mut online, mut body, mut bytes) = (None, None, None, None, None);
    match message {
        Message::Group { group, .. } => group_id = Some(group.as_str()),
        Message::Topic { subject: id, .. } => subject = Some(id.as_str()),
        Message::Presence { online: is, .. } => online = Some(*is),
        Message::Other { object, .. } => {
            body = object.as_ref().map(|_| text);
            bytes = (object.is_none() || std::str::from_utf8(whole).is_err()).then_some(whole);
        }
        Message::Text { .. } | Message::File { .. } => {}
    }
    assert_eq!((envelope.group_id.as_deref(), envelope.subject.as_deref()), (group_id, subject));
    assert_eq!((envelope.online, envelope.body.map(RawValue::get)), (online, body));
    assert_eq!(envelope.body_base64.map(|body| content::decode(body).bytes).as_deref(), bytes);
    let bytes = envelope.content.map(|content| match envelope.encoding.as_deref() {
        Some("utf8") => content.into_bytes(),
        Some("base64") => content::decode(&content).bytes,
        other => panic!("encoding {other:?}"),
    });
    assert_eq!(bytes.as_deref(), message.content().map(|content| &content.bytes[..]));
    assert_eq!(envelope.content_not_base64, message.content().is_some_and(|content| content.not_base64));
}

/// An answer to where a message came from reaches whom it came from. NUL, and wildcards in subjects, cannot be answered.
fn check_way_back(message: &Message) {
    let (base, content) = (base(), b"x".to_vec());
    let answered = |topic: String| match decode(&base, &topic.replacen("/recv/", "/send/", 1), b"x", &rules(), &names())
    {
        Ok(Parsed::Command(command)) => command.call,
        other => panic!("{topic:?} is answered by {other:?}"),
    };
    let answerable = |id: &str| !id.contains('\0');
    let Some(recv) = base.recv(message) else { return };
    match message {
        Message::Text { from, .. } if answerable(from.as_str()) => {
            assert_eq!(answered(recv), Call::SendText { to: from.clone(), content });
        }
        Message::File { from, .. } if answerable(from.as_str()) => {
            assert_eq!(answered(recv), Call::SendFile { to: from.clone(), content });
        }
        Message::Group { group, .. } if answerable(group.as_str()) => {
            let (topic, _) = recv.rsplit_once('/').unwrap();
            assert_eq!(answered(topic.to_owned()), Call::SendGroup { group: group.clone(), content });
        }
        Message::Topic { subject, .. } if subject.is_publishable() => {
            assert_eq!(answered(recv), Call::Publish { subject: subject.clone(), content });
        }
        _ => {}
    }
}
