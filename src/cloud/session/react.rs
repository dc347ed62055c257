//! What each result code does to the session: the table in the module's documentation, as code.
//!
//! A reply to our own `set_config` or `get_access_token` ends in [`Task::react`], what a call met on its way in
//! [`Task::renew`] and [`Task::trouble`], the end of our own calls in [`Task::kept_up`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::handle::{Access, Attempt, Origin, Renewal, Verb};
use super::task::{Done, Task};
use super::tracks::{Hold, Known, Want, Why};
use super::types::RegisterPolicy;
use super::upkeep::UpkeepDone;
use super::words;
use crate::cloud::TransportError;
use crate::protocol::{Class, Reply, ResultCode, TokenGrant};

/// No token lives longer than this, whatever its reply says.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a token lives.
pub(super) fn life(grant: &TokenGrant) -> Duration {
    Duration::from_secs(grant.expires_in).min(LONGEST_LIFE)
}

impl Task {
    /// A call of ours has come to an end.
    pub(super) fn react(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Query(posted) => {
                self.answer_verb(Verb::Query, &posted);
                if !self.unregistered {
                    self.queried(now, posted);
                }
            }
            Done::Register(posted, seen) => {
                self.answer_verb(Verb::Register, &posted);
                self.registered(now, posted, &seen);
            }
            Done::Unregister(posted, recorded) => {
                let gone = posted.as_ref().is_ok_and(|reply| matches!(reply.code.value(), 0 | 1007));
                match recorded {
                    Ok(()) => self.answer_verb(Verb::Unregister, &posted),
                    Err(error) => self.answer(Err(words::unregistered_unrecorded(&error))),
                }
                match posted {
                    Ok(_) if gone => self.unregister(),
                    Ok(reply) if reply.code.class() == Class::Quota => self.config_quota(now, reply.code),
                    Ok(_) => {}
                    Err(error) => {
                        self.lost(&error);
                    }
                }
            }
            Done::Token(posted, asked) => self.granted(now, asked, posted),
        }
    }

    fn answer_verb(&mut self, verb: Verb, posted: &Result<Reply, TransportError>) {
        if self.answering.as_ref().is_some_and(|(asked, _)| *asked == verb) {
            self.answer(posted.clone().map_err(|error| error.cause().to_owned()));
        }
    }

    fn answer(&mut self, answer: Result<Reply, String>) {
        if let Some((_, asked)) = self.answering.take() {
            self.once_published(move || {
                let _ = asked.send(answer);
            });
        }
    }

    fn unregister(&mut self) {
        self.unregistered = true;
        self.confirmed = false;
        self.registration.known = Known::No;
        self.registration.want = None;
        self.registration.trouble = None;
        self.token.kill();
        self.release();
    }

    fn verify_at(&self, now: Instant) -> Option<Instant> {
        let every = self.config.verify_every;
        (!every.is_zero()).then(|| now + every)
    }

    fn queried(&mut self, now: Instant, posted: Result<Reply, TransportError>) {
        let reply = match posted {
            Ok(reply) => reply,
            Err(error) => {
                self.registration.failures += 1;
                let again = self.lost(&error).max(now + self.config.timing.link.jittered(self.registration.failures));
                if self.registration.want.is_some() {
                    self.registration.due = again;
                }
                return;
            }
        };
        let code = reply.code;
        match (code.class(), code.value()) {
            (Class::Done | Class::Permanent, _) => {
                if !code.is_ok() {
                    tracing::warn!(
                        "iLink does not say whether the callback is registered: {}",
                        words::odd("the query", code)
                    );
                }
                // What 0 means is thin: only with our own record does it say that this very URL is registered.
                if self.confirmed || self.registration.known == Known::Yes {
                    self.registration.confirm(self.verify_at(now));
                } else if self.registration.want != Some(Want::Register) {
                    self.registration.want(Want::Register, now);
                }
                self.answered(true);
            }
            (_, 1007) => {
                self.confirmed = false;
                self.registration.missing(now);
                self.answered(true);
            }
            _ => self.set_config_refused(now, Want::Query, code, ""),
        }
    }

    fn registered(&mut self, now: Instant, posted: Result<Reply, TransportError>, seen: &str) {
        match posted {
            Ok(reply) if reply.code.is_ok() => {
                self.confirmed = true;
                self.registration.epoch += 1;
                self.registration.renewed = std::mem::take(&mut self.registration.renewing);
                self.registration.confirm(self.verify_at(now));
                self.upkeep.registered();
                self.answered(true);
                tracing::info!("the callback {} is registered at iLink", words::shown(&self.config.callback_url));
            }
            Ok(reply) => self.set_config_refused(now, Want::Register, reply.code, seen),
            Err(error @ TransportError::Unsent { .. }) => {
                let again = self.lost(&error);
                self.registration.want(Want::Register, again);
            }
            // The service calls us back before it answers: that this takes long says nothing about other calls.
            Err(TransportError::Ambiguous { cause }) => {
                self.registration.failures += 1;
                let wait = self.config.timing.callback.jittered(self.registration.failures);
                self.registration.want(Want::Register, now + wait);
                self.registration.stall(format!("registering failed: {cause}; {seen}"), now + wait);
            }
        }
    }

    fn set_config_refused(&mut self, now: Instant, asked: Want, code: ResultCode, seen: &str) {
        let timing = self.config.timing;
        let registration = &mut self.registration;
        registration.failures = registration.failures.saturating_add(1);
        let failures = registration.failures;
        let (cause, wait) = match (code.class(), code.value()) {
            (Class::FatalConfig, _) => {
                let until = self.misconfigured(code);
                return self.registration.want(asked, until);
            }
            (Class::Conflict, _) => {
                let until = self.conflict(code);
                return self.registration.want(asked, until);
            }
            (Class::Quota, _) => {
                self.registration.want(asked, now);
                self.config_quota(now, code);
                return self.answered(false);
            }
            (Class::Callback, _) => {
                (words::callback(code, &self.config.callback_url, seen), timing.callback.jittered(failures))
            }
            (Class::Transient, _) => (words::transient(code), timing.link.jittered(failures)),
            (Class::Session, _) => (words::odd("set_config", code), timing.conflict.jittered(failures)),
            (Class::Done | Class::Permanent, _) => (words::odd("to register", code), timing.config.jittered(failures)),
        };
        registration.want(asked, now + wait);
        registration.stall(cause, now + wait);
        self.answered(false);
    }

    fn config_quota(&mut self, now: Instant, code: ResultCode) {
        let registration = &mut self.registration;
        registration.quota_failures = registration.quota_failures.saturating_add(1);
        let wait = self.config.timing.quota.jittered(registration.quota_failures);
        registration.quota_until = Some(now + wait);
        let cause = words::config_quota(code, wait);
        if registration.known == Known::Unknown && self.confirmed && registration.want == Some(Want::Query) {
            // The record is good until iLink says otherwise.
            registration.known = Known::Yes;
        }
        if registration.known == Known::Yes || registration.want.is_none() {
            tracing::warn!("{cause}");
        } else {
            registration.stall(cause, now + wait);
        }
    }

    fn granted(&mut self, now: Instant, asked: Instant, posted: Result<Reply, TransportError>) {
        let timing = self.config.timing;
        let reply = match posted {
            Ok(reply) => reply,
            Err(error) => {
                self.token.failures = self.token.failures.saturating_add(1);
                let again = self.lost(&error).max(now + timing.link.exact(self.token.failures));
                return self.token.stall(None, again);
            }
        };
        if let Some(grant) = TokenGrant::from_reply(&reply) {
            let life = life(&grant);
            self.token.accept(grant.access_token, asked, life, life);
            return self.answered(true);
        }
        let code = reply.code;
        self.token.failures = self.token.failures.saturating_add(1);
        let failures = self.token.failures;
        let (cause, wait) = match (code.class(), code.value()) {
            (Class::FatalConfig, _) => {
                self.token.wanted = true;
                self.token.not_before = self.misconfigured(code);
                return;
            }
            (Class::Conflict, _) => {
                self.token.wanted = true;
                self.token.not_before = self.conflict(code);
                return;
            }
            (Class::Session, 1007) => return self.token_wants_registration(now, code),
            (Class::Quota, _) => {
                // The old one is used while it lives.
                self.token.wanted = false;
                self.token.quota_failures = self.token.quota_failures.saturating_add(1);
                let wait = timing.quota.jittered(self.token.quota_failures);
                (words::token_quota(code, wait), wait)
            }
            (Class::Transient, _) => (words::transient(code), timing.link.jittered(failures)),
            (Class::Done, _) => (words::no_token_in_reply(), timing.conflict.jittered(failures)),
            (Class::Permanent, _) => (words::odd("to grant a token", code), timing.config.jittered(failures)),
            (Class::Session | Class::Callback, _) => {
                (words::odd("to grant a token", code), timing.conflict.jittered(failures))
            }
        };
        self.token.stall(Some(cause), now + wait);
        self.answered(false);
    }

    /// There is no token for a uid that is not registered.
    fn token_wants_registration(&mut self, now: Instant, code: ResultCode) {
        self.token.kill();
        if self.config.register == RegisterPolicy::Never {
            self.token.not_before = self.not_registered_by_others(code);
        } else if self.registration_is_unproven() {
            self.token.not_before = self.forgotten_again(code);
        } else {
            self.forgotten(now);
            self.answered(false);
        }
    }

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

    fn registration_is_unproven(&self) -> bool {
        let proven = self.session.shared.proven_registration.load(Ordering::Relaxed);
        self.registration.renewed && proven < self.registration.epoch
    }

    /// iLink has forgotten our registration: register again.
    fn forgotten(&mut self, now: Instant) {
        self.confirmed = false;
        self.registration.missing(now);
        self.registration.renewing = true;
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            self.registration.trouble = Some(words::forgotten_under_quota(quota - now));
        }
    }

    /// iLink has forgotten a registration that was made because it had forgotten the one before.
    fn forgotten_again(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.confirmed = false;
        self.registration.known = Known::No;
        self.registration.renewing = true;
        self.registration.want(Want::Register, until);
        until
    }

    fn not_registered_by_others(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.registration.known = Known::No;
        self.hold = Some(Hold { why: Why::Unregistered, cause: words::not_registered_by_us(code), until });
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
            UpkeepDone::Probed { attempt, states } => {
                let now = Instant::now();
                match attempt {
                    Attempt::Reply(_) | Attempt::Later(_) => {
                        if self.config.register == RegisterPolicy::Never {
                            self.registration.known = Known::Yes;
                        }
                        self.release();
                        if let Some(states) = states {
                            self.upkeep.presence_was_read();
                            self.presence.send_replace(states);
                        }
                    }
                    Attempt::Lost(error) => {
                        self.offline(error.cause().to_owned());
                    }
                    Attempt::NotReady(cause) => {
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
            UpkeepDone::Kept { progress, states } => {
                self.upkeep.kept(progress, &self.config.timing);
                if let Some(states) = states {
                    self.presence.send_replace(states);
                }
            }
        }
    }

    /// iLink has answered; `well` if it did what was asked.
    fn answered(&mut self, well: bool) {
        if well && self.config.register == RegisterPolicy::Never {
            self.registration.known = Known::Yes;
        }
        let over = match self.hold.as_ref().map(|hold| hold.why) {
            Some(Why::Checking | Why::Offline) => true,
            Some(Why::Config | Why::Unregistered) => well,
            Some(Why::Conflict) | None => false,
        };
        if over {
            self.release();
        }
    }

    /// There was no reply; when to try again.
    pub(super) fn lost(&mut self, error: &TransportError) -> Instant {
        let may_probe = self.token.living.is_some() && self.registration.known != Known::No;
        if error.is_ambiguous() && self.hold.is_none() && may_probe {
            let now = Instant::now();
            self.hold = Some(Hold { why: Why::Checking, cause: error.cause().to_owned(), until: now });
            return now;
        }
        self.offline(error.cause().to_owned())
    }

    fn offline(&mut self, cause: String) -> Instant {
        self.losses = self.losses.saturating_add(1);
        let until = Instant::now() + self.config.timing.link.jittered(self.losses);
        self.hold = Some(Hold { why: Why::Offline, cause, until });
        until
    }

    fn conflict(&mut self, code: ResultCode) -> Instant {
        let failures = self.conflicts.next(self.session.shared.served.load(Ordering::Relaxed));
        let until = Instant::now() + self.config.timing.conflict.jittered(failures);
        let cause = words::conflict(code, &self.config.account.uid);
        self.hold = Some(Hold { why: Why::Conflict, cause, until });
        until
    }

    fn misconfigured(&mut self, code: ResultCode) -> Instant {
        let failures = self.misconfigured.next(self.session.shared.served.load(Ordering::Relaxed));
        let until = Instant::now() + self.config.timing.config.jittered(failures);
        let cause = words::config(code, &self.config.account.uid, &self.config.callback_url);
        self.hold = Some(Hold { why: Why::Config, cause, until });
        until
    }
}
