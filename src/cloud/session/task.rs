//! The task: starts what is due, one `set_config` or `get_access_token` at a time, and publishes where things stand.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::ExposeSecret as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{Access, Ask, Renewal, Session, Verb};
use super::store::Store;
use super::tracks::{Hold, Known, Registration, Streak, Token, Want, Why};
use super::types::{CloudState, RegisterPolicy, SessionConfig, Status};
use super::upkeep::{Upkeep, UpkeepDone};
use super::words;
use crate::cloud::{HandshakeLog, Registry, TransportError};
use crate::protocol::{Reply, SetConfig, TokenGrant, Uid, get_access_token};

/// The task's ends of the channels.
pub(super) struct Channels {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) access: watch::Sender<Access>,
    pub(super) status: watch::Sender<Status>,
    pub(super) presence: watch::Sender<Vec<(Uid, bool)>>,
}

type Posted = Result<Reply, TransportError>;
type Running<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// A `set_config` or `get_access_token` that has come to an end.
pub(super) enum Done {
    Query(Posted),
    /// With what the callback saw meanwhile.
    Register(Posted, String),
    Unregister(Posted, io::Result<()>),
    Token(Posted, Instant),
}

/// A caller that waits for a renewal.
struct Waiting {
    what: Renewal,
    used: Access,
    answer: oneshot::Sender<Result<Access, String>>,
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
    pub(super) presence: watch::Sender<Vec<(Uid, bool)>>,
    handshakes: HandshakeLog,
    verbs: VecDeque<(Verb, oneshot::Sender<Result<Reply, String>>)>,
    waiting: Vec<Waiting>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    calling: Running<Done>,
    keeping_up: Running<UpkeepDone>,
    asks: mpsc::Receiver<Ask>,
    access: watch::Sender<Access>,
    status: watch::Sender<Status>,
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
            opening: 1,
            unregistered: false,
            losses: 0,
            conflicts: Streak::default(),
            misconfigured: Streak::default(),
            upkeep,
            confirmed: false,
            answering: None,
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
        self.restore().await;
        loop {
            let wake = self.step(Instant::now());
            self.publish();
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
        let (registry, store) = (Arc::clone(&self.registry), self.store.clone());
        let (url, secret) = (self.config.callback_url.clone(), self.config.handshake_token.clone());
        let read = on_disk(move || {
            Ok((
                registry.unregistered_by_operator(),
                registry.confirmed(&url, &secret),
                store.token(),
                store.subscribed(),
            ))
        });
        let Ok((unregistered, confirmed, token, subscribed)) = read.await else { return };
        // Whoever registers instead of us decides alone whether we are registered.
        self.unregistered = unregistered && self.config.register != RegisterPolicy::Never;
        self.confirmed = confirmed;
        self.upkeep.restore(subscribed);
        if let Some(stored) = token {
            self.token.accept(stored.token, Instant::now(), stored.life, stored.left);
        }
    }

    /// Starts what is due; tells when to come back if nothing happens until then.
    fn step(&mut self, now: Instant) -> Option<Instant> {
        while self.calling.is_none()
            && let Some((verb, answer)) = self.verbs.pop_front()
        {
            self.start_verb(now, verb, answer);
        }
        if self.unregistered {
            return None;
        }
        let mut wake = Wake::default();
        match &self.token.living {
            Some(living) if living.dies_at <= now => self.token.kill(),
            Some(living) => wake.at(living.dies_at),
            None => {}
        }
        if let Some(hold) = &self.hold
            && hold.until > now
        {
            wake.at(hold.until);
            return wake.0;
        }
        if self.calling.is_none() {
            self.step_session(now, &mut wake);
        }
        if self.calling.is_none() && self.keeping_up.is_none() {
            self.step_upkeep(now, &mut wake);
        }
        wake.0
    }

    /// Registration before token: iLink gives no token to a uid that is not registered.
    fn step_session(&mut self, now: Instant, wake: &mut Wake) {
        if self.registration.want.is_none()
            && let Some(at) = self.registration.verify_at
        {
            if at <= now {
                self.registration.want(Want::Query, now);
            } else {
                wake.at(at);
            }
        }
        if let Some((want, due)) = self.registration.next() {
            if due <= now {
                match want {
                    Want::Query => self.start_query(),
                    Want::Register => self.start_register(),
                }
                return;
            }
            wake.at(due);
            let known_missing = self.registration.known == Known::No;
            let first_answer_missing = self.registration.known == Known::Unknown && self.registration.trouble.is_none();
            if known_missing || first_answer_missing {
                return;
            }
        }
        let due = self.token.next();
        if due <= now { self.start_token(now) } else { wake.at(due) }
    }

    fn step_upkeep(&mut self, now: Instant, wake: &mut Wake) {
        let hopeless = self.registration.known == Known::No && self.config.register != RegisterPolicy::Never;
        if self.token.living.is_none() || hopeless {
            return;
        }
        if self.hold.is_some() {
            self.keeping_up = Some(Box::pin(self.upkeep.probe(self.session.clone())));
        } else if self.closed().is_none()
            && let Some(due) = self.upkeep.next()
        {
            if due > now {
                wake.at(due);
            } else {
                let work = self.upkeep.run(self.session.clone(), self.store.clone());
                self.keeping_up = Some(Box::pin(work));
            }
        }
    }

    fn start_query(&mut self) {
        let session = self.session.clone();
        let url = self.config.callback_url.clone();
        self.calling = Some(Box::pin(async move {
            let request = SetConfig::Query { url: url.expose_secret() }.request(&session.shared.account);
            Done::Query(session.shared.client.post(&request, None).await)
        }));
    }

    fn start_register(&mut self) {
        let (session, handshakes) = (self.session.clone(), self.handshakes.clone());
        let (registry, url, token) =
            (Arc::clone(&self.registry), self.config.callback_url.clone(), self.config.handshake_token.clone());
        // Whoever registers wants it to last: should this attempt fail, it is repeated, also by the next run.
        let again = std::mem::take(&mut self.unregistered);
        self.calling = Some(Box::pin(async move {
            if again {
                let registry = Arc::clone(&registry);
                if let Err(error) = on_disk(move || registry.set_unregistered_by_operator(false)).await {
                    tracing::warn!(%error, "that we are to be registered again could not be recorded");
                }
            }
            let mark = handshakes.mark();
            let config = SetConfig::Register { url: url.expose_secret(), token: token.expose_secret() };
            let posted = session.shared.client.post(&config.request(&session.shared.account), None).await;
            let seen = handshakes.explain_since(&mark);
            if posted.as_ref().is_ok_and(|reply| reply.code.is_ok())
                && let Err(error) = on_disk(move || registry.record(&url, &token)).await
            {
                tracing::warn!(%error, "the registration could not be recorded: it will be repeated at the next start");
            }
            Done::Register(posted, seen)
        }));
    }

    fn start_unregister(&mut self) {
        let (session, registry, store) = (self.session.clone(), Arc::clone(&self.registry), self.store.clone());
        self.calling = Some(Box::pin(async move {
            let request = SetConfig::Unregister.request(&session.shared.account);
            let posted = session.shared.client.post(&request, None).await;
            let gone = posted.as_ref().is_ok_and(|reply| matches!(reply.code.value(), 0 | 1007));
            let recorded = if gone {
                on_disk(move || {
                    registry.set_unregistered_by_operator(true)?;
                    registry.forget()?;
                    store.forget_token()
                })
                .await
            } else {
                Ok(())
            };
            Done::Unregister(posted, recorded)
        }));
    }

    fn start_token(&mut self, now: Instant) {
        let (session, store) = (self.session.clone(), self.store.clone());
        self.calling = Some(Box::pin(async move {
            let posted = session.shared.client.post(&get_access_token(&session.shared.account), None).await;
            if let Some(grant) = posted.as_ref().ok().and_then(TokenGrant::from_reply) {
                let (life, age) = (super::react::life(&grant), now.elapsed());
                if let Err(error) = on_disk(move || store.put_token(&grant.access_token, life, age)).await {
                    tracing::warn!(%error, "the access token could not be kept: the next start asks for another");
                }
            }
            Done::Token(posted, now)
        }));
    }

    fn start_verb(&mut self, now: Instant, verb: Verb, answer: oneshot::Sender<Result<Reply, String>>) {
        if self.config.register == RegisterPolicy::Never {
            let _ = answer.send(Err(words::never()));
            return;
        }
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            let wait = words::minutes(quota - now);
            let _ = answer.send(Err(format!("iLink was asked too often (1004): not again before {wait}")));
            return;
        }
        self.answering = Some((verb, answer));
        match verb {
            Verb::Register => {
                self.registration.want(Want::Register, now);
                self.start_register();
            }
            Verb::Unregister => self.start_unregister(),
            Verb::Query => self.start_query(),
        }
    }

    fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::Renew { what, code, used, origin, answer } => {
                // Whoever waits is answered once the renewal has come to an end.
                if self.renew(what, code, &used, origin) {
                    self.waiting.push(Waiting { what, used, answer });
                } else {
                    let cause = self.closed().unwrap_or_else(|| words::refused(code));
                    self.once_published(move || {
                        let _ = answer.send(Err(cause));
                    });
                }
            }
            Ask::Trouble { code, used, origin, heard } => {
                self.trouble(code, &used, origin);
                self.once_published(move || {
                    let _ = heard.send(());
                });
            }
            Ask::Lost { error, used, heard } => {
                if self.hold.is_none() && used.opening == self.opening {
                    self.lost(&error);
                }
                self.once_published(move || {
                    let _ = heard.send(());
                });
            }
            Ask::Verb { verb, answer } => self.verbs.push_back((verb, answer)),
            Ask::Reconfigure { topics, presence, callback_url } => {
                self.upkeep.configure(topics, presence);
                if self.config.callback_url.expose_secret() != callback_url.expose_secret() {
                    self.config.callback_url = callback_url;
                    self.confirmed = false;
                    if self.config.register != RegisterPolicy::Never {
                        self.registration.want(Want::Register, Instant::now());
                    }
                }
            }
        }
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
                    access.closed.clone().or_else(|| self.token.trouble.clone()).unwrap_or_else(words::no_renewal);
                let _ = waiting.answer.send(Err(cause));
            }
        }
    }

    /// Whether there is something newer than what was used.
    pub(super) fn renewed(&self, what: Renewal, used: &Access) -> bool {
        match what {
            Renewal::Token => self.token.living.is_some() && self.token.generation != used.generation(),
            Renewal::Registration => {
                self.registration.known == Known::Yes
                    && self.registration.epoch != used.registration
                    && self.token.living.is_some()
            }
        }
    }

    /// Why calls have to wait.
    fn closed(&self) -> Option<String> {
        if self.unregistered {
            return Some(words::unregistered());
        }
        if let Some(hold) = &self.hold {
            return Some(hold.cause.clone());
        }
        let registration = || self.registration.trouble.clone();
        match self.registration.known {
            Known::No => return Some(registration().unwrap_or_else(words::registering)),
            Known::Unknown if self.registration.trouble.is_none() => return Some(words::starting()),
            Known::Unknown | Known::Yes => {}
        }
        if self.token.living.is_some() {
            return None;
        }
        Some(self.token.trouble.clone().or_else(registration).unwrap_or_else(words::no_token))
    }

    /// The state to publish; none while something is under way whose end decides it.
    fn state(&self, closed: Option<&str>) -> Option<(CloudState, String)> {
        if self.unregistered {
            return Some((CloudState::Unregistered, words::unregistered()));
        }
        if let Some(hold) = &self.hold {
            return Some((hold.state()?, hold.cause.clone()));
        }
        if let Some(cause) = &self.registration.trouble {
            return Some((CloudState::Degraded, cause.clone()));
        }
        match (closed, &self.token.trouble) {
            (None, note) => Some((CloudState::Online, note.clone().unwrap_or_default())),
            (Some(_), Some(cause)) => Some((CloudState::Degraded, cause.clone())),
            (Some(_), None) => None,
        }
    }

    fn publish(&mut self) {
        let closed = self.closed();
        let living = self.token.living.as_ref();
        let state = self.state(closed.as_deref());
        let registered = self.registration.known == Known::Yes && !self.unregistered;
        let token_dies = living.map(|living| living.dies_at);
        self.status.send_if_modified(|status| {
            let before = status.clone();
            if let Some((state, cause)) = state {
                if status.state != state {
                    status.since = SystemTime::now();
                    log(state, &cause);
                } else if status.cause != cause {
                    tracing::debug!(state = state.as_str(), "iLink: still {}: {cause}", state.as_str());
                }
                (status.state, status.cause) = (state, cause);
            }
            (status.registered, status.token_dies) = (registered, token_dies);
            *status != before
        });
        let access = Access {
            grant: living.map(|living| living.grant.clone()),
            registration: self.registration.epoch,
            opening: self.opening,
            closed,
        };
        self.access.send_if_modified(|seen| {
            let changed = seen.generation() != access.generation()
                || (seen.registration, seen.opening) != (access.registration, access.opening)
                || seen.closed != access.closed;
            *seen = access;
            changed
        });
    }

    /// The way is open again.
    pub(super) fn release(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.opening += 1;
            self.losses = 0;
            if hold.why != Why::Checking {
                self.upkeep.read_presence();
            }
        }
    }
}

/// One line for each change of state.
fn log(state: CloudState, cause: &str) {
    let name = state.as_str();
    match (state, cause) {
        (CloudState::AuthError, cause) => tracing::error!(state = name, "iLink: {name}: {cause}"),
        (_, "") => tracing::info!(state = name, "iLink: {name}"),
        (_, cause) => tracing::info!(state = name, "iLink: {name}: {cause}"),
    }
}

/// The earliest of several moments.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, moment: Instant) {
        self.0 = Some(self.0.map_or(moment, |before| before.min(moment)));
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
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
