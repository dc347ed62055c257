//! Pushes (§4): what iLink posts to the callback.
//!
//! A push says what it is by its shape rather than by `msg_type` alone: the manual's own sample of a group message (§4.2)
//! has the type of a text, and types are shared between presence (§4.3) and topics (§4.4). Decoding is liberal, as the
//! manual's samples are: ids may be numbers, integers may be strings, keys may have stray spaces; and what a body may be
//! wrapped in is [`lenient`]'s. Any JSON object is a push; one of no known shape, or without an id that its MQTT topic needs,
//! is [`Message::Other`] and is kept whole. So is what is no JSON object at all ([`Push::unreadable`]).
//!
//! Making a push durable, recognising repeats and publishing it happen elsewhere.

use std::fmt;

use serde_json::value::RawValue;

use super::content::Content;
use super::fields::Fields;
use super::ids::{GroupId, Subject, Uid};
use super::lenient::{self, Text};

/// A push that could be read.
#[derive(Debug, Clone)]
pub struct Push {
    /// The receiver, which should be the uid that we registered.
    pub to_uid: Option<Uid>,
    /// What is said.
    pub message: Message,
}

/// What a push says.
#[derive(Clone)]
pub enum Message {
    /// A user came or went (§4.3).
    Presence {
        /// The user.
        from: Uid,
        /// Whether the user is online now.
        online: bool,
        /// When, in seconds since the epoch.
        time: i64,
    },
    /// Something was published to a topic that we subscribed to (§4.4).
    Topic {
        /// The publisher.
        from: Option<Uid>,
        /// The topic; it comes as `group_id`.
        subject: Subject,
        /// The message.
        content: Content,
        /// When, in seconds since the epoch.
        time: Option<i64>,
    },
    /// A message to a group that we are in (§4.2).
    Group {
        /// The sender.
        from: Uid,
        /// The group.
        group: GroupId,
        /// The message.
        content: Content,
        /// When, in seconds since the epoch.
        time: Option<i64>,
    },
    /// A text message to us (§4.1).
    Text {
        /// The sender.
        from: Uid,
        /// The message.
        content: Content,
        /// When, in seconds since the epoch.
        time: Option<i64>,
    },
    /// A file message to us (§4.1).
    File {
        /// The sender.
        from: Uid,
        /// The bytes; the manual does not say what they are.
        content: Content,
        /// When, in seconds since the epoch.
        time: Option<i64>,
    },
    /// Anything else.
    Other {
        /// The push as it came, if it is a JSON object.
        object: Option<Box<RawValue>>,
        /// Its bytes, where `object` does not tell all of them.
        bytes: Option<Vec<u8>>,
    },
}

/// The kinds of [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Message::Text`].
    Text,
    /// [`Message::File`].
    File,
    /// [`Message::Group`].
    Group,
    /// [`Message::Topic`].
    Topic,
    /// [`Message::Presence`].
    Presence,
    /// [`Message::Other`].
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Text, Self::File, Self::Group, Self::Topic, Self::Presence, Self::Other];

    /// The name in topics and envelopes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::File => "file",
            Self::Group => "group",
            Self::Topic => "topic",
            Self::Presence => "presence",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body is not one JSON object, or nests more than 128 levels deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON object")]
pub struct NotAnObject;

impl Push {
    /// Reads a push's body.
    ///
    /// # Errors
    ///
    /// [`NotAnObject`]; every JSON object is some push.
    pub fn decode(body: &[u8]) -> Result<Self, NotAnObject> {
        let text = Text::of(body);
        let fields = Fields::parse(&text).ok_or(NotAnObject)?;
        let message = match recognise(&fields) {
            Some(message) => message,
            None => Message::Other {
                object: Some(serde_json::from_str(&lenient::text(body)).map_err(|_| NotAnObject)?),
                bytes: text.is_spoilt().then(|| body.to_vec()),
            },
        };
        Ok(Self { to_uid: fields.id("to_uid"), message })
    }

    /// A push that cannot be read: kept as it came.
    #[must_use]
    pub fn unreadable(body: &[u8]) -> Self {
        Self { to_uid: None, message: Message::Other { object: None, bytes: Some(body.to_vec()) } }
    }
}

/// Shows the kind, the sender and the content's length: what people say appears in no log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct(self.kind().as_str());
        shown.field("from", &self.from_uid());
        match self {
            Self::Presence { online, .. } => shown.field("online", online),
            Self::Topic { subject, .. } => shown.field("subject", subject),
            Self::Group { group, .. } => shown.field("group", group),
            Self::Other { object: Some(object), .. } => shown.field("len", &object.get().len()),
            Self::Other { bytes, .. } => shown.field("unreadable", &bytes.as_ref().map(Vec::len)),
            Self::Text { .. } | Self::File { .. } => &mut shown,
        };
        shown.field("content", &self.content()).field("time", &self.time()).finish()
    }
}

impl Message {
    /// Which kind this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Presence { .. } => Kind::Presence,
            Self::Topic { .. } => Kind::Topic,
            Self::Group { .. } => Kind::Group,
            Self::Text { .. } => Kind::Text,
            Self::File { .. } => Kind::File,
            Self::Other { .. } => Kind::Other,
        }
    }

    /// The sender; for presence, the user whose state changed. None for a push of no known shape.
    #[must_use]
    pub const fn from_uid(&self) -> Option<&Uid> {
        match self {
            Self::Presence { from, .. }
            | Self::Group { from, .. }
            | Self::Text { from, .. }
            | Self::File { from, .. } => Some(from),
            Self::Topic { from, .. } => from.as_ref(),
            Self::Other { .. } => None,
        }
    }

    /// The content, if this kind has one.
    #[must_use]
    pub const fn content(&self) -> Option<&Content> {
        match self {
            Self::Topic { content, .. }
            | Self::Group { content, .. }
            | Self::Text { content, .. }
            | Self::File { content, .. } => Some(content),
            Self::Presence { .. } | Self::Other { .. } => None,
        }
    }

    /// iLink's time in seconds since the epoch.
    #[must_use]
    pub const fn time(&self) -> Option<i64> {
        match self {
            Self::Presence { time, .. } => Some(*time),
            Self::Topic { time, .. } | Self::Group { time, .. } | Self::Text { time, .. } | Self::File { time, .. } => {
                *time
            }
            Self::Other { .. } => None,
        }
    }
}

/// The message, if the shape is a known one and everything that its MQTT topic needs is there.
fn recognise(fields: &Fields) -> Option<Message> {
    if fields.has("type") && fields.has("time") && !fields.has("content") {
        let online = match fields.integer("type")? {
            0 => false,
            1 => true,
            _ => return None,
        };
        return Some(Message::Presence { from: fields.id("from_uid")?, online, time: fields.seconds("time")? });
    }
    let content = fields.content("content")?;
    let time = fields.seconds("create_time");
    match (fields.has("group_id"), fields.integer("msg_type")?) {
        (true, 4) => {
            Some(Message::Topic { from: fields.id("from_uid"), subject: fields.id("group_id")?, content, time })
        }
        // §4.2's table has 3, its sample 1.
        (true, 3 | 1) => {
            Some(Message::Group { from: fields.id("from_uid")?, group: fields.id("group_id")?, content, time })
        }
        (false, 1) => Some(Message::Text { from: fields.id("from_uid")?, content, time }),
        (false, 2) => Some(Message::File { from: fields.id("from_uid")?, content, time }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert_eq!(kind(&nested(128)), Kind::Other);
        assert_eq!(Push::decode(nested(129).as_bytes()).err(), Some(NotAnObject));
        let deep = "[".repeat(1_000_000);
        assert_eq!(Push::decode(format!("{{\"a\":{deep}").as_bytes()).err(), Some(NotAnObject));
        assert_eq!(kind(&format!(r#"{{"a":"\"{deep}"}}"#)), Kind::Other, "brackets in strings do not nest");
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
}
