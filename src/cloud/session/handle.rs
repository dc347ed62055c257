//! The handle to the session: it makes one attempt at a call, in the caller's own task.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::blame::{Blames, Mark};
use super::doors::{Door, Doors, Endpoint, Keeper, Pass, Table};
use super::explanations;
use super::messages::{Access, Ask, Attempt, Caller, NoRenewal, Origin, Renewal, Verb};
use super::types::{Gate, Open};
use super::types::{Outcome, Status};
use crate::cloud::{Executed, Post};
use crate::os::clock;
use crate::protocol::{Account, Call, Class, Qos, Reply, Request, ResultCode, Subject, Uid};

/// What the handles and the task share beside the channels.
pub(super) struct Shared {
    pub(super) client: Box<dyn Post>,
    pub(super) account: Account,
    pub(super) doors: Arc<Keeper>,
    /// The newest token and registration with which a call succeeded.
    proven_token: AtomicU64,
    proven_registration: AtomicU64,
    /// Commands that got iLink's last word.
    served: AtomicU64,
    /// When the last one did, in milliseconds since the session began; 0: none did.
    served_at: AtomicU64,
    began: Instant,
    /// The newest token of which it was said that iLink wanted it for another address.
    address_told: AtomicU64,
    /// Whether the task wants to be told of them.
    pub(super) watched: AtomicBool,
    /// Calls that wait alone.
    blames: Mutex<Blames>,
}

/// A handle to the session's task; all clones are one session.
#[derive(Clone)]
pub struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) access: watch::Receiver<Access>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) presence: watch::Receiver<Vec<(Uid, bool)>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
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
        let Ok(outcome) = self.call_through(&Open, call).await;
        outcome
    }

    /// As [`Self::call`], through a gate that every request has to pass.
    ///
    /// # Errors
    ///
    /// What the gate was shut by. Whether something had left before that, it knows itself; iLink refused that then, to have the
    /// token or the registration renewed.
    pub async fn call_through<G: Gate>(&self, gate: &G, call: &Call) -> Result<Outcome, G::Shut> {
        Ok(match self.attempt_through(gate, call, Origin::Command).await? {
            Attempt::Reply(reply) => Outcome::Reply(reply),
            Attempt::Later(code) => {
                let executed = if code.is_ambiguous() { Executed::Perhaps } else { Executed::No };
                Outcome::Retry { executed, code: Some(code), cause: explanations::not_now(code), after: None }
            }
            Attempt::Lost(error) => {
                let (executed, after) = (error.executed(), error.retry_after());
                Outcome::Retry { executed, code: None, cause: error.cause().to_owned(), after }
            }
            Attempt::NotReady { cause, code, after } => Outcome::NotReady { cause, code, after },
        })
    }

    /// Which endpoints may be called, now and whenever that changes: see `doors.rs` for how to use them.
    #[must_use]
    pub fn doors(&self) -> Doors {
        self.shared.doors.doors()
    }

    /// Why `endpoint` cannot be called now, if so: whoever asks before it prepares a call saves the preparation.
    #[must_use]
    pub fn closed(&self, endpoint: Endpoint) -> Option<String> {
        self.shared.doors.closed(endpoint).map(|cause| cause.to_string())
    }

    /// Resolves when every endpoint may be called by everybody; never once the session has ended: whoever waits is being
    /// stopped as well.
    pub async fn ready(&self) {
        self.doors().wait(Table::all_open).await;
    }

    /// Resolves when `endpoint` may be called, if only by one; never once the session has ended.
    pub async fn ready_for(&self, endpoint: Endpoint) {
        self.doors().wait(|table| table.at(endpoint) != Door::Closed).await;
    }

    /// Registers the callback on the operator's behalf, also if it is registered already; ends an explicit unregistration.
    ///
    /// # Errors
    ///
    /// Why it was not even tried or got no reply. A reply with an error code is no error here.
    pub async fn register(&self) -> Result<Reply, String> {
        self.verb(Verb::Register).await
    }

    /// Unregisters on the operator's behalf; the session stays unregistered, across restarts, until [`Self::register`].
    ///
    /// # Errors
    ///
    /// As [`Self::register`].
    pub async fn unregister(&self) -> Result<Reply, String> {
        self.verb(Verb::Unregister).await
    }

    /// Asks iLink whether our URL is registered.
    ///
    /// # Errors
    ///
    /// As [`Self::register`].
    pub async fn query(&self) -> Result<Reply, String> {
        self.verb(Verb::Query).await
    }

    /// Takes over a changed configuration. Subscriptions that were added are made and those that were removed are ended; a
    /// changed callback URL is registered.
    pub async fn reconfigure(&self, topics: Vec<(Subject, Qos)>, presence: Vec<Uid>, callback_url: SecretString) {
        self.tell(Ask::Reconfigure { topics, presence, callback_url }).await;
    }

    pub(super) async fn attempt(&self, call: &Call, origin: Origin) -> Attempt {
        let Ok(attempt) = self.attempt_through(&Open, call, origin).await;
        attempt
    }

    async fn attempt_through<G: Gate>(&self, gate: &G, call: &Call, origin: Origin) -> Result<Attempt, G::Shut> {
        let request = call.request(&self.shared.account);
        let mut used = self.access.borrow().clone();
        // Held until the end, when the task has heard what became of the call.
        let pass = match origin {
            Origin::Probe => None,
            Origin::Command | Origin::Upkeep => match self.enter(Endpoint::of(call), &request) {
                Ok(pass) => Some(pass),
                Err(waits) => return Ok(waits),
            },
        };
        let (endpoint, served) = (Endpoint::of(call), self.shared.served());
        let single = pass.as_ref().is_some_and(Pass::is_single);
        let caller = || Caller { endpoint, mark: Mark::of(&request), origin, single, served };
        let (mut renewed, mut address_refused) = (None, false);
        loop {
            gate.pass().await?;
            let token = used.grant.as_ref().map(|grant| &grant.token);
            let reply = match self.shared.client.post(&request, token).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.report(|heard| Ask::Lost { error: error.clone(), used, caller: caller(), heard }).await;
                    return Ok(Attempt::Lost(error));
                }
            };
            let code = reply.code;
            let what = match verdict(code) {
                Verdict::LastWord => {
                    if address_refused {
                        self.shared.tell_of_address(used.generation());
                    }
                    self.served(used, origin, single, caller).await;
                    return Ok(Attempt::Reply(reply));
                }
                Verdict::Later => {
                    self.report(|heard| Ask::Busy { code, used, caller: caller(), heard }).await;
                    return Ok(Attempt::Later(code));
                }
                Verdict::Renew(what) if renewed != Some(what) => what,
                Verdict::Renew(_) | Verdict::Trouble => return Ok(self.refused(code, used, caller()).await),
            };
            gate.refused().await;
            match self.renew(what, code, used.clone(), caller()).await {
                // Repeated once: if something else was to be renewed after that, the next attempt finds it renewed.
                Ok(_) if renewed.is_some() => {
                    return Ok(Attempt::NotReady { cause: explanations::refused(code), code: Some(code), after: None });
                }
                Ok(access) => {
                    used = access;
                    renewed = Some(what);
                    address_refused = code.value() == 1003;
                }
                // A refused address stays refused without a new token.
                Err(NoRenewal { seen: false, .. }) if code.class() == Class::Conflict => {
                    return Ok(self.refused(code, used, caller()).await);
                }
                Err(NoRenewal { cause, after, .. }) => return Ok(Attempt::NotReady { cause, code: Some(code), after }),
            }
        }
    }

    /// The right to call; else why it waits.
    fn enter(&self, endpoint: Endpoint, request: &Request) -> Result<Pass, Attempt> {
        let blames = self.shared.blames();
        if !blames.is_empty()
            && let Some((wait, cause)) = blames.held(Mark::of(request), Instant::now())
        {
            return Err(Attempt::NotReady { cause, code: None, after: Some(wait) });
        }
        drop(blames);
        let pass = self.shared.doors.enter(endpoint);
        pass.map_err(|cause| Attempt::NotReady { cause: cause.to_string(), code: None, after: None })
    }

    /// A call got iLink's last word.
    async fn served(&self, used: Access, origin: Origin, single: bool, caller: impl Fn() -> Caller) {
        self.shared.prove(&used, origin);
        if !self.shared.blames().is_empty() {
            self.shared.blames().served(caller().mark);
        }
        if single || self.shared.watched.load(Ordering::Relaxed) {
            self.report(|heard| Ask::Served { used, caller: caller(), heard }).await;
        }
    }

    async fn refused(&self, code: ResultCode, used: Access, caller: Caller) -> Attempt {
        let (answer, answered) = oneshot::channel();
        self.tell(Ask::Refused { code, used, caller, answer }).await;
        let after = answered.await.unwrap_or_default();
        Attempt::NotReady { cause: explanations::refused(code), code: Some(code), after }
    }

    async fn renew(&self, what: Renewal, code: ResultCode, used: Access, caller: Caller) -> Result<Access, NoRenewal> {
        let (answer, answered) = oneshot::channel();
        self.tell(Ask::Renew { what, code, used, caller, answer }).await;
        answered.await.unwrap_or_else(|_| Err(NoRenewal { cause: explanations::ended(), after: None, seen: true }))
    }

    async fn verb(&self, verb: Verb) -> Result<Reply, String> {
        let (answer, answered) = oneshot::channel();
        self.tell(Ask::Verb { verb, answer }).await;
        answered.await.unwrap_or_else(|_| Err(explanations::ended()))
    }

    /// Tells the task, and waits until it has published what follows from it.
    async fn report(&self, ask: impl FnOnce(oneshot::Sender<()>) -> Ask) {
        let (heard, published) = oneshot::channel();
        self.tell(ask(heard)).await;
        let _ = published.await;
    }

    async fn tell(&self, ask: Ask) {
        // Without a task there is nobody to tell; whoever waits for an answer is told by its absence.
        let _ = self.asks.send(ask).await;
    }
}

impl Shared {
    pub(super) fn new(client: impl Post, account: Account, doors: Arc<Keeper>) -> Self {
        Self {
            client: Box::new(client),
            account,
            doors,
            proven_token: AtomicU64::new(0),
            proven_registration: AtomicU64::new(0),
            served: AtomicU64::new(0),
            served_at: AtomicU64::new(0),
            began: Instant::now(),
            address_told: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            blames: Mutex::default(),
        }
    }

    /// Notes that the token and the registration are good.
    fn prove(&self, used: &Access, origin: Origin) {
        self.proven_token.fetch_max(used.generation(), Ordering::Relaxed);
        self.proven_registration.fetch_max(used.registration, Ordering::Relaxed);
        if origin == Origin::Command {
            self.served.fetch_add(1, Ordering::Relaxed);
            let at = clock::millis(self.began.elapsed());
            self.served_at.store(at.max(1), Ordering::Relaxed);
        }
    }

    /// A token that was fetched because of 1003 is good: said once of each.
    pub(super) fn tell_of_address(&self, generation: u64) {
        if self.address_told.fetch_max(generation, Ordering::Relaxed) < generation {
            tracing::info!("{}", explanations::ANOTHER_ADDRESS);
        }
    }

    pub(super) fn proven_token(&self) -> u64 {
        self.proven_token.load(Ordering::Relaxed)
    }

    pub(super) fn proven_registration(&self) -> u64 {
        self.proven_registration.load(Ordering::Relaxed)
    }

    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn served_ago(&self) -> Option<Duration> {
        let at = self.served_at.load(Ordering::Relaxed);
        (at > 0).then(|| self.began.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    pub(super) fn blames(&self) -> MutexGuard<'_, Blames> {
        self.blames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Verdict {
    /// The call is over, well or badly.
    LastWord,
    /// Repeat it later.
    Later,
    /// Renew this, then repeat it.
    Renew(Renewal),
    /// No call is possible now.
    Trouble,
}

/// What a reply to a call means. `1001` concerns the call's receiver here.
fn verdict(code: ResultCode) -> Verdict {
    match (code.class(), code.value()) {
        (Class::Done | Class::Permanent, _) | (Class::FatalConfig, 1001) => Verdict::LastWord,
        (Class::Transient | Class::Quota, _) => Verdict::Later,
        (Class::Session, 1007) => Verdict::Renew(Renewal::Registration),
        // 1003: the address may have changed since the token was granted.
        (Class::Session, _) | (Class::Conflict, 1003) => Verdict::Renew(Renewal::Token),
        (Class::Conflict | Class::FatalConfig | Class::Callback, _) => Verdict::Trouble,
    }
}
