//! Pushes (§4): what iLink posts to the callback.
//!
//! A push says what it is by its shape rather than by `msg_type` alone: the manual's own sample of a group message (§4.2)
//! has the type of a text, and types are shared between presence (§4.3) and topics (§4.4). Decoding is liberal, as the
//! manual's samples are: ids may be numbers, integers may be strings, keys may have stray spaces. Any JSON object is a
//! push; one of no known shape, or without an id that its MQTT topic needs, is [`Message::Other`] and is kept whole.
//!
//! Making a push durable, recognising repeats and publishing it happen elsewhere.

use std::fmt;

use serde_json::value::RawValue;

use super::content::{self, Content};
use super::fields::Fields;
use super::ids::{GroupId, Subject, Uid};

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
    /// Any other JSON object.
    Other {
        /// The push as it came, verbatim.
        body: Box<RawValue>,
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

/// The body is not one JSON object in UTF-8, or nests more than 128 levels deep.
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
        let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
        let fields = Fields::parse(text).ok_or(NotAnObject)?;
        let message = match recognise(&fields) {
            Some(message) => message,
            None => Message::Other { body: serde_json::from_str(text).map_err(|_| NotAnObject)? },
        };
        Ok(Self { to_uid: fields.id("to_uid"), message })
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
            Self::Other { body } => shown.field("len", &body.get().len()),
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
        return Some(Message::Presence { from: fields.id("from_uid")?, online, time: fields.integer("time")? });
    }
    let content = content::decode(&fields.string("content")?);
    let time = fields.integer("create_time");
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
            "\u{feff}{}",
        ] {
            assert_eq!(Push::decode(body.as_bytes()).err(), Some(NotAnObject), "{body:?}");
        }
        assert_eq!(Push::decode(b"{\"a\":\"\xff\"}").err(), Some(NotAnObject));
        assert_eq!(kind(" \n{} \t"), Kind::Other);
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
            r#""from_uid":"1","type":1,"time":5.5"#,
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
