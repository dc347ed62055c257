//! The session's interface in types: its configuration, outcomes and status.

use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use tokio::time::Instant;
use url::Url;

use super::doors::Endpoint;
use crate::cloud::{Executed, Timing};
use crate::os::files::Files;
use crate::protocol::{Account, Qos, Reply, ResultCode, Subject, Uid};

use std::convert::Infallible;
use std::future::Future;

use std::io;

/// Whether and when the session registers the callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegisterPolicy {
    /// If iLink does not confirm the registration that is on record.
    #[default]
    IfNeeded,
    /// At every start.
    Always,
    /// Not at all: `set_config` is never called, somebody else registers.
    Never,
}

/// What the session is built from.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Who we are to iLink.
    pub account: Account,
    /// The API's base URL: a stored token is good for this API alone.
    pub api: Url,
    /// Where `token.json` and `subscriptions.json` live.
    pub state_dir: Files,
    /// `callback.register`.
    pub register: RegisterPolicy,
    /// The whole callback URL; its last segment is a secret.
    pub callback_url: SecretString,
    /// The handshake's token.
    pub handshake_token: SecretString,
    /// `callback.verify_every`; zero is never.
    pub verify_every: Duration,
    /// `ilink.subscribe.topics`.
    pub topics: Vec<(Subject, Qos)>,
    /// `ilink.subscribe.presence`.
    pub presence: Vec<Uid>,
    /// The waits; the default unless in a test.
    pub timing: Timing,
}

/// The state of the connection to iLink, as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudState {
    /// Calls are possible and the callback is registered.
    Online,
    /// Something is wrong that time may mend; calls may be possible.
    Degraded,
    /// The configuration is wrong; somebody must mend it.
    AuthError,
    /// No callback is registered.
    Unregistered,
    /// iLink cannot be reached.
    Offline,
}

impl CloudState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Online, Self::Degraded, Self::AuthError, Self::Unregistered, Self::Offline];

    /// The name on `bridge/cloud`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::AuthError => "auth_error",
            Self::Unregistered => "unregistered",
            Self::Offline => "offline",
        }
    }
}

/// An endpoint that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedEndpoint {
    /// Which.
    pub endpoint: Endpoint,
    /// What its calls met last.
    pub cause: String,
    /// When that began.
    pub since: SystemTime,
}

/// What can be told about the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: CloudState,
    /// Why, in plain words with a remedy; empty when all is well.
    pub cause: String,
    /// When the state was entered.
    pub since: SystemTime,
    /// Whether the callback is registered, as far as we know. With [`RegisterPolicy::Never`] it is taken for granted until
    /// iLink says otherwise.
    pub registered: bool,
    /// Endpoints whose calls wait while others are made.
    pub closed: Vec<ClosedEndpoint>,
    pub(super) token_dies: Option<Instant>,
    pub(super) token_life: Duration,
}

impl Status {
    /// Of a bridge that has no session, because another one has it.
    #[must_use]
    pub fn without_session() -> Self {
        Self {
            state: CloudState::Offline,
            cause: "another member of the cluster leads and has the session with iLink".to_owned(),
            since: SystemTime::now(),
            registered: false,
            closed: Vec::new(),
            token_dies: None,
            token_life: Duration::ZERO,
        }
    }

    /// How old the token is; none if there is none.
    #[must_use]
    pub fn token_age(&self) -> Option<Duration> {
        self.token_expires_in().map(|left| self.token_life.saturating_sub(left))
    }

    /// How long the token still lives; none if there is none.
    #[must_use]
    pub fn token_expires_in(&self) -> Option<Duration> {
        self.token_dies.map(|dies| dies.saturating_duration_since(Instant::now()))
    }
}

/// How one attempt at a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// iLink's last word: done, or failed for good.
    Reply(Reply),
    /// It failed and may succeed later.
    Retry {
        /// Whether it may have been executed.
        executed: Executed,
        /// What iLink said, if it answered.
        code: Option<ResultCode>,
        /// Why it failed.
        cause: String,
        /// How long the answer asks us to wait.
        after: Option<Duration>,
    },
    /// Nothing was executed: this call is not possible now.
    NotReady {
        /// Why.
        cause: String,
        /// What iLink refused this very call with; none if it was not posted.
        code: Option<ResultCode>,
        /// This call alone has to wait, that long; none if its endpoint is closed: wait for [`Doors`](super::Doors).
        after: Option<Duration>,
    },
}

/// What a caller wants looked at before each request that is made on its behalf: a call may be posted again with a new token.
pub trait Gate: Send + Sync {
    /// Why a request must not leave.
    type Shut: Send;

    /// Resolves when the request may leave, and that at once. Quick: the session has nothing left to wait for.
    fn pass(&self) -> impl Future<Output = Result<(), Self::Shut>> + Send;

    /// What has left was refused for certain; before it leaves again, something is renewed, which may take long.
    fn refused(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Never shut: for a call that may be made at any time.
pub(super) struct Open;

impl Gate for Open {
    type Shut = Infallible;

    async fn pass(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The record of the registration. Both the token and the path secret in the URL are durable before the session starts.
///
/// The session calls these from a thread that may block. A record belongs to one API, `AppKey` and uid; with others there is
/// none. `url` is the whole callback URL with its secret.
pub trait Registry: Send + Sync + 'static {
    /// Whether iLink confirmed this very URL and token.
    fn confirmed(&self, url: &SecretString, token: &SecretString) -> bool;

    /// Notes that iLink confirmed them; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn record(&self, url: &SecretString, token: &SecretString) -> io::Result<()>;

    /// Forgets what was recorded; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn forget(&self) -> io::Result<()>;

    /// Whether the operator unregistered and has not registered since.
    fn unregistered_by_operator(&self) -> bool;

    /// Remembers that the operator unregistered, or registered again; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn set_unregistered_by_operator(&self, unregistered: bool) -> io::Result<()>;
}
