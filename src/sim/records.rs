//! What is written down of calls, handshakes and pushes, and what passes between those who make them.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::protocol::{Receiver, Uid};

use serde_json::value::{RawValue, to_raw_value};

/// The seven paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
        Some(match name {
            "set_config" => Self::SetConfig,
            "get_access_token" => Self::GetAccessToken,
            "send_msg" => Self::SendMsg,
            "ham_group" => Self::HamGroup,
            "ham_user" => Self::HamUser,
            "ham_add_user" => Self::HamAddUser,
            "ham_topic" => Self::HamTopic,
            _ => return None,
        })
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

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
