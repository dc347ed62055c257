//! The messages between the handles, the task, and the calls that the task makes.

use std::io;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::blame::Mark;
use super::doors::Endpoint;
use crate::cloud::TransportError;
use crate::protocol::{Qos, Reply, ResultCode, Subject, Uid};

/// What a call needs, as the task publishes it.
#[derive(Clone)]
pub(super) struct Access {
    /// The token, also while calls have to wait.
    pub(super) grant: Option<Grant>,
    /// Counts registrations.
    pub(super) registration: u64,
    /// Counts how often the way was opened: what an attempt from before tells about it is no news.
    pub(super) opening: u64,
}

#[derive(Clone)]
pub(super) struct Grant {
    pub(super) token: SecretString,
    /// Counts tokens.
    pub(super) generation: u64,
}

impl Access {
    pub(super) fn generation(&self) -> u64 {
        self.grant.as_ref().map_or(0, |grant| grant.generation)
    }
}

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A device or the operator.
    Command,
    /// The session itself: subscriptions, presence.
    Upkeep,
    /// The session itself, to learn whether calls are possible: not stopped by a hold.
    Probe,
}

/// Who made a call, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) endpoint: Endpoint,
    pub(super) mark: Mark,
    pub(super) origin: Origin,
    /// Nobody else might call meanwhile: this call tells.
    pub(super) single: bool,
    /// How many calls had been served when it began.
    pub(super) served: u64,
}

/// Why a caller gets no renewal.
pub(super) struct NoRenewal {
    pub(super) cause: String,
    /// This call alone has to wait, that long.
    pub(super) after: Option<Duration>,
    /// The task has drawn its conclusions from the refusal already.
    pub(super) seen: bool,
}

/// What is renewed so that a call can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    Token,
    Registration,
}

/// What the task is told.
pub(super) enum Ask {
    /// iLink wants another token or registration than the one in `used`.
    Renew {
        what: Renewal,
        code: ResultCode,
        used: Access,
        caller: Caller,
        answer: oneshot::Sender<Result<Access, NoRenewal>>,
    },
    /// iLink refused a call for a reason that may hold for all calls, after the renewal if there is one. Answered by how long
    /// this call alone has to wait.
    Refused { code: ResultCode, used: Access, caller: Caller, answer: oneshot::Sender<Option<Duration>> },
    /// The service is in trouble, or asks for patience.
    Busy { code: ResultCode, used: Access, caller: Caller, heard: oneshot::Sender<()> },
    /// A call got no reply.
    Lost { error: TransportError, used: Access, caller: Caller, heard: oneshot::Sender<()> },
    /// A call was served: told while somebody wants to know.
    Served { used: Access, caller: Caller, heard: oneshot::Sender<()> },
    /// The operator wants something.
    Verb { verb: Verb, answer: oneshot::Sender<Result<Reply, String>> },
    /// The configuration was read again.
    Reconfigure { topics: Vec<(Subject, Qos)>, presence: Vec<Uid>, callback_url: SecretString },
}

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Register,
    Unregister,
    Query,
}

/// How an attempt ended.
pub(super) enum Attempt {
    /// A reply that says nothing bad about the session.
    Reply(Reply),
    /// The service is in trouble, or asks for patience.
    Later(ResultCode),
    /// No reply.
    Lost(TransportError),
    /// The session cannot call now.
    NotReady {
        cause: String,
        /// What iLink refused this very call with.
        code: Option<ResultCode>,
        /// This call alone has to wait, that long.
        after: Option<Duration>,
    },
}

/// What becomes of a renewal that a call asks for.
pub(super) enum Renewing {
    /// It is under way, or there is something newer already.
    Yes,
    /// There is none; that call alone has to wait so long.
    No(Option<Duration>),
}

pub(super) type Posted = Result<Reply, TransportError>;

/// A `set_config` or `get_access_token` that has come to an end.
pub(super) enum Done {
    /// Whether this URL is registered.
    Query { url: SecretString, posted: Posted },
    /// To have this URL registered; with what the callback saw meanwhile.
    Register { url: SecretString, posted: Posted, seen: String },
    /// To have none registered, and how recording it went.
    Unregister(Posted, io::Result<()>),
    /// For a token, at this moment.
    Token(Posted, Instant),
}
