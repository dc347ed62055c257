//! What calls met on their way, and what becomes of the session by it.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::asks::{Access, Attempt, Origin, Renewal};
use super::task::Task;
use super::tracks::{Known, Want, Why};
use super::types::RegisterPolicy;
use super::upkeep::UpkeepDone;
use super::words;
use crate::protocol::{Class, ResultCode};

impl Task {
    /// Sees to a renewal that a call asks for; whether it is under way.
    pub(super) fn renew(&mut self, what: Renewal, code: ResultCode, used: &Access, origin: Origin) -> bool {
        let now = Instant::now();
        if self.renewed(what, used) {
            return true;
        }
        if self.unregistered || (self.hold.is_some() && origin != Origin::Probe) {
            return false;
        }
        match what {
            Renewal::Token => {
                let refused_now = self.token.living.is_some() && self.token.generation == used.generation();
                if !refused_now {
                    return true;
                }
                let proven = self.session.shared.proven_token.load(Ordering::Relaxed) >= self.token.generation;
                // A refused address says nothing about the token.
                if code.class() == Class::Session {
                    self.token.kill();
                }
                if self.token.renewed && !proven {
                    self.conflict(code);
                    return false;
                }
                let possible = self.token.not_before <= now;
                (self.token.wanted, self.token.renewing) = (possible, possible);
                possible
            }
            Renewal::Registration if self.config.register == RegisterPolicy::Never => {
                self.not_registered_by_others(code);
                false
            }
            Renewal::Registration => {
                let refused_now = self.registration.known != Known::No && self.registration.epoch == used.registration;
                if refused_now && self.registration_is_unproven() {
                    self.forgotten_again(code);
                    return false;
                }
                if refused_now {
                    self.forgotten(now);
                }
                true
            }
        }
    }

    pub(super) fn registration_is_unproven(&self) -> bool {
        let proven = self.session.shared.proven_registration.load(Ordering::Relaxed);
        self.registration.renewed && proven < self.registration.epoch
    }

    /// iLink has forgotten our registration: register again.
    pub(super) fn forgotten(&mut self, now: Instant) {
        self.confirmed = false;
        self.registration.missing(now);
        self.registration.renewing = true;
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            self.registration.trouble = Some(words::forgotten_under_quota(quota - now));
        }
    }

    /// iLink has forgotten a registration that was made because it had forgotten the one before.
    pub(super) fn forgotten_again(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.confirmed = false;
        self.registration.known = Known::No;
        self.registration.renewing = true;
        self.registration.want(Want::Register, until);
        until
    }

    /// iLink refused a call for a reason that holds for all calls.
    pub(super) fn trouble(&mut self, code: ResultCode, used: &Access, origin: Origin) {
        let late = self.hold.is_some() || used.opening != self.opening;
        if self.unregistered || (late && origin != Origin::Probe) {
            return;
        }
        let now = Instant::now();
        let may_register = self.config.register != RegisterPolicy::Never;
        match (code.class(), code.value()) {
            (Class::FatalConfig, 1005) if may_register => {
                let until = self.misconfigured(code);
                self.registration.want(Want::Register, until);
            }
            (Class::FatalConfig, _) => {
                // Whether the configuration is accepted, only get_access_token tells.
                self.token.wanted = true;
                self.token.not_before = self.misconfigured(code);
            }
            (Class::Callback, _) if may_register => {
                self.registration.known = Known::No;
                self.set_config_refused(now, Want::Register, code, "it said so to another call than set_config");
            }
            (Class::Session, 1007) if may_register => {
                self.forgotten_again(code);
            }
            (Class::Session, 1008 | 1015) => {
                self.token.kill();
                self.conflict(code);
            }
            _ => {
                self.conflict(code);
            }
        }
    }

    /// A call of the session's own has come to an end.
    pub(super) fn kept_up(&mut self, done: UpkeepDone) {
        match done {
            UpkeepDone::Probed { attempt, read } => {
                let now = Instant::now();
                match attempt {
                    Attempt::Reply(_) | Attempt::Later(_) => {
                        if self.config.register == RegisterPolicy::Never {
                            self.registration.known = Known::Yes;
                        }
                        self.release();
                        if let Some(read) = read {
                            self.presence.send_replace(self.upkeep.probe_read(read));
                        }
                    }
                    Attempt::Lost(error) => {
                        self.offline(error.cause().to_owned());
                    }
                    Attempt::NotReady { cause, .. } => {
                        // What stood in the way has mostly set its own time already.
                        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.until <= now) {
                            hold.until = now + self.config.timing.conflict.jittered(1);
                            if hold.why == Why::Checking {
                                (hold.why, hold.cause) = (Why::Conflict, cause);
                            }
                        }
                    }
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
}
