//! What calls ran into, and what that means for the session.
//!
//! One refusal proves little, so refusals are compared. The first call that is refused puts all calls in doubt: they
//! are made one at a time. If another call is served, the refusal concerned the first call only, and that one waits
//! alone. If another is refused as well, the session holds all calls.

use std::time::Duration;

use tokio::time::Instant;

use super::explanations;
use super::messages::{Access, Attempt, Caller, Origin, Renewal, Renewing};
use super::standing::Loss;
use super::state::{Doubt, Known, Want, Why};
use super::task::Task;
use super::types::RegisterPolicy;
use super::upkeep::UpkeepDone;
use crate::cloud::TransportError;
use crate::protocol::{Class, ResultCode};

impl Task {
    /// Sees to a renewal that a call asks for.
    pub(super) fn renew(&mut self, what: Renewal, code: ResultCode, used: &Access, caller: &Caller) -> Renewing {
        self.silence.answered();
        if self.renewed(what, used) {
            return Renewing::Yes;
        }
        if self.unregistered || self.is_late(used, caller) {
            return Renewing::No(None);
        }
        if self.hold.as_ref().is_some_and(|hold| hold.doubt.is_some() && hold.why == Why::Conflict) {
            return Renewing::No(self.refuse(code, used, caller));
        }
        match what {
            Renewal::Token => self.renew_token(code, used, caller),
            Renewal::Registration => self.renew_registration(code, used, caller),
        }
    }

    /// There was a hold when this call was on its way, and it is not the one that is to tell whether it is over.
    fn is_late(&self, used: &Access, caller: &Caller) -> bool {
        let tells = caller.single || caller.origin == Origin::Probe;
        let held = self.hold.as_ref().is_some_and(|hold| hold.doubt.is_none());
        !tells && (held || used.opening != self.opening)
    }

    /// This call was refused before while others were served, and of late others were, with the same token and registration.
    fn is_its_own(&self, proven: bool, caller: &Caller) -> bool {
        let shared = &self.session.shared;
        let recent = shared.served_ago().is_some_and(|ago| ago < self.config.timing.conflict.most);
        proven && recent && shared.blames().is_own(caller.mark)
    }

    fn renew_token(&mut self, code: ResultCode, used: &Access, caller: &Caller) -> Renewing {
        let (now, timing) = (Instant::now(), self.config.timing);
        let refused_now = self.token.living.is_some() && self.token.generation == used.generation();
        if !refused_now {
            return Renewing::Yes;
        }
        let proven = self.session.shared.proven_token() >= self.token.generation;
        if self.is_its_own(proven, caller) {
            return Renewing::No(Some(self.blame(code, caller)));
        }
        let just_renewed = self.token.renewed && !proven && self.token.granted_at.elapsed() < timing.conflict.first;
        let possible = self.token.not_before <= now && self.budgets.token.next(now, 0) <= now;
        if just_renewed || !possible {
            return Renewing::No(self.refuse(code, used, caller));
        }
        // A refused address says nothing about the token.
        if code.class() == Class::Session {
            self.token.kill();
        }
        (self.token.wanted, self.token.renewing) = (true, true);
        Renewing::Yes
    }

    fn renew_registration(&mut self, code: ResultCode, used: &Access, caller: &Caller) -> Renewing {
        let now = Instant::now();
        let proven = self.session.shared.proven_registration() >= self.registration.epoch;
        let refused_now = self.registration.known != Known::No && self.registration.epoch == used.registration;
        if refused_now && self.is_its_own(proven, caller) {
            return Renewing::No(Some(self.blame(code, caller)));
        }
        if self.config.register == RegisterPolicy::Never {
            self.not_registered_by_others(code);
            return Renewing::No(None);
        }
        if !refused_now {
            return Renewing::Yes;
        }
        let quota = self.registration.quota_until.is_some_and(|quota| quota > now);
        if self.registration_is_unproven() || quota || self.budgets.config.next(now, 0) > now {
            return Renewing::No(self.refuse(code, used, caller));
        }
        self.forgotten(now);
        Renewing::Yes
    }

    pub(super) fn registration_is_unproven(&self) -> bool {
        self.registration.renewed && self.session.shared.proven_registration() < self.registration.epoch
    }

    /// iLink has forgotten our registration: register again.
    pub(super) fn forgotten(&mut self, now: Instant) {
        self.confirmed = false;
        self.registration.missing(now);
        self.registration.renewing = true;
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            self.registration.trouble = Some(explanations::forgotten_under_quota(quota - now));
        }
    }

    /// It is this call's own trouble: it alone waits.
    fn blame(&self, code: ResultCode, caller: &Caller) -> Duration {
        let mut blames = self.session.shared.blames();
        blames.refused(caller.mark, explanations::refused(code), true, None, &self.config.timing.conflict);
        blames.held(caller.mark, Instant::now()).map(|(wait, _)| wait).unwrap_or_default()
    }

    /// iLink refused a call, and there is nothing to renew, or it has been renewed. How long this call alone has to wait.
    pub(super) fn refuse(&mut self, code: ResultCode, used: &Access, caller: &Caller) -> Option<Duration> {
        self.silence.answered();
        if self.unregistered || self.is_late(used, caller) {
            return None;
        }
        let holds = self.hold.as_ref().is_some_and(|hold| hold.doubt.is_none());
        if !holds && caller.origin != Origin::Probe && self.others_were_served(code, used, caller) {
            return Some(self.blame(code, caller));
        }
        let doubt = self.hold.as_ref().filter(|hold| hold.why != Why::Busy).and_then(|hold| hold.doubt);
        match doubt {
            Some(first) if first.mark != caller.mark => self.refused_too(code, first, caller),
            _ => {
                let doubt = Doubt { mark: caller.mark, endpoint: caller.endpoint };
                self.hold_for_refusal(code, (!holds && caller.origin != Origin::Probe).then_some(doubt));
            }
        }
        let until = self.hold.as_ref()?.until;
        if caller.origin != Origin::Probe {
            let pace = self.config.timing.conflict;
            let mut blames = self.session.shared.blames();
            blames.refused(caller.mark, explanations::refused(code), false, Some(until), &pace);
        }
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Whether others were served while this call was refused: meanwhile, or each time before.
    fn others_were_served(&self, code: ResultCode, used: &Access, caller: &Caller) -> bool {
        let shared = &self.session.shared;
        let good = match (code.class(), code.value()) {
            (Class::Session, 1007) => shared.proven_registration() >= used.registration,
            (Class::Session, _) | (_, 1003) => shared.proven_token() >= used.generation(),
            _ => true,
        };
        (good && shared.served() != caller.served) || self.is_its_own(good, caller)
    }

    /// A second call was refused while a first one had put all in doubt, and none was served.
    fn refused_too(&mut self, code: ResultCode, first: Doubt, caller: &Caller) {
        let Some(hold) = self.hold.as_mut() else { return };
        let until = hold.until;
        if first.endpoint == caller.endpoint {
            // The others are still asked, one at a time.
            let cause = hold.cause.clone();
            return self.standings.refused(caller.endpoint, until, &cause);
        }
        hold.doubt = None;
        match code.value() {
            1007 => self.forgotten_until(until),
            1008 | 1015 => self.token.kill(),
            _ => {}
        }
    }

    /// iLink does not know a registration that is new: it is made once more, later.
    fn forgotten_until(&mut self, until: Instant) {
        if self.config.register != RegisterPolicy::Never {
            self.confirmed = false;
            self.registration.known = Known::No;
            self.registration.renewing = true;
            self.registration.want(Want::Register, until);
        }
    }

    /// iLink has forgotten a registration that was made because it had forgotten the one before.
    pub(super) fn forgotten_again(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.forgotten_until(until);
        until
    }

    fn hold_for_refusal(&mut self, code: ResultCode, doubt: Option<Doubt>) {
        let may_register = self.config.register != RegisterPolicy::Never;
        let until = match code.class() {
            Class::FatalConfig => self.misconfigured(code),
            _ => self.conflict(code),
        };
        match (code.class(), code.value()) {
            (Class::FatalConfig, 1005) | (Class::Callback, _) if may_register => {
                self.registration.want(Want::Register, until);
            }
            (Class::FatalConfig, _) => {
                // Whether the configuration is accepted, only get_access_token tells.
                self.token.wanted = true;
                self.token.not_before = until;
            }
            (Class::Session, 1007) if doubt.is_none() => self.forgotten_until(until),
            (Class::Session, 1007) if may_register => {
                self.registration.renewing = true;
                self.registration.want(Want::Register, until);
            }
            _ => {}
        }
        if let Some(hold) = self.hold.as_mut() {
            (hold.doubt, hold.code) = (doubt, Some(code));
        }
    }

    /// The service is in trouble (1016, 1017), or asks for patience: everybody waits together, and one call tells whether it is over.
    pub(super) fn busy(&mut self, code: ResultCode, used: &Access, caller: &Caller) {
        self.silence.answered();
        self.standings.answered(caller.endpoint);
        // Our own calls have a pace of their own.
        if caller.origin != Origin::Command || self.unregistered || self.is_late(used, caller) {
            return;
        }
        let doubt = Doubt { mark: caller.mark, endpoint: caller.endpoint };
        match self.hold.as_ref().map(|hold| (hold.why, hold.doubt)) {
            None => self.hold_for_trouble(code, Some(doubt)),
            Some((Why::Busy, Some(first))) if first.mark == caller.mark => {}
            Some((Why::Busy, _)) => self.hold_for_trouble(code, None),
            Some((_, Some(_))) => {}
            Some((_, None)) => {
                self.release(false);
                self.hold_for_trouble(code, Some(doubt));
            }
        }
    }

    fn hold_for_trouble(&mut self, code: ResultCode, doubt: Option<Doubt>) {
        let timing = self.config.timing;
        let pace = if code.class() == Class::Quota { timing.conflict } else { timing.link };
        if doubt.is_none() {
            self.pressed = self.pressed.saturating_add(1);
        }
        let until = Instant::now() + pace.jittered(self.pressed.max(1));
        self.hold(Why::Busy, explanations::busy(code), until);
        if let Some(hold) = self.hold.as_mut() {
            (hold.doubt, hold.code) = (doubt, Some(code));
        }
    }

    /// A call was served.
    pub(super) fn call_served(&mut self, used: &Access, caller: &Caller) {
        self.silence.answered();
        self.standings.answered(caller.endpoint);
        let over = self.hold.as_ref().is_some_and(|hold| {
            let with_this_token = used.generation() >= hold.generation;
            match hold.why {
                Why::Offline | Why::Busy => true,
                Why::Conflict | Why::Config => with_this_token && (hold.doubt.is_some() || caller.single),
                Why::Unregistered => caller.single,
            }
        });
        if over {
            self.pressed = 0;
            self.release(caller.origin != Origin::Probe);
        }
    }

    /// A call got no reply.
    pub(super) fn call_lost(&mut self, error: &TransportError, used: &Access, caller: &Caller) {
        if caller.origin == Origin::Probe || self.is_late(used, caller) {
            return;
        }
        let nothing = self.silence.lost(caller.endpoint.path(), error);
        let holds = self.hold.as_ref().filter(|hold| hold.doubt.is_none()).map(|hold| hold.why);
        if nothing || holds == Some(Why::Offline) {
            self.offline(error, false);
            return;
        }
        let timing = self.config.timing;
        self.standings.lost(caller.endpoint, caller.mark, error, &timing);
        if holds.is_some() {
            self.hold_on(timing.conflict.first);
        } else if self.standings.is_news(caller.endpoint) && !self.silence.has("ham_user") && self.may_probe() {
            self.check = true;
        }
    }

    /// A call of the session's own has come to an end.
    pub(super) fn kept_up(&mut self, done: UpkeepDone) {
        match done {
            UpkeepDone::Probed { attempt, read } => {
                self.probed(&attempt);
                if let Some(read) = read {
                    self.presence.send_replace(self.upkeep.probe_read(read));
                }
            }
            UpkeepDone::Kept { progress, read } => {
                self.upkeep.kept(progress, &self.config.timing);
                if let Some(read) = read {
                    self.presence.send_replace(self.upkeep.still_wanted(read));
                }
            }
        }
    }

    fn probed(&mut self, attempt: &Attempt) {
        self.check = false;
        match attempt {
            Attempt::Later(code) if self.hold.as_ref().is_some_and(|hold| hold.why == Why::Busy) => {
                self.hold_for_trouble(*code, None);
            }
            Attempt::Reply(_) | Attempt::Later(_) => {
                self.silence.answered();
                self.standings.believe();
                if self.hold.is_some() && self.config.register == RegisterPolicy::Never {
                    self.registration.known = Known::Yes;
                }
                self.release(false);
            }
            Attempt::Lost(error) => {
                let nothing = self.silence.lost("ham_user", error);
                let offline = self.hold.as_ref().is_some_and(|hold| hold.why == Why::Offline);
                if nothing || offline || Loss::of(error) == Loss::Unsent {
                    self.offline(error, true);
                } else {
                    self.hold_on(self.config.timing.conflict.first);
                }
            }
            // What stood in the way has mostly set its own time already.
            Attempt::NotReady { .. } => self.hold_on(self.config.timing.conflict.jittered(1)),
        }
    }
}
