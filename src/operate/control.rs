//! The control socket: the operator's verbs, carried out by a running daemon. [`crate::app::alone`] does them without one.
//!
//! The socket is `control.sock` in the state directory, accessible to its owner alone. Each connection carries one request and
//! one answer, each a JSON document on one line.

mod answers;
#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::cli::{EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE};
use crate::cloud::Session;
use crate::config::Config;
use crate::observe::log::Recent;
use crate::observe::progress;
use crate::operate::set_aside::{self, Desk, NotDone, Which};
use crate::operate::status::bundle::{Bundle, METRICS, Pseudonyms};
use crate::operate::status::{Overview, Report, Reports, Role};
use crate::os::tasks::Children;
use crate::state_dir::Identity;
pub use answers::{Answer, answer, internal, outcome, parse_call, url};

/// The largest request: a call's JSON.
const REQUEST_MAX: u64 = 4 * 1024 * 1024;
/// How long a daemon may take for a verb beside its calls to iLink.
const OWN_TIME: Duration = Duration::from_mins(1);
/// More calls than a verb waits for: its own, renewals, repeats, and what is under way when it comes.
const MOST_CALLS: u32 = 8;

/// The path of the control socket in a state directory.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Opens the socket; the caller holds the state directory's lock, so a file that is there is a leftover.
///
/// # Errors
/// If it cannot be made.
pub fn bind(state_dir: &Path) -> io::Result<UnixListener> {
    let path = socket(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers on `listener` until `stop`.
pub async fn serve(listener: UnixListener, verbs: Arc<Verbs>, stop: CancellationToken) {
    let mut children = Children::default();
    loop {
        // accept() and ended() are cancel-safe.
        let accepted = tokio::select! {
            () = stop.cancelled() => return children.all_ended().await,
            () = children.ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let verbs = Arc::clone(&verbs);
        children.spawn(async move {
            if let Err(error) = connection(stream, &verbs).await {
                debug!(%error, "a connection on the control socket ended early");
            }
        });
    }
}

async fn connection(mut stream: UnixStream, verbs: &Verbs) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    timeout(Duration::from_secs(5), BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(verb) => verbs.execute(verb).await,
        // Without the parser's own message, which may quote a call's content.
        Err(_) => {
            Answer { exit: 64, text: "the daemon does not understand this verb: is it another version?".to_owned() }
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Has a running daemon carry out `verb`; none if no daemon listens there.
///
/// # Errors
/// If a daemon was reached and did not answer.
pub async fn ask(config: &Config, verb: &Verb) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket(&config.state_dir)).await {
        Ok(stream) => stream,
        Err(error) => {
            // No daemon of ours listens there; whoever then takes the state directory's lock says what is wrong with it.
            let none = matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
            );
            return if none { Ok(None) } else { Err(error) };
        }
    };
    let mut bytes = serde_json::to_vec(verb)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await?;
    let mut answer = String::new();
    let calls = if verb.calls() { MOST_CALLS * config.ilink.timeout } else { Duration::ZERO };
    timeout(OWN_TIME + calls, stream.read_to_string(&mut answer)).await??;
    // Without the parser's own message, which may quote the answer.
    let unreadable = |_| io::Error::other("its answer cannot be read: is it another version?");
    serde_json::from_str(&answer).map(Some).map_err(unreadable)
}

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// One call to iLink.
    Call {
        /// As its MQTT topic names it.
        name: String,
        /// Its fields.
        json: String,
    },
    /// Register the callback URL.
    Register {
        /// With a new secret.
        new_secret: bool,
    },
    /// Remove it.
    Unregister,
    /// Ask whether it is registered.
    Query,
    /// The callback URL with its secret.
    CallbackUrl,
    /// What a bug report holds.
    Report,
    /// List, put back or drop what is set aside.
    SetAside(SetAside),
    /// Hand the leadership of the cluster over.
    StepDown,
    /// The state of every part.
    Status {
        /// Only whether the loops make progress.
        healthy: bool,
        /// As JSON.
        json: bool,
    },
}

impl Verb {
    /// Whether iLink is called for it.
    const fn calls(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Register { .. } | Self::Unregister | Self::Query)
    }
}

/// What is to be done with what is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetAside {
    /// List it.
    List {
        /// As JSON.
        json: bool,
    },
    /// Put it back into its queue.
    Retry(Which),
    /// Drop it.
    Drop(Which),
}

/// Somebody asks that the leadership be handed over, and waits for this: why not, if not.
pub type StepDown = oneshot::Sender<Result<(), &'static str>>;

/// The daemon's parts that verbs work on.
pub struct Verbs {
    /// The state of every part.
    pub reports: Reports,
    /// What there is only once the bridge has begun: a member of a cluster waits for etcd before.
    pub begun: Arc<OnceLock<Begun>>,
}

/// The parts of a bridge that has begun.
pub struct Begun {
    /// The configuration, as it was reloaded last.
    pub config: watch::Receiver<Config>,
    /// The largest content of a call; it does not change with a reload.
    pub max_content: usize,
    /// The newest lines of the log.
    pub recent: Recent,
    /// The session with iLink; none on a member that stands by.
    pub session: watch::Receiver<Option<Session>>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Which paths the callback serves.
    pub path_secrets: watch::Sender<Vec<SecretString>>,
    /// Held while the callback URL is changed.
    pub changing_url: Arc<Mutex<()>>,
    /// Has the leadership handed over; why not, if not.
    pub step_down: mpsc::Sender<StepDown>,
}

impl Verbs {
    /// Carries out a verb.
    pub async fn execute(&self, verb: Verb) -> Answer {
        self.try_to(verb).await.unwrap_or_else(|refused| refused)
    }

    async fn try_to(&self, verb: Verb) -> Result<Answer, Answer> {
        Ok(match verb {
            Verb::Call { name, json } => {
                let begun = self.begun()?;
                let call = parse_call(&name, &json, begun.max_content, begun.config.borrow().routes.names())?;
                outcome(begun.session()?.call(&call).await)
            }
            Verb::Register { new_secret } => self.begun()?.register(new_secret).await?,
            Verb::Unregister => answer(self.begun()?.session()?.unregister().await),
            Verb::Query => answer(self.begun()?.session()?.query().await),
            Verb::CallbackUrl => self.begun()?.url(),
            Verb::Report => self.bug_report(self.begun()?).await,
            Verb::SetAside(what) => {
                self.begun()?;
                set_aside(self.report().desk.as_deref(), what).await
            }
            Verb::StepDown => match self.begun()?.step_down().await {
                Ok(()) => Answer { exit: 0, text: "another member takes over".to_owned() },
                Err(why) => Answer { exit: EXIT_UNAVAILABLE, text: why.to_owned() },
            },
            Verb::Status { healthy: true, .. } => self.healthy(),
            Verb::Status { json, .. } => self.status(json).await,
        })
    }

    fn begun(&self) -> Result<&Begun, Answer> {
        self.begun.get().ok_or_else(|| waits(&self.report()))
    }

    fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    async fn status(&self, json: bool) -> Answer {
        let overview = Overview::of(&self.report()).await;
        Answer { exit: 0, text: if json { overview.json() } else { overview.text() } }
    }

    async fn bug_report(&self, begun: &Begun) -> Answer {
        let mut bundle = Bundle::default();
        bundle.add_overview(Overview::of(&self.report()).await);
        bundle.add(METRICS, self.report().metrics().await);
        let bundle = begun.completed(bundle);
        Answer { exit: 0, text: serde_json::to_string(&bundle).unwrap_or_default() }
    }

    /// For container engines: nobody else's reachability counts, because a restart would not mend it.
    fn healthy(&self) -> Answer {
        let stuck = progress::stuck(&self.report().loops);
        if stuck.is_empty() {
            return Answer { exit: 0, text: "all loops make progress".to_owned() };
        }
        Answer { exit: EXIT_INTERNAL, text: format!("no progress for 30 s: {}", stuck.join(", ")) }
    }
}

impl Begun {
    /// Only the bridge that leads has a session.
    fn session(&self) -> Result<Session, Answer> {
        let session = self.session.borrow().clone();
        session.ok_or_else(stands_by)
    }

    async fn step_down(&self) -> Result<(), &'static str> {
        const STOPPING: &str = "the bridge is stopping";
        let (answer, answered) = oneshot::channel();
        self.step_down.send(answer).await.map_err(|_| STOPPING)?;
        answered.await.unwrap_or(Err(STOPPING))
    }

    fn url(&self) -> Answer {
        url(&self.callback_url(&self.identity.path_secret()))
    }

    fn callback_url(&self, path_secret: &SecretString) -> SecretString {
        self.config.borrow().callback_url(path_secret)
    }

    /// A bug report with what only this bridge knows, and without ids.
    fn completed(&self, mut bundle: Bundle) -> Bundle {
        let config = self.config.borrow();
        bundle.add("config.toml", config.describe());
        bundle.add("log.txt", self.recent.lines());
        let pseudonyms = Pseudonyms::for_config(&self.identity.handshake_token(), &config, &bundle.met());
        bundle.with(&pseudonyms)
    }

    async fn register(&self, new_secret: bool) -> Result<Answer, Answer> {
        let session = self.session()?;
        if new_secret {
            let _changing = self.changing_url.lock().await;
            let identity = Arc::clone(&self.identity);
            // Where it is kept may be waited for.
            let secret = match tokio::task::spawn_blocking(move || identity.new_secret()).await {
                Ok(Ok(secret)) => secret,
                Ok(Err(error)) => return Err(Answer { exit: EXIT_USAGE, text: error.to_string() }),
                Err(error) => return Err(internal(&error)),
            };
            // Served before it is registered: iLink calls back during the registration.
            self.path_secrets.send_replace(self.identity.accepted_secrets());
            let ilink = self.config.borrow().ilink.clone();
            session.reconfigure(ilink.topics, ilink.presence, self.callback_url(&secret)).await;
        }
        let reply = session.register().await;
        self.path_secrets.send_replace(self.identity.accepted_secrets());
        Ok(answer(reply))
    }
}

/// Of a bridge that has not begun.
fn waits(report: &Report) -> Answer {
    let why = match report.role() {
        Some(Role::Waiting) => {
            let cause = report.ready().spool.cause.unwrap_or_default();
            format!("it waits for etcd: {cause}. `ilink2mqtt check --connect` tries each endpoint and says what to do")
        }
        _ => "try again".to_owned(),
    };
    Answer { exit: EXIT_UNAVAILABLE, text: format!("this bridge has not begun: {why}") }
}

fn stands_by() -> Answer {
    let text =
        "this member of the cluster stands by: ask the one that leads, which `ilink2mqtt status` names".to_owned();
    Answer { exit: EXIT_UNAVAILABLE, text }
}

/// Lists, puts back or drops what is set aside; only the bridge that leads has a `desk`.
pub async fn set_aside(desk: Option<&Desk>, what: SetAside) -> Answer {
    let Some(desk) = desk else { return stands_by() };
    let done = match what {
        SetAside::List { json } => desk.list().await.map_err(NotDone::from).map(|entries| {
            if json { serde_json::to_string_pretty(&entries).unwrap_or_default() } else { set_aside::text(&entries) }
        }),
        SetAside::Retry(which) => desk.retry(&which).await.map(|count| format!("{count} put back")),
        SetAside::Drop(which) => desk.drop(&which).await.map(|count| format!("{count} dropped")),
    };
    match done {
        Ok(text) => Answer { exit: 0, text },
        Err(error @ (NotDone::NoSuchId(_) | NotDone::NoneNamed)) => {
            Answer { exit: EXIT_USAGE, text: error.to_string() }
        }
        Err(error @ NotDone::Full(_)) => Answer { exit: EXIT_UNAVAILABLE, text: error.to_string() },
        Err(error) => internal(&error),
    }
}
