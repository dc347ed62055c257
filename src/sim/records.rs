//! The records of calls, handshakes and pushes, and of what happened lately, for `GET /sim/state`. Each log is bounded
//! in entries and bytes.

use std::collections::VecDeque;

use serde::de::value::StrDeserializer;
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::protocol::{Receiver, Uid};

/// The seven paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Path {
    SetConfig,
    GetAccessToken,
    SendMsg,
    HamGroup,
    HamUser,
    HamAddUser,
    HamTopic,
}

impl Path {
    /// By its name, without a slash.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }
}

/// When a call is made, by the clocks that matter to it.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Since the Unix epoch.
    pub(super) ms: u64,
}

impl Now {
    pub(super) fn seconds(self) -> u64 {
        self.ms / 1000
    }
}

/// A call that was executed: what the reply holds beside code 0, and what followed from it.
#[derive(Default)]
pub(super) struct Done {
    pub(super) extra: Map<String, Value>,
    pub(super) pushes: Vec<Outgoing>,
    pub(super) sent: Option<Sent>,
}

/// A message that some client sent through the service.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Who sent it.
    pub from: Uid,
    /// Whom it was sent to.
    pub to: Receiver,
    /// Its decoded content.
    pub content: Vec<u8>,
}

/// A handshake that was made.
#[derive(Serialize)]
pub(super) struct Handshake {
    pub(super) at: String,
    pub(super) uid: Uid,
    pub(super) url: String,
    pub(super) result: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    pub(super) took_ms: u64,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Verified,
    /// 200, but not `echostr` and nothing else.
    WrongAnswer,
    ErrorStatus,
    Unanswered,
}

/// A push and what came of it so far.
#[derive(Debug, Clone, Serialize)]
pub struct PushRecord {
    /// Its number, from 0.
    pub id: u64,
    /// When it arose.
    pub at: String,
    /// The registered uid whose callback it goes to; the body may say otherwise.
    pub to_uid: Uid,
    /// The body, verbatim.
    pub body: Box<RawValue>,
    /// What came of it.
    pub outcome: Outcome,
    /// The tries, in their order.
    pub tries: Vec<Try>,
}

/// What came of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It waits or is being tried.
    Pending,
    /// The last try was answered 2xx, whatever the code in the answer.
    Answered,
    /// The last try was answered with another status.
    ErrorStatus,
    /// No try was answered.
    Unanswered,
    /// The receiver was no longer registered when its turn came.
    NotRegistered,
    /// Too many pushes were waiting for this receiver.
    QueueFull,
}

/// One try of a push.
#[derive(Debug, Clone, Serialize)]
pub struct Try {
    /// When it began.
    pub at: String,
    /// How long it took.
    pub took_ms: u64,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The `code` in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// The beginning of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Try {
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            None => Outcome::Unanswered,
            Some(200..=299) => Outcome::Answered,
            Some(_) => Outcome::ErrorStatus,
        }
    }
}

/// A push that arose, for one receiver.
pub(super) struct Outgoing {
    pub(super) to: Uid,
    pub(super) body: Box<RawValue>,
}

/// A message (§4.1, §4.2, §4.4); `group_id` is the group, or the subject of a topic.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) from_uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group_id: Option<&'a str>,
    pub(super) create_time: u64,
    pub(super) msg_type: u8,
    pub(super) content: &'a str,
}

impl Message<'_> {
    pub(super) fn to(self, to: &Uid) -> Option<Outgoing> {
        #[derive(Serialize)]
        struct Addressed<'a> {
            to_uid: &'a Uid,
            #[serde(flatten)]
            message: Message<'a>,
        }
        body(to, &Addressed { to_uid: to, message: self })
    }
}

/// A user came or went (§4.3).
pub(super) fn presence(from: &Uid, to: &Uid, online: bool, time: u64) -> Option<Outgoing> {
    #[derive(Serialize)]
    struct Presence<'a> {
        from_uid: &'a Uid,
        to_uid: &'a Uid,
        msg_type: u8,
        time: u64,
        r#type: u8,
    }
    body(to, &Presence { from_uid: from, to_uid: to, msg_type: 4, time, r#type: u8::from(online) })
}

/// `None` cannot happen: these structures have string keys only.
fn body(to: &Uid, body: &impl Serialize) -> Option<Outgoing> {
    to_raw_value(body).ok().map(|body| Outgoing { to: to.clone(), body })
}

/// Entries one log keeps.
const MAX_ENTRIES: usize = 1000;
/// Bytes one log keeps, roughly: bodies may be large.
const MAX_BYTES: usize = 8 << 20;

/// The three logs.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) calls: Log<CallRecord>,
    pub(super) handshakes: Log<Handshake>,
    pub(super) pushes: Log<PushRecord>,
}

/// A call that was made.
#[derive(Serialize)]
pub(super) struct CallRecord {
    pub(super) at: String,
    pub(super) path: Path,
    /// With secrets masked.
    pub(super) body: Value,
    /// Whether it came with an access token in its query.
    pub(super) with_token: bool,
    /// The result code it was answered with; none while, or because, it was not answered so.
    pub(super) code: Option<i64>,
    /// The mode of the fault that it met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<&'static str>,
}

/// The newest entries of one kind; entries are numbered from 0 for ever.
pub(super) struct Log<T> {
    entries: VecDeque<(usize, T)>,
    bytes: usize,
    dropped: u64,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, dropped: 0 }
    }
}

impl<T> Log<T> {
    /// Adds an entry of about that many bytes and says its number; the newest is always kept.
    pub(super) fn note(&mut self, entry: T, bytes: usize) -> u64 {
        let number = self.total();
        self.entries.push_back((bytes, entry));
        self.bytes += bytes;
        while self.entries.len() > 1 && (self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES) {
            if let Some((bytes, _)) = self.entries.pop_front() {
                self.bytes -= bytes;
                self.dropped += 1;
            }
        }
        number
    }

    /// An entry that may still be amended; none if it was dropped meanwhile.
    pub(super) fn entry(&mut self, number: u64) -> Option<&mut T> {
        let index = usize::try_from(number.checked_sub(self.dropped)?).ok()?;
        self.entries.get_mut(index).map(|(_, entry)| entry)
    }

    /// The number of the next entry, and so how many there ever were.
    pub(super) fn total(&self) -> u64 {
        self.dropped + u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }
}

impl<T: Serialize> Serialize for Log<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.entries.len()))?;
        for (_, entry) in &self.entries {
            list.serialize_element(entry)?;
        }
        list.end()
    }
}

/// The body of a call without its secrets. What is not an object is shown by its size only: it may hold anything.
pub(super) fn masked(body: Option<&Map<String, Value>>, size: usize) -> Value {
    let Some(body) = body else { return json!({"not_an_object_of_bytes": size}) };
    let mask = |(key, value): (&String, &Value)| {
        let name = key.to_ascii_lowercase();
        let secret = name.contains("secret") || name.contains("token");
        (key.clone(), if secret { json!("********") } else { value.clone() })
    };
    Value::Object(body.iter().map(mask).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_numbers_stay() {
        let mut log = Log::default();
        for n in 0..MAX_ENTRIES + 5 {
            assert_eq!(log.note(n, 1), n as u64);
        }
        assert_eq!(log.entries.len(), MAX_ENTRIES);
        assert!(log.entry(4).is_none());
        assert_eq!(log.entry(5), Some(&mut 5));
        assert_eq!(log.total(), MAX_ENTRIES as u64 + 5);
        let big = log.note(7, MAX_BYTES + 1);
        assert_eq!((log.entries.len(), log.entry(big)), (1, Some(&mut 7)));
    }

    #[test]
    fn secrets_are_masked_under_any_spelling() {
        let body = json!({"secretkey": "s", "SecretKey ": "s", "token": "t", "access_token": "t", "uid": "1"});
        let shown = masked(body.as_object(), 0).to_string();
        assert!(!shown.contains("\"s\"") && !shown.contains("\"t\"") && shown.contains("\"uid\":\"1\""), "{shown}");
    }
}
