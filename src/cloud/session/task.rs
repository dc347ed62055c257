//! The session's task: it starts what is due, makes one `set_config` or `get_access_token` at a time, and publishes the
//! state.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::doors::Keeper;
use super::explanations;
use super::handle::{Session, Shared};
use super::messages::{Access, Ask, Done, NoRenewal, Renewal, Renewing, Verb};
use super::standing::{Silence, Standings};
use super::state::{Budgets, Hold, Known, QuotaMarks, Registration, Streak, Token, Want, Why};
use super::store::{SpentMarks, Store, Subscribed};
use super::types::{CloudState, RegisterPolicy, SessionConfig, Status};
use super::upkeep::{Upkeep, UpkeepDone};
use crate::cloud::{HandshakeLog, Post, Registry};
use crate::os::tasks;
use crate::protocol::{Reply, Uid};

/// The task's ends of the channels.
pub(super) struct Channels {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) access: watch::Sender<Access>,
    pub(super) status: watch::Sender<Status>,
    pub(super) presence: watch::Sender<Vec<(Uid, bool)>>,
}

/// Room for what callers tell the task. It answers at once, so this only fills while it has no turn.
const ASKS: usize = 256;

/// Before what could not be read is read again.
const READ_AGAIN: Duration = Duration::from_millis(300);

/// Starts the session's task on the current runtime. It ends when `shutdown` is cancelled; cancel it after the last call.
/// The callback must be served already: iLink calls it while it is being registered.
pub fn start(
    client: impl Post,
    config: SessionConfig,
    registry: Arc<dyn Registry>,
    handshakes: HandshakeLog,
    shutdown: CancellationToken,
) -> (Session, JoinHandle<()>) {
    let starting = explanations::starting();
    let doors = Arc::new(Keeper::new(&starting));
    let (access, access_seen) = watch::channel(Access { grant: None, registration: 0, opening: 0 });
    let (status, status_seen) = watch::channel(Status {
        state: CloudState::Offline,
        cause: starting,
        since: SystemTime::now(),
        registered: false,
        closed: Vec::new(),
        token_dies: None,
        token_life: Duration::ZERO,
    });
    let (presence, presence_seen) = watch::channel(Vec::new());
    let (asks, asked) = mpsc::channel(ASKS);
    let shared = Arc::new(Shared::new(client, config.account.clone(), doors));
    let session = Session { shared, asks, access: access_seen, status: status_seen, presence: presence_seen };
    let channels = Channels { asks: asked, access, status, presence };
    let task = Task::new(config, registry, handshakes, session.clone(), channels);
    (session, tokio::spawn(task.run(shutdown)))
}

type Running<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// A caller that waits for a renewal.
struct Waiting {
    what: Renewal,
    used: Access,
    answer: oneshot::Sender<Result<Access, NoRenewal>>,
}

pub(super) struct Task {
    pub(super) config: SessionConfig,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) store: Store,
    pub(super) session: Session,
    pub(super) registration: Registration,
    pub(super) token: Token,
    pub(super) hold: Option<Hold>,
    pub(super) opening: u64,
    /// The subscriptions that are on disk.
    kept_subscribed: Subscribed,
    /// Counts holds.
    pub(super) turn: u64,
    pub(super) standings: Standings,
    pub(super) silence: Silence,
    /// A harmless call is to tell whether anything answers.
    pub(super) check: bool,
    pub(super) budgets: Budgets,
    /// How often in a row the service asked for patience.
    pub(super) pressed: u32,
    pub(super) began: Instant,
    /// The quotas that are on disk.
    pub(super) kept_quotas: QuotaMarks,
    /// The operator unregistered.
    pub(super) unregistered: bool,
    pub(super) losses: u32,
    pub(super) conflicts: Streak,
    pub(super) misconfigured: Streak,
    pub(super) upkeep: Upkeep,
    /// The record says that iLink confirmed our URL and token.
    pub(super) confirmed: bool,
    /// The verb whose call is running.
    pub(super) answering: Option<(Verb, oneshot::Sender<Result<Reply, String>>)>,
    /// A verb that is repeated once there is a new token.
    pub(super) again: Option<(Verb, oneshot::Sender<Result<Reply, String>>)>,
    pub(super) presence: watch::Sender<Vec<(Uid, bool)>>,
    pub(super) handshakes: HandshakeLog,
    pub(super) verbs: VecDeque<(Verb, oneshot::Sender<Result<Reply, String>>)>,
    waiting: Vec<Waiting>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    pub(super) calling: Running<Done>,
    pub(super) keeping_up: Running<UpkeepDone>,
    asks: mpsc::Receiver<Ask>,
    pub(super) access: watch::Sender<Access>,
    pub(super) status: watch::Sender<Status>,
}

impl Task {
    pub(super) fn new(
        config: SessionConfig,
        registry: Arc<dyn Registry>,
        handshakes: HandshakeLog,
        session: Session,
        channels: Channels,
    ) -> Self {
        let now = Instant::now();
        let store = Store::new(&config.state_dir, &config.api, &config.account);
        let upkeep = Upkeep::new(&config);
        let (known, want) = match config.register {
            RegisterPolicy::IfNeeded => (Known::Unknown, Some(Want::Query)),
            RegisterPolicy::Always => (Known::Unknown, Some(Want::Register)),
            RegisterPolicy::Never => (Known::Yes, None),
        };
        Self {
            registration: Registration::new(now, known, want),
            token: Token::new(now),
            hold: None,
            kept_subscribed: Subscribed::default(),
            kept_quotas: QuotaMarks::default(),
            opening: 1,
            turn: 0,
            standings: Standings::default(),
            silence: Silence::default(),
            check: false,
            budgets: Budgets::restore(now, &SpentMarks::default()),
            pressed: 0,
            began: now,
            unregistered: false,
            losses: 0,
            conflicts: Streak::default(),
            misconfigured: Streak::default(),
            upkeep,
            confirmed: false,
            answering: None,
            again: None,
            verbs: VecDeque::new(),
            waiting: Vec::new(),
            answers: Vec::new(),
            calling: None,
            keeping_up: None,
            asks: channels.asks,
            access: channels.access,
            status: channels.status,
            presence: channels.presence,
            config,
            registry,
            handshakes,
            store,
            session,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let _end = End(Arc::clone(&self.session.shared.doors));
        if shutdown.run_until_cancelled(self.restore()).await.is_none() {
            return;
        }
        loop {
            let wake = self.step(Instant::now());
            self.publish();
            self.keep_quotas().await;
            self.keep_subscribed().await;
            self.keep_budgets().await;
            self.answers.drain(..).for_each(|answer| answer());
            self.answer_waiting();
            // Cancel-safe: what runs stays in its field until it has finished, a receive that is dropped takes nothing, and
            // the time to wake at is computed anew. In this order, because what a probe tells comes before its end.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ask) = self.asks.recv() => self.hear(ask),
                done = finished(&mut self.calling) => self.react(done),
                done = finished(&mut self.keeping_up) => self.kept_up(done),
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Reads what earlier runs left.
    async fn restore(&mut self) {
        let read = loop {
            let (registry, store) = (Arc::clone(&self.registry), self.store.clone());
            let (url, secret) = (self.config.callback_url.clone(), self.config.handshake_token.clone());
            let read = on_disk(move || {
                Ok((
                    registry.unregistered_by_operator(),
                    registry.confirmed(&url, &secret),
                    store.token()?,
                    store.subscribed()?,
                    store.quotas()?,
                    store.spent()?,
                ))
            });
            match read.await {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    tracing::debug!(%error, "what the session keeps cannot be read yet");
                    tokio::time::sleep(READ_AGAIN).await;
                }
                Err(_) => return,
            }
        };
        let (unregistered, confirmed, token, subscribed, quotas, spent) = read;
        // Whoever registers instead of us decides alone whether we are registered.
        self.unregistered = unregistered && self.config.register != RegisterPolicy::Never;
        self.confirmed = confirmed;
        self.kept_subscribed = subscribed.clone();
        self.upkeep.restore(subscribed);
        if let Some(stored) = token {
            self.token.accept(stored.token, Instant::now(), stored.life, stored.left);
        }
        self.restore_quotas(&quotas);
        self.budgets = Budgets::restore(Instant::now(), &spent);
    }

    /// Writes down what is subscribed when that has changed.
    async fn keep_subscribed(&mut self) {
        if *self.upkeep.subscribed() == self.kept_subscribed {
            return;
        }
        self.kept_subscribed = self.upkeep.subscribed().clone();
        let (store, subscribed) = (self.store.clone(), self.kept_subscribed.clone());
        if let Err(error) = on_disk(move || store.put_subscribed(&subscribed)).await {
            tracing::warn!(%error, "could not record the subscriptions: the next start repeats them");
        }
    }

    fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::Renew { what, code, used, caller, answer } => match self.renew(what, code, &used, &caller) {
                // Whoever waits is answered once the renewal has come to an end.
                Renewing::Yes => self.waiting.push(Waiting { what, used, answer }),
                Renewing::No(after) => {
                    let cause = self.closed().unwrap_or_else(|| explanations::refused(code));
                    self.once_published(move || {
                        let _ = answer.send(Err(NoRenewal { cause, after, seen: true }));
                    });
                }
            },
            Ask::Refused { code, used, caller, answer } => {
                let after = self.refuse(code, &used, &caller);
                self.once_published(move || {
                    let _ = answer.send(after);
                });
            }
            Ask::Busy { code, used, caller, heard } => {
                self.busy(code, &used, &caller);
                self.once_heard(heard);
            }
            Ask::Lost { error, used, caller, heard } => {
                self.call_lost(&error, &used, &caller);
                self.once_heard(heard);
            }
            Ask::Served { used, caller, heard } => {
                self.call_served(&used, &caller);
                self.once_heard(heard);
            }
            Ask::Verb { verb, answer } => self.verbs.push_back((verb, answer)),
            Ask::Reconfigure { topics, presence, callback_url } => {
                self.upkeep.configure(topics, presence);
                if self.config.callback_url.expose_secret() != callback_url.expose_secret() {
                    self.config.callback_url = callback_url;
                    self.confirmed = false;
                    // Another URL may be what was wrong.
                    if let Some(hold) = self.hold.as_mut().filter(|hold| hold.why == Why::Config) {
                        hold.until = Instant::now();
                    }
                    if self.config.register != RegisterPolicy::Never {
                        self.registration.want(Want::Register, Instant::now());
                    }
                }
            }
        }
    }

    fn once_heard(&mut self, heard: oneshot::Sender<()>) {
        self.once_published(move || {
            let _ = heard.send(());
        });
    }

    /// Answers a caller when it can see what became of its news: it must not find the way open that it has just closed.
    pub(super) fn once_published(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.answers.push(Box::new(answer));
    }

    fn answer_waiting(&mut self) {
        let access = self.access.borrow().clone();
        let running = self.calling.is_some();
        for waiting in std::mem::take(&mut self.waiting) {
            if self.renewed(waiting.what, &waiting.used) {
                let _ = waiting.answer.send(Ok(access.clone()));
            } else if running {
                self.waiting.push(waiting);
            } else {
                let cause =
                    self.closed().or_else(|| self.token.trouble.clone()).unwrap_or_else(explanations::no_renewal);
                let _ = waiting.answer.send(Err(NoRenewal { cause, after: None, seen: false }));
            }
        }
    }
}

/// Closes the doors for good when the task ends, also by a panic.
struct End(Arc<Keeper>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The end of what runs; never, if nothing does.
async fn finished<T>(running: &mut Running<T>) -> T {
    match running {
        Some(work) => {
            let done = work.await;
            *running = None;
            done
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Disk work off the runtime's threads.
pub(super) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tasks::fault(error);
        Err(io::Error::other("the process is ending"))
    })
}
