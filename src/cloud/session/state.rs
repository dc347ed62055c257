//! The task's state: the registration, the token, and what holds all calls back. Plain data, with the times at which
//! something is due. [`react`](super::react) has what a reply changes in it.

use std::time::Duration;

use tokio::time::Instant;

use super::blame::Mark;
use super::budget::{self, Budget};
use super::doors::Endpoint;
use super::explanations;
use super::messages::Grant;
use super::store::SpentMarks;
use super::types::CloudState;
use crate::protocol::ResultCode;

/// Whether iLink has our callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Unknown,
    Yes,
    /// iLink said 1007.
    No,
}

/// What `set_config` is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Query,
    Register,
}

/// Of which kind a trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// Time may mend it.
    Passing,
    /// There was no reply.
    Lost,
    /// Only an operator can mend it.
    Severe,
}

pub(super) struct Registration {
    pub(super) known: Known,
    pub(super) want: Option<Want>,
    /// When `want` is due.
    pub(super) due: Instant,
    /// No `set_config` before this (1004).
    pub(super) quota_until: Option<Instant>,
    /// When the registration is verified.
    pub(super) verify_at: Option<Instant>,
    /// Why the registration does not get on; calls go on nevertheless.
    pub(super) trouble: Option<String>,
    pub(super) grade: Grade,
    pub(super) failures: u32,
    pub(super) quota_failures: u32,
    /// Counts registrations.
    pub(super) epoch: u64,
    /// The next one is made because iLink has forgotten the present one.
    pub(super) renewing: bool,
    /// The present one was made because iLink had forgotten the one before.
    pub(super) renewed: bool,
    /// `set_config` was answered 1003 last: it is repeated once, with a new token.
    pub(super) address_refused: bool,
}

impl Registration {
    pub(super) fn new(now: Instant, known: Known, want: Option<Want>) -> Self {
        Self {
            known,
            want,
            due: now,
            quota_until: None,
            verify_at: None,
            trouble: None,
            grade: Grade::Passing,
            failures: 0,
            quota_failures: 0,
            epoch: 1,
            renewing: false,
            renewed: false,
            address_refused: false,
        }
    }

    /// What is wanted and when it may be done.
    pub(super) fn next(&self) -> Option<(Want, Instant)> {
        let want = self.want?;
        Some((want, self.quota_until.map_or(self.due, |quota| quota.max(self.due))))
    }

    pub(super) fn want(&mut self, want: Want, due: Instant) {
        self.want = Some(want);
        self.due = due;
    }

    /// iLink says that no callback is registered. A registration that is due already stays due when it is.
    pub(super) fn missing(&mut self, now: Instant) {
        if self.known == Known::Yes || self.want != Some(Want::Register) {
            self.want(Want::Register, now);
        }
        self.known = Known::No;
    }

    /// iLink has our callback.
    pub(super) fn confirm(&mut self, verify_at: Option<Instant>) {
        self.known = Known::Yes;
        self.want = None;
        (self.trouble, self.grade) = (None, Grade::Passing);
        self.failures = 0;
        self.quota_failures = 0;
        self.verify_at = verify_at;
    }

    /// It does not get on; again after a while.
    pub(super) fn stall(&mut self, cause: String, due: Instant) {
        (self.trouble, self.grade) = (Some(cause), Grade::Passing);
        self.due = due;
    }
}

/// A token is used for that long at least: longer than the budget makes anybody wait for the next one.
const LEAST_LIFE: Duration = Duration::from_mins(10);

pub(super) struct Living {
    pub(super) grant: Grant,
    pub(super) renew_at: Instant,
    pub(super) dies_at: Instant,
    /// How long it lives in all.
    pub(super) life: Duration,
}

pub(super) struct Token {
    pub(super) living: Option<Living>,
    pub(super) generation: u64,
    /// A new one is wanted although this one may live.
    pub(super) wanted: bool,
    /// None is asked for before this.
    pub(super) not_before: Instant,
    /// Why there is no new one.
    pub(super) trouble: Option<String>,
    pub(super) grade: Grade,
    /// When the present one was asked for.
    pub(super) granted_at: Instant,
    pub(super) failures: u32,
    pub(super) quota_failures: u32,
    /// The next one is made because iLink refuses the present one.
    pub(super) renewing: bool,
    /// The present one was made because iLink refused the one before.
    pub(super) renewed: bool,
}

impl Token {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            living: None,
            generation: 0,
            wanted: false,
            not_before: now,
            trouble: None,
            grade: Grade::Passing,
            granted_at: now,
            failures: 0,
            quota_failures: 0,
            renewing: false,
            renewed: false,
        }
    }

    /// When to ask for a token.
    pub(super) fn next(&self) -> Instant {
        match &self.living {
            Some(living) if !self.wanted => living.renew_at.max(self.not_before),
            _ => self.not_before,
        }
    }

    /// A token of which `left` of its whole `life` is left.
    pub(super) fn accept(&mut self, token: secrecy::SecretString, now: Instant, life: Duration, left: Duration) {
        self.generation += 1;
        self.granted_at = now;
        let used = life.saturating_sub(left);
        self.living = Some(Living {
            grant: Grant { token, generation: self.generation },
            renew_at: now + (life.mul_f64(0.9)).saturating_sub(used),
            // A life that is told too short is not believed: iLink says itself when the token is dead.
            dies_at: now + if used.is_zero() { left.max(LEAST_LIFE) } else { left },
            life,
        });
        self.renewed = std::mem::take(&mut self.renewing);
        self.wanted = false;
        self.not_before = now;
        (self.trouble, self.grade) = (None, Grade::Passing);
        self.failures = 0;
        self.quota_failures = 0;
    }

    /// It is of no more use.
    pub(super) fn kill(&mut self) {
        self.living = None;
    }

    pub(super) fn stall(&mut self, cause: Option<String>, not_before: Instant) {
        (self.trouble, self.grade) = (cause, Grade::Passing);
        self.not_before = not_before;
    }
}

/// What keeps all calls waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The service does not answer.
    Offline,
    /// Something at iLink stands between us and our uid: only a call that succeeds shows that it is gone.
    Conflict,
    /// The configuration is wrong.
    Config,
    /// No callback is registered at iLink, and we may not register one.
    Unregistered,
    /// The service is in trouble, or asks for patience.
    Busy,
}

/// The call that was refused, while it is not known whether that is its own trouble: others go on, one at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    pub(super) mark: Mark,
    pub(super) endpoint: Endpoint,
}

pub(super) struct Hold {
    pub(super) why: Why,
    pub(super) cause: String,
    /// When to try again.
    pub(super) until: Instant,
    /// From when on one call may tell whether it is over.
    pub(super) one_at: Option<Instant>,
    pub(super) doubt: Option<Doubt>,
    /// What iLink said.
    pub(super) code: Option<ResultCode>,
    /// Counts holds, and their prolongations: each lets one call through.
    pub(super) turn: u64,
    /// The token of that time.
    pub(super) generation: u64,
}

impl Hold {
    /// The state to publish.
    pub(super) fn state(&self) -> Option<CloudState> {
        match self.why {
            Why::Busy if self.doubt.is_some() => None,
            Why::Offline => Some(CloudState::Offline),
            Why::Conflict | Why::Busy => Some(CloudState::Degraded),
            Why::Config => Some(CloudState::AuthError),
            Why::Unregistered => Some(CloudState::Unregistered),
        }
    }
}

/// Counts failures of a kind, from one again once a command was served in between.
#[derive(Default)]
pub(super) struct Streak {
    failures: u32,
    served: u64,
}

impl Streak {
    pub(super) fn next(&mut self, served: u64) -> u32 {
        self.failures = if served == self.served { self.failures.saturating_add(1) } else { 1 };
        self.served = served;
        self.failures
    }
}

/// What there is to keep: for `set_config` and `get_access_token`, how often in a row and until when.
pub(super) type QuotaMarks = [Option<(u32, Instant)>; 2];

/// What the session allows itself, and the operator.
pub(super) struct Budgets {
    pub(super) config: Budget,
    pub(super) token: Budget,
    pub(super) verbs: Budget,
    /// Something was spent that is not on disk.
    pub(super) unsaved: bool,
}

impl Budgets {
    pub(super) fn restore(now: Instant, kept: &SpentMarks) -> Self {
        let [config, token, verbs] = kept.spent();
        Self {
            config: Budget::new(budget::CONFIG, now, config),
            token: Budget::new(budget::TOKENS, now, token),
            verbs: Budget::new(budget::VERBS, now, verbs),
            unsaved: false,
        }
    }

    pub(super) fn marks(&self, now: Instant) -> SpentMarks {
        SpentMarks::new([self.config.spent(now), self.token.spent(now), self.verbs.spent(now)])
    }

    /// An operator's `set_config`, beside what the session needs: it counts, but is not kept out by that.
    ///
    /// # Errors
    /// Why not now.
    pub(super) fn spend_verb(&mut self, now: Instant) -> Result<(), String> {
        let next = self.verbs.next(now, 0);
        if next > now {
            return Err(explanations::paced_verb(next - now));
        }
        self.verbs.spend(now);
        Ok(())
    }
}
