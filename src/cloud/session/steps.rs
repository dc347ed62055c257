//! What the task starts when: verbs, registration, token, and then its own calls.

use std::time::Duration;

use tokio::time::Instant;

use super::budget::RESERVE;
use super::explanations;
use super::state::{Known, Want};
use super::task::Task;
use super::types::RegisterPolicy;

/// So long the callers who wait have the first turn when a hold is over.
const GRACE: Duration = Duration::from_millis(200);
/// A start waits that long for iLink to confirm the registration that is on record.
const PATIENCE: Duration = Duration::from_secs(1);

impl Task {
    /// Starts what is due; tells when to come back if nothing happens until then.
    pub(super) fn step(&mut self, now: Instant) -> Option<Instant> {
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
        if let Some((want, due)) = self.registration.next() {
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
}

/// The earliest of several moments.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, moment: Instant) {
        self.0 = Some(self.0.map_or(moment, |before| before.min(moment)));
    }
}
