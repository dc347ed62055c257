//! Pushes (§4): what iLink posts to the callback.
//!
//! A push says what it is by its shape rather than by `msg_type` alone: the manual's own sample of a group message (§4.2)
//! has the type of a text, and types are shared between presence (§4.3) and topics (§4.4). Decoding is liberal, as the
//! manual's samples are: ids may be numbers, integers may be strings, keys may have stray spaces. Any JSON object is a
//! push; one of no known shape, or without an id that its MQTT topic needs, is [`Message::Other`] and is kept whole.
//!
//! Making a push durable, recognising repeats and publishing it happen elsewhere.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::content::{self, Content};
use super::ids::{GroupId, Subject, Uid};

/// Deeper nesting than any push has reason for; it keeps the readers of our envelopes from overflowing their stacks.
const MAX_DEPTH: usize = 128;

/// A push that could be read.
#[derive(Debug, Clone)]
pub struct Push {
    /// The receiver, which should be the uid that we registered.
    pub to_uid: Option<Uid>,
    /// What is said.
    pub message: Message,
}

/// What a push says.
#[derive(Debug, Clone)]
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

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        if nests_too_deep(text) {
            return Err(NotAnObject);
        }
        let fields = Fields::parse(text)?;
        let message = match fields.message() {
            Some(message) => message,
            None => Message::Other { body: serde_json::from_str(text).map_err(|_| NotAnObject)? },
        };
        Ok(Self { to_uid: fields.id("to_uid"), message })
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

/// The members of the pushed object that are not `null`, in their order, values unread.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, NotAnObject> {
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(FieldsVisitor).map_err(|_| NotAnObject)?;
        json.end().map_err(|_| NotAnObject)?;
        Ok(fields)
    }

    /// The value under `key`, else under `key` with stray spaces around it; of duplicates the last, as most parsers have it.
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        let newest_first = || self.0.iter().rev();
        newest_first()
            .find(|(name, _)| name == key)
            .or_else(|| newest_first().find(|(name, _)| name.trim() == key))
            .map(|(_, value)| *value)
    }

    /// A string, or a number as it is written.
    fn text(&self, key: &str) -> Option<String> {
        let raw = self.get(key)?.get();
        match raw.as_bytes().first()? {
            b'"' => serde_json::from_str(raw).ok(),
            b'-' | b'0'..=b'9' => Some(raw.to_owned()),
            _ => None,
        }
    }

    fn id<T: TryFrom<String>>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| T::try_from(text).ok())
    }

    fn integer(&self, key: &str) -> Option<i64> {
        self.text(key)?.trim().parse().ok()
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The message, if the shape is a known one and everything that its MQTT topic needs is there.
    fn message(&self) -> Option<Message> {
        if self.has("type") && self.has("time") && !self.has("content") {
            let online = match self.integer("type")? {
                0 => false,
                1 => true,
                _ => return None,
            };
            return Some(Message::Presence { from: self.id("from_uid")?, online, time: self.integer("time")? });
        }
        let content = content::decode(&serde_json::from_str::<String>(self.get("content")?.get()).ok()?);
        let time = self.integer("create_time");
        match (self.has("group_id"), self.integer("msg_type")?) {
            (true, 4) => {
                Some(Message::Topic { from: self.id("from_uid"), subject: self.id("group_id")?, content, time })
            }
            // §4.2's table has 3, its sample 1.
            (true, 3 | 1) => {
                Some(Message::Group { from: self.id("from_uid")?, group: self.id("group_id")?, content, time })
            }
            (false, 1) => Some(Message::Text { from: self.id("from_uid")?, content, time }),
            (false, 2) => Some(Message::File { from: self.id("from_uid")?, content, time }),
            _ => None,
        }
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        // Keys are taken raw too: one that is no Unicode text (a lone surrogate) is unknown, but no reason to lose the push.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let (Ok(key), true) = (serde_json::from_str(key.get()), value.get() != "null") {
                fields.push((key, value));
            }
        }
        Ok(Fields(fields))
    }
}

/// Whether arrays and objects nest deeper than [`MAX_DEPTH`]; brackets within strings do not count. Raw values are not
/// limited by the parser itself.
fn nests_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}
