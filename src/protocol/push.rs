//! Pushes (§4): what iLink posts to the callback.
//!
//! A push is told by its shape, not by `msg_type` alone: the manual's own sample of a group message (§4.2) has the type
//! of a text, and presence (§4.3) and topics (§4.4) share types. Decoding is lenient, as the manual's samples demand:
//! ids may be numbers, integers may be strings, keys may have stray spaces. [`lenient`] takes off what a body may be
//! wrapped in.
//!
//! Any JSON object is a push. One of no known shape, or without an id that its MQTT topic needs, is [`Message::Other`]
//! and is kept whole. So are a body that is no JSON object at all, and an [`Message::Other`] that nests too deep to be passed
//! on as JSON ([`Push::unreadable`]).
//!
//! Making a push durable, recognising repeats and publishing it happen elsewhere.

use std::fmt;

use serde_json::value::RawValue;

use super::content::Content;
use super::fields::{self, Fields};
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

/// The body is not one JSON object, or one of no known kind that nests more than 128 levels deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON object")]
pub struct NotAnObject;

impl Push {
    /// Reads a push's body.
    ///
    /// # Errors
    ///
    /// [`NotAnObject`]; every other JSON object is some push.
    pub fn decode(body: &[u8]) -> Result<Self, NotAnObject> {
        let text = Text::of(body);
        let fields = Fields::parse(&text).ok_or(NotAnObject)?;
        let message = match recognise(&fields) {
            Some(message) => message,
            None if fields::nests_too_deep(text.as_str()) => return Err(NotAnObject),
            None => Message::Other {
                object: Some(serde_json::from_str(&lenient::text(body)).map_err(|_| NotAnObject)?),
                bytes: text.is_spoilt().then(|| body.to_vec()),
            },
        };
        Ok(Self { to_uid: fields.id("to_uid"), message })
    }

    /// What [`Self::decode`] would find of a push's kind and receiver, without decoding its content.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn heading(body: &[u8]) -> Result<(Kind, Option<Uid>), NotAnObject> {
        let text = Text::of(body);
        let fields = Fields::parse(&text).ok_or(NotAnObject)?.without_contents();
        match recognise(&fields) {
            Some(message) => Ok((message.kind(), fields.id("to_uid"))),
            None => Self::decode(body).map(|push| (Kind::Other, push.to_uid)),
        }
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
mod tests;
