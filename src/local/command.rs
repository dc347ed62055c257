//! Commands: what a message on a command topic asks for, or why it is refused.
//!
//! Raw topics (`send/…`) name the call and the receiver; the payload is the content and is never parsed. Call topics (`call/…`)
//! name the call; the payload is a JSON object with the vendor's fields, read strictly. `mqtt.allow_calls` applies to both:
//! `send/user/<uid>/text` *is* `send_msg/text`, so forbidding the call forbids the topic.
//!
//! Refusals that do not depend on the content (retained, queue full) are made by the caller, with [`Rejection::new`] and
//! [`reference()`].

use std::fmt;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::calls::{Fault, Fields, json_call, shown, too_large};
use super::escape::{BadTopic, unescape_id, unescape_subject};
use super::names::{Nameable, Names};
use super::topics::{Base, CommandTopic, Tree};
use crate::protocol::Call;

const MAX_REFERENCE: usize = 256;
/// 30 days, in seconds.
const MAX_TTL: u64 = 2_592_000;

/// A call that was asked for, checked as far as it can be without iLink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The call.
    pub call: Call,
    /// The requester's own mark, echoed in the result.
    pub reference: Option<Reference>,
    /// For how long the command is good, in seconds.
    pub ttl: Option<u64>,
}

/// A command's `ref`: the JSON text of a string or a number, echoed as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference(String);

impl Reference {
    pub(super) fn new(json: &str) -> Self {
        Self(json.to_owned())
    }

    /// The JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// What a message on a command topic is, if it is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A command to execute.
    Command(Command),
    /// The bridge's own self-test with its random part: neither executed nor answered.
    SelfTest(String),
}

/// A refused command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The result's `name`.
    pub reason: Reason,
    /// What is wrong and what is allowed, for people.
    pub message: String,
    /// The requester's mark, if it could be read.
    pub reference: Option<Reference>,
}

impl Rejection {
    /// A refusal.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>, reference: Option<Reference>) -> Self {
        Self { reason, message: message.into(), reference }
    }
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The topic names no call, or no receiver.
    BadTopic,
    /// The payload is not what the call takes.
    BadPayload,
    /// The decoded content is larger than `outbound.max_content`.
    TooLarge,
    /// The message was retained.
    Retained,
    /// `mqtt.allow_calls` does not have the call.
    NotAllowed,
    /// The spool has no room.
    QueueFull,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::BadTopic, Self::BadPayload, Self::TooLarge, Self::Retained, Self::NotAllowed, Self::QueueFull];

    /// The `name` in results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadTopic => "bad_topic",
            Self::BadPayload => "bad_payload",
            Self::TooLarge => "too_large",
            Self::Retained => "retained",
            Self::NotAllowed => "not_allowed",
            Self::QueueFull => "queue_full",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Globs over the names of calls: `*` is any text, slashes included, `?` one character.
#[derive(Debug, Clone, PartialEq)]
pub struct Globs(Vec<WildMatch>);

impl Globs {
    /// The globs of `mqtt.allow_calls`.
    pub fn new<S: AsRef<str>>(globs: impl IntoIterator<Item = S>) -> Self {
        Self(globs.into_iter().map(|glob| WildMatch::new(glob.as_ref())).collect())
    }

    /// Every call: what the command line may do.
    #[must_use]
    pub fn all() -> Self {
        Self::new(["*"])
    }

    /// Whether one of them matches.
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }
}

/// What the configuration has to say on commands.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// `mqtt.allow_calls`.
    pub allow_calls: Globs,
    /// `outbound.max_content`, in bytes.
    pub max_content: usize,
}

impl Rules {
    fn allow(&self, name: &str) -> Result<(), String> {
        if self.allow_calls.allow(name) { Ok(()) } else { Err(format!("mqtt.allow_calls does not have {name}")) }
    }
}

/// Reads a message on a command topic; ids in it may be names.
///
/// # Errors
///
/// The refusal: of the topic first, then by `mqtt.allow_calls`, then of the payload.
pub fn decode(base: &Base, topic: &str, payload: &[u8], rules: &Rules, names: &Names) -> Result<Parsed, Rejection> {
    let command = match base.command_topic(topic) {
        Some(CommandTopic { tree: Tree::Send, rest, .. }) => decode_send(rest, payload, rules, names)?,
        Some(CommandTopic { tree: Tree::Call, rest, client, .. }) => match rest.split_once('/') {
            Some(("self_test", random)) if client.is_none() && !random.is_empty() && !random.contains('/') => {
                return Ok(Parsed::SelfTest(random.to_owned()));
            }
            _ => decode_call(rest, payload, rules, names)?,
        },
        None => return Err(Rejection::new(Reason::BadTopic, "no commands are taken on this topic", None)),
    };
    Ok(Parsed::Command(command))
}

/// The `ref` of a message on a command topic, if it has one that can be read: for refusals that do not ask what it says.
#[must_use]
pub fn reference(base: &Base, topic: &str, payload: &[u8]) -> Option<Reference> {
    match base.command_topic(topic)?.tree {
        Tree::Send => None,
        Tree::Call => reference_in(&Fields::parse(payload).ok()?).ok()?,
    }
}

fn reference_in(fields: &Fields) -> Result<Option<Reference>, Fault> {
    Ok(fields.scalar("ref", MAX_REFERENCE)?.map(Reference::new))
}

/// Reads a raw message: `rest` is the topic after `send/`.
fn decode_send(rest: &str, payload: &[u8], rules: &Rules, names: &Names) -> Result<Command, Rejection> {
    let reject = |reason, message: String| Rejection::new(reason, message, None);
    // What is too large is refused below, and not copied first.
    let content = payload.get(..rules.max_content).unwrap_or(payload);
    let call = send_call(rest, content, names).map_err(|message| reject(Reason::BadTopic, message))?;
    rules.allow(call.name()).map_err(|message| reject(Reason::NotAllowed, message))?;
    if payload.is_empty() {
        return Err(reject(Reason::BadPayload, "the payload is the message and must not be empty".to_owned()));
    }
    if payload.len() > rules.max_content {
        return Err(Fault::reject(too_large(payload.len(), rules.max_content), None));
    }
    Ok(Command { call, reference: None, ttl: None })
}

/// The call that a raw topic means: `rest` is the topic after `send/`.
///
/// # Errors
///
/// Why it names no call or no receiver.
pub fn send_call(rest: &str, payload: &[u8], names: &Names) -> Result<Call, String> {
    let (kind, receiver) = rest.split_once('/').unwrap_or((rest, ""));
    let content = payload.to_vec();
    match (kind, receiver.rsplit_once('/')) {
        ("user", Some((uid, "text"))) => Ok(Call::SendText { to: id(uid, unescape_id, names)?, content }),
        ("user", Some((uid, "file"))) => Ok(Call::SendFile { to: id(uid, unescape_id, names)?, content }),
        ("group", _) => Ok(Call::SendGroup { group: id(receiver, unescape_id, names)?, content }),
        ("topic", _) => Ok(Call::Publish { subject: id(receiver, unescape_subject, names)?, content }),
        _ => Err("raw topics are send/user/<uid>/text, send/user/<uid>/file, send/group/<group_id> and \
                  send/topic/<subject>"
            .to_owned()),
    }
}

/// The id that stands in a topic, itself or by its name. An `@` that is escaped begins no name.
fn id<T: Nameable>(written: &str, unescape: fn(&str) -> Result<String, BadTopic>, names: &Names) -> Result<T, String> {
    let text = unescape(written).map_err(|error| error.to_string())?;
    let by_name = if written.starts_with('@') { names.named(&text) } else { None };
    by_name.unwrap_or_else(|| T::try_from(text).map_err(|_| BadTopic::Empty.to_string()))
}

/// Reads a call by its name and its JSON fields.
///
/// # Errors
///
/// The refusal, in the order of [`decode`].
pub fn decode_call(name: &str, json: &[u8], rules: &Rules, names: &Names) -> Result<Command, Rejection> {
    let json = if json.is_empty() && name == "ham_group/list" { b"{}" } else { json };
    let fields = Fields::parse(json);
    let reference = fields.as_ref().map_or(Ok(None), reference_in);
    let mark = reference.as_ref().ok().cloned().flatten();
    let reject = |reason, message| Rejection::new(reason, message, mark.clone());

    let call = json_call(name).ok_or_else(|| reject(Reason::BadTopic, format!("there is no call {}", shown(name))))?;
    rules.allow(name).map_err(|message| reject(Reason::NotAllowed, message))?;
    let read = || {
        let fields = fields?.naming(names);
        fields.expect_only(&[call.fields, &["ref", "ttl"]].concat())?;
        let (reference, ttl) = (reference?, fields.integer("ttl", 1..=MAX_TTL)?);
        Ok(Command { call: (call.read)(&fields, rules.max_content)?, reference, ttl })
    };
    read().map_err(|fault: Fault| fault.reject(mark.clone()))
}

impl Fault {
    fn reject(self, reference: Option<Reference>) -> Rejection {
        match self {
            Self::Payload(message) => Rejection::new(Reason::BadPayload, message, reference),
            Self::TooLarge(message) => Rejection::new(Reason::TooLarge, message, reference),
        }
    }
}

#[cfg(test)]
mod tests;
