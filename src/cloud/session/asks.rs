//! What passes between the handles and the task.

use secrecy::SecretString;
use tokio::sync::oneshot;

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
        origin: Origin,
        answer: oneshot::Sender<Result<Access, String>>,
    },
    /// iLink refused a call for a reason that holds for all calls, after the renewal if there is one.
    Trouble { code: ResultCode, used: Access, origin: Origin, heard: oneshot::Sender<()> },
    /// A call got no reply.
    Lost { error: TransportError, used: Access, heard: oneshot::Sender<()> },
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
    },
}
