//! What each result code does to the session: the table in [`super`]'s documentation, as code.
//!
//! The outcome of the task's own `set_config` or `get_access_token` is handled here, in [`Task::react`]. What other
//! calls ran into is handled in [`evidence`](super::evidence): [`Task::renew`], [`Task::refuse`], and [`Task::kept_up`]
//! for the session's own calls.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::explanations;
use super::messages::{Done, Verb};
use super::own_calls::life;
use super::state::{Grade, Known, Want};
use super::task::Task;
use super::types::RegisterPolicy;
use crate::cloud::TransportError;
use crate::protocol::{Class, Reply, ResultCode, TokenGrant};

/// Whether a refusal of `set_config` is about the URL that was asked for, and about nothing else.
fn concerns_url(code: ResultCode) -> bool {
    matches!(code.value(), 1005 | 1006)
}

fn grade(code: ResultCode) -> Grade {
    if code.class() == Class::FatalConfig { Grade::Severe } else { Grade::Passing }
}

impl Task {
    /// One of the task's own calls has ended.
    pub(super) fn react(&mut self, done: Done) {
        let now = Instant::now();
        self.hear_of(now, &done);
        match done {
            Done::Query { url, posted } => {
                self.hear_of_address(&posted);
                let repeated = self.repeats_verb(now, Verb::Query, &posted);
                self.answer_verb(Verb::Query, &url, &posted);
                if !repeated && !self.unregistered {
                    self.queried(now, &url, posted);
                }
            }
            Done::Register { url, posted, seen } => {
                self.hear_of_address(&posted);
                let repeated = self.repeats_verb(now, Verb::Register, &posted);
                self.answer_verb(Verb::Register, &url, &posted);
                if !repeated {
                    self.registered(now, &url, posted, &seen);
                }
            }
            Done::Unregister(posted, recorded) => {
                self.hear_of_address(&posted);
                if self.repeats_verb(now, Verb::Unregister, &posted) {
                    return;
                }
                let gone = posted.as_ref().is_ok_and(|reply| matches!(reply.code.value(), 0 | 1007));
                match recorded {
                    Ok(()) => self.answer(posted.clone().map_err(|error| error.cause().to_owned())),
                    Err(error) => self.answer(Err(explanations::unregistered_unrecorded(&error))),
                }
                match posted {
                    Ok(_) if gone => self.unregister(),
                    Ok(reply) if reply.code.class() == Class::Quota => self.config_quota(now, reply.code),
                    Ok(_) => {}
                    Err(error) => {
                        self.own_lost("set_config", &error);
                    }
                }
            }
            Done::Token(posted, asked) => self.granted(now, asked, posted),
        }
    }

    /// What was answered shows that somebody does; what did not reach the service is not counted there.
    fn hear_of(&mut self, now: Instant, done: &Done) {
        let (posted, budget) = match done {
            Done::Query { posted, .. } | Done::Register { posted, .. } | Done::Unregister(posted, _) => {
                (posted, &mut self.budgets.config)
            }
            Done::Token(posted, _) => (posted, &mut self.budgets.token),
        };
        match posted {
            Ok(_) => self.silence.answered(),
            Err(TransportError::Unsent { .. }) => {
                budget.refund(now);
                self.budgets.unsaved = true;
            }
            Err(_) => {}
        }
    }

    fn answer_verb(&mut self, verb: Verb, url: &SecretString, posted: &Result<Reply, TransportError>) {
        if self.answering.as_ref().is_some_and(|(asked, _)| *asked == verb) {
            self.answer(if self.is_wanted(url) {
                posted.clone().map_err(|error| error.cause().to_owned())
            } else {
                Err(explanations::url_changed_meanwhile())
            });
        }
    }

    /// Whether this is still the URL to be registered.
    fn is_wanted(&self, url: &SecretString) -> bool {
        self.config.callback_url.expose_secret() == url.expose_secret()
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
        self.release(false);
    }

    fn verify_at(&self, now: Instant) -> Option<Instant> {
        let every = self.config.verify_every;
        if every.is_zero() { None } else { now.checked_add(every) }
    }

    fn queried(&mut self, now: Instant, url: &SecretString, posted: Result<Reply, TransportError>) {
        let reply = match posted {
            Ok(reply) => reply,
            Err(error) => {
                self.registration.failures = self.registration.failures.saturating_add(1);
                let again = now + self.config.timing.link.jittered(self.registration.failures);
                let offline = self.own_lost("set_config", &error);
                if self.registration.want.is_none() {
                    return;
                }
                self.registration.due = offline.unwrap_or(again).max(again);
                if offline.is_none() || !matches!(error, TransportError::Unsent { .. }) {
                    self.believe_the_record_meanwhile();
                    self.registration.stall(explanations::alone(error.cause()), self.registration.due);
                    self.registration.grade = Grade::Lost;
                }
                return;
            }
        };
        let code = reply.code;
        match (code.class(), code.value()) {
            (Class::Done | Class::Permanent, _) => {
                if !code.is_ok() {
                    tracing::warn!(
                        "iLink does not tell whether the callback is registered: {}",
                        explanations::odd("the query", code)
                    );
                }
                // What 0 means is thin: only with our own record does it say that this very URL is registered. And what is to
                // be registered is not yet, whatever a query says.
                if self.registration.want != Some(Want::Register) {
                    if self.confirmed || self.registration.known == Known::Yes {
                        self.registration.confirm(self.verify_at(now));
                    } else {
                        self.registration.want(Want::Register, now);
                        self.registration.trouble = None;
                    }
                }
                self.answered(true);
            }
            (_, 1007) => {
                self.confirmed = false;
                self.registration.missing(now);
                self.answered(true);
            }
            _ if concerns_url(code) && !self.is_wanted(url) => self.answered(false),
            _ => self.set_config_refused(now, Want::Query, code, explanations::SAID_TO_A_QUERY),
        }
    }

    fn registered(&mut self, now: Instant, url: &SecretString, posted: Result<Reply, TransportError>, seen: &str) {
        let wanted = self.is_wanted(url);
        match posted {
            Ok(reply) if reply.code.is_ok() => {
                self.registration.epoch += 1;
                self.registration.renewed = std::mem::take(&mut self.registration.renewing);
                tracing::info!("the callback {} is registered at iLink", explanations::shown(url));
                if wanted {
                    self.confirmed = true;
                    self.registration.confirm(self.verify_at(now));
                } else {
                    // iLink knows us, by a URL that is wanted no more: the new one is due since it was.
                    self.registration.known = Known::Yes;
                    tracing::info!(
                        "the callback {} is registered next",
                        explanations::shown(&self.config.callback_url)
                    );
                }
                self.upkeep.registered();
                self.answered(true);
            }
            // It says nothing about the URL that is wanted now, which is due already.
            Ok(reply) if !wanted && concerns_url(reply.code) => self.answered(false),
            Err(error) if !wanted && error.is_ambiguous() => {}
            Ok(reply) => self.set_config_refused(now, Want::Register, reply.code, seen),
            Err(error @ TransportError::Unsent { .. }) => {
                let again = self.offline(&error, false);
                self.registration.want(Want::Register, again);
            }
            // The service calls us back before it answers: that this takes long says nothing about other calls.
            Err(error) => {
                let cause = error.cause();
                self.registration.failures = self.registration.failures.saturating_add(1);
                self.own_lost("set_config", &error);
                let wait = self.config.timing.callback.jittered(self.registration.failures);
                self.registration.want(Want::Register, now + wait);
                self.registration.stall(format!("registering failed: {cause}; {seen}"), now + wait);
            }
        }
    }

    fn set_config_refused(&mut self, now: Instant, asked: Want, code: ResultCode, seen: &str) {
        let timing = self.config.timing;
        // Whoever asked may have been overtaken by the wish to register, which no query fulfils.
        let asked = if self.registration.want == Some(Want::Register) { Want::Register } else { asked };
        if code.value() == 1003 && self.repeats_with_new_token(now) {
            self.registration.want(asked, now);
            return self.answered(false);
        }
        let registration = &mut self.registration;
        registration.failures = registration.failures.saturating_add(1);
        let failures = registration.failures;
        // With a living token, what set_config does not like holds up no call.
        let alone = self.token.living.is_some() && (self.confirmed || registration.known == Known::Yes);
        let (cause, wait) = match (code.class(), code.value()) {
            (Class::FatalConfig, _) if alone => {
                let cause = explanations::config(code, &self.config.account.uid, &self.config.callback_url);
                (explanations::alone(&cause), timing.config.jittered(failures))
            }
            (Class::Conflict, _) if alone => (
                explanations::alone(&explanations::conflict(code, &self.config.account.uid)),
                timing.conflict.jittered(failures),
            ),
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
                (explanations::callback(code, &self.config.callback_url, seen), timing.callback.jittered(failures))
            }
            (Class::Transient, _) => (explanations::transient(code), timing.link.jittered(failures)),
            (Class::Session, _) => (explanations::odd("set_config", code), timing.conflict.jittered(failures)),
            (Class::Done | Class::Permanent, _) => {
                (explanations::odd("to register", code), timing.config.jittered(failures))
            }
        };
        let registration = &mut self.registration;
        registration.want(asked, now + wait);
        registration.stall(cause, now + wait);
        registration.grade = grade(code);
        self.believe_the_record_meanwhile();
        self.answered(false);
    }

    /// The record is good until iLink says otherwise.
    fn believe_the_record_meanwhile(&mut self) {
        if self.registration.known == Known::Unknown && self.confirmed && self.registration.want == Some(Want::Query) {
            self.registration.known = Known::Yes;
        }
    }

    fn config_quota(&mut self, now: Instant, code: ResultCode) {
        let registration = &mut self.registration;
        registration.quota_failures = registration.quota_failures.saturating_add(1);
        let wait = self.config.timing.quota.jittered(registration.quota_failures);
        self.config_quota_holds(now, code, wait);
    }

    /// No `set_config` for `wait`; calls go on if iLink may still know us.
    pub(super) fn config_quota_holds(&mut self, now: Instant, code: ResultCode, wait: Duration) {
        let registration = &mut self.registration;
        registration.quota_until = Some(now + wait);
        let cause = explanations::config_quota(code, wait);
        self.believe_the_record_meanwhile();
        let registration = &mut self.registration;
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
                let again = now + timing.link.exact(self.token.failures);
                let offline = self.own_lost("get_access_token", &error);
                let cause = offline.is_none().then(|| explanations::alone_of("get_access_token", error.cause()));
                return self.token.stall(cause, offline.unwrap_or(again).max(again));
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
        // While the old one lives, calls go on.
        let alone = self.token.living.is_some();
        let (cause, wait) = match (code.class(), code.value()) {
            (Class::FatalConfig, _) if alone => {
                self.token.wanted = false;
                let cause = explanations::config(code, &self.config.account.uid, &self.config.callback_url);
                (explanations::alone(&cause), timing.config.jittered(failures))
            }
            (Class::Conflict, _) if alone => {
                self.token.wanted = false;
                (
                    explanations::alone(&explanations::conflict(code, &self.config.account.uid)),
                    timing.conflict.jittered(failures),
                )
            }
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
                (explanations::token_quota(code, wait), wait)
            }
            (Class::Transient, _) => (explanations::transient(code), timing.link.jittered(failures)),
            (Class::Done, _) => (explanations::no_token_in_reply(), timing.conflict.jittered(failures)),
            (Class::Permanent, _) => (explanations::odd("to grant a token", code), timing.config.jittered(failures)),
            (Class::Session | Class::Callback, _) => {
                (explanations::odd("to grant a token", code), timing.conflict.jittered(failures))
            }
        };
        self.token.stall(Some(cause), now + wait);
        self.token.grade = grade(code);
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
}
