//! The outcome of a command, as the requester reads it, and where a requester may have it sent.
//!
//! A result is made once and stored as JSON; it may be published again with the same id. The deliver loop decides which status
//! applies. A result is published to [`Base::result`] and to the MQTT 5 Response Topic. The requester chooses that topic, but
//! the bridge publishes there with its own rights. So it is checked: otherwise a requester could have the bridge switch other
//! devices, or send commands to itself.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::command::{Reference, Rejection};
use super::escape::is_unsendable;
use super::filter::{MAX_SLASHES, MAX_STRING, matches};
use super::publication::Publication;
use super::topics::{Base, ResultTopics};
use crate::protocol::{Reply, ResultCode};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// iLink executed it.
    Ok,
    /// iLink refused it.
    Error,
    /// Its time ran out before it was sent.
    Expired,
    /// It may or may not have been executed.
    Uncertain,
    /// The bridge refused it.
    Rejected,
}

impl Status {
    /// The name in results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Expired => "expired",
            Self::Uncertain => "uncertain",
            Self::Rejected => "rejected",
        }
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandResult {
    /// The bridge's own id of the result.
    pub id: Ulid,
    /// The requester's mark.
    pub reference: Option<Reference>,
    /// How it ended.
    pub status: Status,
    /// iLink's code, if it ever answered.
    pub code: Option<i64>,
    /// How it ended, in one word.
    pub name: Cow<'static, str>,
    /// The same for people.
    pub message: String,
    /// What else iLink replied.
    pub data: Map<String, Value>,
    /// How often the call was posted.
    pub attempts: u32,
    /// From acceptance to the result, in milliseconds.
    pub elapsed_ms: u64,
}

/// The bytes are no result of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a stored result")]
pub struct NotAResult(#[source] Option<serde_json::Error>);

impl CommandResult {
    /// iLink gave its final answer.
    #[must_use]
    pub fn answered(id: Ulid, reference: Option<Reference>, reply: Reply, attempts: u32, elapsed_ms: u64) -> Self {
        let Reply { code, extra } = reply;
        Self {
            id,
            reference,
            status: if code.is_ok() { Status::Ok } else { Status::Error },
            code: Some(code.value()),
            name: code.name().into(),
            message: code.meaning().to_owned(),
            data: extra,
            attempts,
            elapsed_ms,
        }
    }

    /// The bridge refused the command.
    #[must_use]
    pub fn rejected(id: Ulid, rejection: Rejection, elapsed_ms: u64) -> Self {
        let Rejection { reason, message, reference } = rejection;
        Self {
            id,
            reference,
            status: Status::Rejected,
            code: None,
            name: reason.as_str().into(),
            message,
            data: Map::new(),
            attempts: 0,
            elapsed_ms,
        }
    }

    /// The command's time ran out; `last` is the code of iLink's last answer, `cause` what kept the command waiting.
    #[must_use]
    pub fn expired(
        id: Ulid,
        reference: Option<Reference>,
        last: Option<ResultCode>,
        cause: &str,
        attempts: u32,
        elapsed_ms: u64,
    ) -> Self {
        let message = with_cause("it expired before iLink executed it", cause);
        Self::unanswered(id, reference, Status::Expired, last, message, attempts, elapsed_ms)
    }

    /// The call may have been executed; `last` is the code of iLink's last answer, `cause` what went wrong.
    #[must_use]
    pub fn uncertain(
        id: Ulid,
        reference: Option<Reference>,
        last: Option<ResultCode>,
        cause: &str,
        attempts: u32,
        elapsed_ms: u64,
    ) -> Self {
        let message = with_cause("it may or may not have been executed", cause);
        Self::unanswered(id, reference, Status::Uncertain, last, message, attempts, elapsed_ms)
    }

    fn unanswered(
        id: Ulid,
        reference: Option<Reference>,
        status: Status,
        last: Option<ResultCode>,
        message: String,
        attempts: u32,
        elapsed_ms: u64,
    ) -> Self {
        let name = if status == Status::Expired { "expired" } else { "ambiguous" }.into();
        let code = last.map(ResultCode::value);
        Self { id, reference, status, code, name, message, data: Map::new(), attempts, elapsed_ms }
    }

    /// The same without what else iLink replied, which is too large to be stored.
    #[must_use]
    pub fn without_data(self) -> Self {
        let message = format!("{}; the rest of iLink's answer is too large to be stored, and left out", self.message);
        Self { message, data: Map::new(), ..self }
    }

    /// The result's JSON, `ref` as it was written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let reference = self.reference.as_ref().and_then(|mark| serde_json::from_str(mark.as_json()).ok());
        let wire = Wire {
            v: 1,
            id: self.id.to_string().into(),
            reference,
            status: self.status,
            code: self.code,
            name: Cow::Borrowed(&self.name),
            message: Cow::Borrowed(&self.message),
            data: &self.data,
            attempts: self.attempts,
            elapsed_ms: self.elapsed_ms,
        };
        // Strings, integers and checked JSON only: nothing that could fail.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads a result that [`CommandResult::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// [`NotAResult`] for anything else.
    pub fn from_json(json: &[u8]) -> Result<Self, NotAResult> {
        let wire: Wire<&RawValue> = serde_json::from_slice(json).map_err(|error| NotAResult(Some(error)))?;
        // By itself: one level down, the parser's limit would refuse a reply that nests as deep as it allows.
        let data = serde_json::from_str(wire.data.get()).map_err(|error| NotAResult(Some(error)))?;
        Ok(Self {
            id: Ulid::from_string(&wire.id).map_err(|_| NotAResult(None))?,
            reference: wire.reference.map(|raw| Reference::new(raw.get())),
            status: wire.status,
            code: wire.code,
            name: wire.name.into_owned().into(),
            message: wire.message.into_owned(),
            data,
            attempts: wire.attempts,
            elapsed_ms: wire.elapsed_ms,
        })
    }

    /// The messages to publish: the result, its name to the requester's ack topic if it has one, and the result once more
    /// to `response`, an allowed Response Topic with its Correlation Data.
    #[must_use]
    pub fn publications(&self, topics: ResultTopics, response: Option<(String, Option<Bytes>)>) -> Vec<Publication> {
        let json = self.to_json();
        let ack = topics.ack.map(|topic| Publication::raw(topic, self.name.as_bytes().to_vec()));
        let response = response.map(|(topic, correlation_data)| Publication {
            correlation_data,
            ..Publication::json(topic, json.clone())
        });
        let result = Publication::json(topics.result, json.clone());
        [Some(result), ack, response].into_iter().flatten().collect()
    }
}

fn with_cause(message: &str, cause: &str) -> String {
    if cause.is_empty() { message.to_owned() } else { format!("{message}: {cause}") }
}

/// The result, field by field in its public order.
#[derive(Serialize, Deserialize)]
struct Wire<'a, D> {
    v: u8,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "ref", borrow, default, skip_serializing_if = "Option::is_none")]
    reference: Option<&'a RawValue>,
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    name: Cow<'a, str>,
    message: Cow<'a, str>,
    data: D,
    attempts: u32,
    elapsed_ms: u64,
}

/// The first levels under the base with a meaning of their own.
const OWN_TREES: [&str; 8] = ["send", "call", "result", "recv", "event", "presence", "picture", "bridge"];
/// The same under `by/<client>/`.
const CLIENT_TREES: [&str; 4] = ["send", "call", "result", "ack"];

/// Whether a result may be sent to `topic`: only where `filters` (`mqtt.response_topics`) allow it, and under the base or
/// the discovery prefix only by a filter that spells these out, never where the topic already has a meaning.
///
/// # Errors
///
/// Why not, for the log.
pub fn response_topic_allowed(
    topic: &str,
    base: &Base,
    discovery_prefix: &str,
    filters: &[String],
) -> Result<(), String> {
    if topic.is_empty() || topic.len() > MAX_STRING || topic.matches('/').count() > MAX_SLASHES {
        return Err("it is empty or too long".to_owned());
    }
    if topic.contains(|c| matches!(c, '+' | '#' | '$') || is_unsendable(c)) {
        return Err("it holds a wildcard, a $ or a control character".to_owned());
    }
    let allowing = || filters.iter().filter(|filter| matches(filter, topic));
    if allowing().next().is_none() {
        return Err("no filter of mqtt.response_topics allows it".to_owned());
    }
    for (name, root) in [("base topic", base.as_str()), ("discovery prefix", discovery_prefix)] {
        if is_under(topic, root) && !allowing().any(|filter| is_under(filter, root)) {
            return Err(format!("it is under the {name}, which no filter of mqtt.response_topics allowing it names"));
        }
    }
    if topic == base.as_str() || base.strip(topic).is_some_and(has_a_meaning) {
        return Err("it is one of the bridge's own topics".to_owned());
    }
    Ok(())
}

fn is_under(topic: &str, root: &str) -> bool {
    !root.is_empty() && topic.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a topic (without the base) is in a tree that the bridge, its clients or its devices use otherwise.
fn has_a_meaning(topic: &str) -> bool {
    let mut levels = topic.split('/');
    match levels.next() {
        Some("by") => levels.nth(1).is_none_or(|tree| CLIENT_TREES.contains(&tree)),
        first => first.is_some_and(|tree| OWN_TREES.contains(&tree)),
    }
}

#[cfg(test)]
mod tests;
