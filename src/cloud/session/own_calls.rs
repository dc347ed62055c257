//! The calls that only the task makes: `set_config` (§3) and `get_access_token` (§5.1), one at a time. Here is when
//! each is started, and how. The order: verbs, registration, token, then the session's own calls
//! ([`upkeep`](super::upkeep)).
//!
//! Each call runs beside the loop and ends as a [`Done`]. It carries what was asked for, because what is wanted may
//! have changed meanwhile. What must be on disk together with the outcome is written before that.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::budget::RESERVE;
use super::explanations;
use super::messages::{Done, Verb};
use super::state::{Known, Want};
use super::task::{Task, on_disk};
use super::types::RegisterPolicy;
use crate::protocol::{Reply, SetConfig, TokenGrant, get_access_token};

/// So long the callers who wait have the first turn when a hold is over.
const GRACE: Duration = Duration::from_millis(200);
/// A start waits that long for iLink to confirm the registration that is on record.
const PATIENCE: Duration = Duration::from_secs(1);
/// No token lives longer than this, whatever its reply says.
const LONGEST_LIFE: Duration = Duration::from_hours(30 * 24);

/// How long a token lives.
pub(super) fn life(grant: &TokenGrant) -> Duration {
    Duration::from_secs(grant.expires_in).min(LONGEST_LIFE)
}

impl Task {
    /// Starts what is due; tells when to come back if nothing happens until then.
    pub(super) fn step(&mut self, now: Instant) -> Option<Instant> {
        let held = self.hold.as_ref().is_some_and(|hold| hold.doubt.is_none() && hold.until > now);
        if self.calling.is_none()
            && (held || !self.token_comes_first())
            && let Some((verb, answer)) = self.again.take()
        {
            self.begin_verb(now, verb, answer);
        }
        while self.calling.is_none()
            && self.again.is_none()
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
        if let Some(at) = self.standings.step(now) {
            wake.at(at);
        }
        if let Some(hold) = &self.hold
            && hold.until > now
        {
            wake.at(hold.until);
            // While others are asked, what they need is renewed.
            if hold.doubt.is_none() {
                return wake.0;
            }
        }
        self.believe_the_record(now, &mut wake);
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
        if let Some((want, due)) = self.registration.next()
            && !self.token_comes_first()
        {
            let due = due.max(self.budgets.config.next(now, 0));
            if due <= now {
                match want {
                    Want::Query => self.start_query(),
                    Want::Register => self.start_register(),
                }
                return;
            }
            wake.at(due);
            let by_budget = self.registration.next().is_some_and(|(_, wanted)| wanted <= now);
            let needed = want == Want::Register || self.registration.known != Known::Yes;
            if by_budget && needed && self.registration.trouble.is_none() {
                self.registration.trouble = Some(explanations::paced("set_config", due - now));
            }
            let known_missing = self.registration.known == Known::No;
            let first_answer_missing = self.registration.known == Known::Unknown && self.registration.trouble.is_none();
            if known_missing || first_answer_missing {
                return;
            }
        }
        let wanted = self.token.next();
        // What nobody waits for leaves room for what somebody will wait for.
        let reserve = if self.token.living.is_some() && !self.token.wanted { RESERVE } else { 0 };
        let due = wanted.max(self.budgets.token.next(now, reserve));
        if due <= now {
            return self.start_token(now);
        }
        if wanted <= now && self.token.living.is_none() && self.token.trouble.is_none() {
            self.token.trouble = Some(explanations::paced("get_access_token", due - now));
        }
        wake.at(due);
    }

    /// A registration that is on record is believed until iLink denies it, if it cannot be asked now, or, with a living token,
    /// if asking takes long.
    fn believe_the_record(&mut self, now: Instant, wake: &mut Wake) {
        if self.registration.known != Known::Unknown || !self.confirmed || self.registration.want != Some(Want::Query) {
            return;
        }
        let paced = self.budgets.config.next(now, 0) > now;
        let patience = self.began + PATIENCE;
        let living = self.token.living.is_some();
        if paced || (living && (patience <= now || self.registration.trouble.is_some())) {
            self.registration.known = Known::Yes;
        } else if living {
            wake.at(patience);
        }
    }

    fn step_upkeep(&mut self, now: Instant, wake: &mut Wake) {
        let hopeless = self.registration.known == Known::No && self.config.register != RegisterPolicy::Never;
        if self.token.living.is_none() || hopeless {
            return;
        }
        if let Some(hold) = &self.hold {
            // One of the callers who wait is to tell; where none does, a harmless call of our own.
            let grace = if hold.one_at == Some(hold.until) { GRACE } else { Duration::ZERO };
            let taken = self.session.shared.doors.is_taken();
            let at = if taken { now + Duration::from_secs(1) } else { hold.until + grace };
            if at > now {
                wake.at(at);
            } else {
                self.keeping_up = Some(Box::pin(self.upkeep.probe(self.session.clone())));
            }
        } else if self.check {
            self.keeping_up = Some(Box::pin(self.upkeep.probe(self.session.clone())));
        } else if self.closed().is_none()
            && let Some(due) = self.upkeep.next()
        {
            if due > now {
                wake.at(due);
            } else {
                let work = self.upkeep.run(self.session.clone());
                self.keeping_up = Some(Box::pin(work));
            }
        }
    }

    /// One `set_config` more: on disk before it leaves, see [`Task::keep_budgets`].
    fn spend_config(&mut self) {
        self.budgets.config.spend(Instant::now());
        self.budgets.unsaved = true;
    }

    fn start_query(&mut self) {
        self.spend_config();
        let session = self.session.clone();
        let url = self.config.callback_url.clone();
        self.calling = Some(Box::pin(async move {
            let request = SetConfig::Query { url: url.expose_secret() }.request(&session.shared.account);
            let posted = session.shared.client.post(&request, None).await;
            Done::Query { url, posted }
        }));
    }

    fn start_register(&mut self) {
        self.spend_config();
        let (session, handshakes) = (self.session.clone(), self.handshakes.clone());
        let (registry, url, token) =
            (Arc::clone(&self.registry), self.config.callback_url.clone(), self.config.handshake_token.clone());
        // Whoever registers wants it to last: should this attempt fail, it is repeated, also by the next run.
        let again = std::mem::take(&mut self.unregistered);
        let (store, outlived) = (self.store.clone(), self.upkeep.outliving());
        self.calling = Some(Box::pin(async move {
            if again {
                let registry = Arc::clone(&registry);
                if let Err(error) = on_disk(move || registry.set_unregistered_by_operator(false)).await {
                    tracing::warn!(%error, "could not record that the callback is to be registered again");
                }
            }
            let mark = handshakes.mark();
            let config = SetConfig::Register { url: url.expose_secret(), token: token.expose_secret() };
            let posted = session.shared.client.post(&config.request(&session.shared.account), None).await;
            let seen = handshakes.explain_since(&mark);
            if posted.as_ref().is_ok_and(|reply| reply.code.is_ok()) {
                let registered = url.clone();
                // The subscriptions first: those of a registration that is over must not be on record beside a new one.
                let recorded = on_disk(move || {
                    store.put_subscribed(&outlived)?;
                    registry.record(&registered, &token)
                });
                if let Err(error) = recorded.await {
                    tracing::warn!(%error, "could not record the registration: the next start repeats it");
                }
            }
            Done::Register { url, posted, seen }
        }));
    }

    fn start_unregister(&mut self) {
        self.spend_config();
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
        self.budgets.token.spend(now);
        self.budgets.unsaved = true;
        let (session, store) = (self.session.clone(), self.store.clone());
        self.calling = Some(Box::pin(async move {
            let posted = session.shared.client.post(&get_access_token(&session.shared.account), None).await;
            if let Some(grant) = posted.as_ref().ok().and_then(TokenGrant::from_reply) {
                let (life, age) = (life(&grant), now.elapsed());
                if let Err(error) = on_disk(move || store.put_token(&grant.access_token, life, age)).await {
                    tracing::warn!(%error, "could not store the access token: the next start asks for another");
                }
            }
            Done::Token(posted, now)
        }));
    }

    fn start_verb(&mut self, now: Instant, verb: Verb, answer: oneshot::Sender<Result<Reply, String>>) {
        if self.config.register == RegisterPolicy::Never {
            let _ = answer.send(Err(explanations::never()));
            return;
        }
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            let wait = explanations::minutes(quota - now);
            let _ = answer.send(Err(format!("iLink was asked too often (1004): not again before {wait}")));
            return;
        }
        if let Err(paced) = self.budgets.spend_verb(now) {
            let _ = answer.send(Err(paced));
            return;
        }
        self.begin_verb(now, verb, answer);
    }

    fn begin_verb(&mut self, now: Instant, verb: Verb, answer: oneshot::Sender<Result<Reply, String>>) {
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
}

/// The earliest of several moments.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, moment: Instant) {
        self.0 = Some(self.0.map_or(moment, |before| before.min(moment)));
    }
}
