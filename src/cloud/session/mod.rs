//! The session with iLink: registration, token, and whether calls are possible.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::backoff::Timing;
use super::client::Post;
use super::handshakes::HandshakeLog;
use super::registry::Registry;
use crate::protocol::{Account, Call, Qos, Reply, Subject, Uid};

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
    pub state_dir: PathBuf,
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
    token_dies: Option<Instant>,
}

impl Status {
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
        ambiguous: bool,
        /// Why it failed.
        cause: String,
        /// How long to wait at least; it grows with the failures of the same receiver.
        after: Duration,
    },
    /// Nothing was executed: the session cannot call now. Wait for [`Session::ready`].
    NotReady {
        /// Why.
        cause: String,
    },
}

/// A handle to the session's task; all clones are one session.
#[derive(Debug, Clone)]
pub struct Session {
    status: watch::Receiver<Status>,
    presence: watch::Receiver<Vec<(Uid, bool)>>,
}

impl Session {
    /// The status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The states of the configured presence uids: a new value after each reading, which follows every registration and
    /// every return of the cloud. Empty before the first.
    #[must_use]
    pub fn presence_states(&self) -> watch::Receiver<Vec<(Uid, bool)>> {
        self.presence.clone()
    }

    /// One attempt at a call, with the one renewal of token or registration and the one repeat that the manual's codes ask
    /// for. It waits for those at most, never for the cloud to come back. Dropping the future abandons the attempt; whether
    /// iLink executed it is then unknown.
    pub async fn call(&self, call: &Call) -> Outcome {
        let _ = call;
        std::future::ready(Outcome::NotReady { cause: String::new() }).await
    }

    /// Resolves when calls are possible.
    pub async fn ready(&self) {
        std::future::pending().await
    }

    /// Registers the callback on the operator's behalf, also if it is registered already; ends an explicit unregistration.
    ///
    /// # Errors
    ///
    /// Why it was not even tried or got no reply. A reply with an error code is no error here.
    pub async fn register(&self) -> Result<Reply, String> {
        std::future::ready(Err(String::new())).await
    }

    /// Unregisters on the operator's behalf; the session stays unregistered, across restarts, until [`Self::register`].
    ///
    /// # Errors
    ///
    /// As [`Self::register`].
    pub async fn unregister(&self) -> Result<Reply, String> {
        std::future::ready(Err(String::new())).await
    }

    /// Asks iLink whether our URL is registered.
    ///
    /// # Errors
    ///
    /// As [`Self::register`].
    pub async fn query(&self) -> Result<Reply, String> {
        std::future::ready(Err(String::new())).await
    }

    /// Takes over a changed configuration. Subscriptions that were added are made and those that were removed are ended; a
    /// changed callback URL is registered.
    pub fn reconfigure(&self, topics: Vec<(Subject, Qos)>, presence: Vec<Uid>, callback_url: SecretString) {
        let _ = (topics, presence, callback_url);
    }
}

/// Starts the session's task on the current runtime. It ends when `shutdown` is cancelled; cancel it after the last call.
pub fn start(
    client: impl Post,
    config: SessionConfig,
    registry: Arc<dyn Registry>,
    handshakes: HandshakeLog,
    shutdown: CancellationToken,
) -> (Session, JoinHandle<()>) {
    let _ = (client, config, registry, handshakes);
    let first = Status {
        state: CloudState::Offline,
        cause: "starting".to_owned(),
        since: SystemTime::now(),
        registered: false,
        token_dies: None,
    };
    let (told, status) = watch::channel(first);
    let (read, presence) = watch::channel(Vec::new());
    let task = tokio::spawn(async move {
        shutdown.cancelled().await;
        drop((told, read));
    });
    (Session { status, presence }, task)
}
