//! What a push becomes on the LAN: its raw copy, its JSON envelope, and a user's retained presence.
//!
//! Which of them are published depends on `mqtt.output` and on the caller's findings ([`Flags`], stale presence). The caller
//! judges ages, senders' permissions and earlier presence. All copies carry the same id.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use ulid::Ulid;

use super::escape::escape_property;
use super::filter::MAX_STRING;
use super::names::Names;
use super::picture;
use super::publication::Publication;
use super::topics::Base;
use crate::protocol::content;
use crate::protocol::{Content, Message, Push, Uid};

/// What the bridge adds to a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The bridge's own id of the push, the same in every copy.
    pub id: Ulid,
    /// When it was accepted: RFC 3339, UTC, milliseconds.
    pub received_at: String,
}

/// Which copies of a message are published (`mqtt.output`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Raw and JSON.
    #[default]
    Both,
    /// Only `recv/`.
    Raw,
    /// Only `event/`.
    Json,
}

/// `mqtt.output` is none of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the output is \"both\", \"raw\" or \"json\"")]
pub struct UnknownOutput;

impl FromStr for Output {
    type Err = UnknownOutput;

    fn from_str(text: &str) -> Result<Self, UnknownOutput> {
        match text {
            "both" => Ok(Self::Both),
            "raw" => Ok(Self::Raw),
            "json" => Ok(Self::Json),
            _ => Err(UnknownOutput),
        }
    }
}

/// How pushes are published here.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Where.
    pub base: &'a Base,
    /// Which copies.
    pub output: Output,
    /// What ids are called.
    pub names: &'a Names,
}

/// Why a push goes to `event/` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// A raw message would come too late to be a command. Means nothing for kinds that have no raw message.
    pub late: bool,
    /// The sender is not one of `inbound.allow_from`.
    pub not_allowed: bool,
}

/// The messages that a push becomes, in the order in which to publish them: the raw or retained one, then the envelope.
///
/// `stale_presence` says that newer presence of the user was published before; `raw_deadline` is the boot-time instant at
/// which a raw message becomes late. Nothing is published of an `other` push if the output is raw: it has no raw form.
#[must_use]
pub fn publications(
    shape: Shape<'_>,
    push: &Push,
    received: &Received,
    flags: Flags,
    stale_presence: bool,
    raw_deadline: Option<Duration>,
) -> Vec<Publication> {
    let Shape { base, output, names } = shape;
    let message = &push.message;
    let flags = Flags { late: flags.late && message.content().is_some(), ..flags };
    let raw = match message {
        Message::Presence { from, online, .. } => {
            let payload = if *online { "online" } else { "offline" };
            (!stale_presence).then(|| Publication::raw(base.presence(from), payload).retained())
        }
        _ => base.recv(message).zip(message.content()).map(|(topic, content)| command(topic, content, raw_deadline)),
    };
    let event_alone = flags.late || flags.not_allowed || stale_presence;
    // Presence is state rather than a command: the output does not choose its retained topic away.
    let raw = raw.filter(|raw| !event_alone && (raw.retain || output != Output::Json));
    let event = (event_alone || output != Output::Raw)
        .then(|| Publication::json(base.event(message.kind()), envelope_json(push, received, flags, names)));

    let properties = user_properties(message, received);
    let both = raw.into_iter().chain(event);
    both.map(|publication| Publication { user_properties: Arc::clone(&properties), ..publication }).collect()
}

/// The retained publication of a picture: of a file that is one. It is a state, as presence is: how old it is does not matter.
#[must_use]
pub fn picture_of(base: &Base, push: &Push, received: &Received) -> Option<Publication> {
    let Message::File { from, content, .. } = &push.message else { return None };
    let content_type = picture::media_type(&content.bytes)?;
    let raw = Publication::raw(base.picture(from), content.bytes.clone()).retained();
    let user_properties = user_properties(&push.message, received);
    Some(Publication { content_type: Some(content_type), user_properties, ..raw })
}

fn command(topic: String, content: &Content, deadline: Option<Duration>) -> Publication {
    Publication { deadline, ..Publication::raw(topic, content.bytes.clone()) }
}

/// A value that no MQTT string can hold is left out: the envelope has it in full, and must not fail for it.
fn user_properties(message: &Message, received: &Received) -> Arc<[(&'static str, String)]> {
    let group_id = match message {
        Message::Group { group, .. } => Some(group.as_str()),
        _ => None,
    };
    let id = |id: &str| escape_property(id).into_owned();
    let properties = [
        ("id", Some(received.id.to_string())),
        ("kind", Some(message.kind().as_str().to_owned())),
        ("from_uid", message.from_uid().map(|uid| id(uid.as_str()))),
        ("group_id", group_id.map(id)),
        ("time", message.time().map(|time| time.to_string())),
    ];
    properties
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| value.len() <= MAX_STRING)?)))
        .collect()
}

/// The envelope, field by field in its public order.
#[derive(Serialize)]
struct Wire<'a> {
    v: u8,
    id: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
    received_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    content_not_base64: bool,
    #[serde(skip_serializing_if = "is_false")]
    late: bool,
    #[serde(skip_serializing_if = "is_false")]
    not_allowed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The JSON envelope of a push.
#[must_use]
pub fn envelope_json(push: &Push, received: &Received, flags: Flags, names: &Names) -> Vec<u8> {
    let message = &push.message;
    let (content, encoding) = match message.content() {
        None => (None, None),
        Some(Content { bytes, .. }) => match std::str::from_utf8(bytes) {
            Ok(text) => (Some(Cow::Borrowed(text)), Some("utf8")),
            Err(_) => (Some(Cow::Owned(content::encode(bytes))), Some("base64")),
        },
    };
    let mut wire = Wire {
        v: 1,
        id: received.id.to_string(),
        kind: message.kind().as_str(),
        from_uid: message.from_uid().map(Uid::as_str),
        name: message.from_uid().and_then(|uid| names.of_user(uid)),
        to_uid: push.to_uid.as_ref().map(Uid::as_str),
        group_id: None,
        group_name: None,
        subject: None,
        subject_name: None,
        time: message.time(),
        received_at: &received.received_at,
        online: None,
        content,
        encoding,
        body: None,
        body_base64: None,
        content_not_base64: message.content().is_some_and(|content| content.not_base64),
        late: flags.late,
        not_allowed: flags.not_allowed,
    };
    match message {
        Message::Presence { online, .. } => wire.online = Some(*online),
        Message::Topic { subject, .. } => {
            (wire.subject, wire.subject_name) = (Some(subject.as_str()), names.of_subject(subject));
        }
        Message::Group { group, .. } => {
            (wire.group_id, wire.group_name) = (Some(group.as_str()), names.of_group(group));
        }
        Message::Text { .. } | Message::File { .. } => {}
        Message::Other { object, bytes } => {
            wire.body = object.as_deref();
            wire.body_base64 = bytes.as_deref().map(content::encode);
        }
    }
    // Strings, integers and checked JSON only: nothing that could fail.
    serde_json::to_vec(&wire).unwrap_or_default()
}

#[cfg(test)]
mod tests;
