//! Whether calls are possible: what holds all of them back, since when, for how long, and what ends it. Also how this
//! is published: as doors to callers, as the status to everybody else.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use super::doors::Setting;
use super::explanations;
use super::messages::{Access, Renewal};
use super::standing::Loss;
use super::state::{Grade, Hold, Known, Want, Why};
use super::task::Task;
use super::types::{CloudState, RegisterPolicy};
use crate::cloud::TransportError;
use crate::protocol::ResultCode;

/// While the service is silent, that often only a call that repeats nothing asks; then a command may as well, for what is
/// silent may be that harmless call alone. The waits have grown to 8 s by then.
const HARMLESS: u32 = 3;
/// The same while its answers cannot be read: the longest wait.
const HARMLESS_UNREADABLE: u32 = 6;

impl Task {
    /// All calls wait until then, when one of them tells whether it is over.
    pub(super) fn hold(&mut self, why: Why, cause: String, until: Instant) {
        self.turn += 1;
        let (turn, generation) = (self.turn, self.token.generation);
        self.hold = Some(Hold { why, cause, until, one_at: Some(until), doubt: None, code: None, turn, generation });
    }

    /// A hold whose time is over lasts a while longer.
    pub(super) fn hold_on(&mut self, wait: std::time::Duration) {
        let now = Instant::now();
        self.turn += 1;
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.until <= now) {
            hold.until = now + wait;
            (hold.one_at, hold.turn) = (Some(hold.until), self.turn);
        }
    }

    /// The way is open again; `by_a_call` of somebody else than the one that put it in doubt, if one did.
    pub(super) fn release(&mut self, by_a_call: bool) {
        let Some(hold) = self.hold.take() else { return };
        self.opening += 1;
        self.losses = 0;
        if hold.why == Why::Offline {
            self.standings.reset();
            // What was lost while nothing answered is asked again at once.
            if self.registration.trouble.is_some() && self.registration.grade == Grade::Lost {
                (self.registration.trouble, self.registration.due) = (None, Instant::now());
            }
        }
        if let Some(doubt) = hold.doubt.filter(|_| by_a_call) {
            self.session.shared.blames().confirm(doubt.mark);
        }
        // What was to be registered again on the word of one call.
        let wanted = self.registration.want == Some(Want::Register) && self.registration.due == hold.until;
        if hold.doubt.is_some() && by_a_call && wanted && self.confirmed && self.registration.known == Known::Yes {
            self.registration.want = None;
            self.registration.renewing = false;
        }
        if hold.why != Why::Busy || hold.doubt.is_none() {
            self.upkeep.read_presence();
        }
    }

    pub(super) fn not_registered_by_others(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.registration.known = Known::No;
        self.hold(Why::Unregistered, explanations::not_registered_by_us(code), until);
        until
    }

    /// iLink has answered a call of our own; `well` if it did what was asked.
    pub(super) fn answered(&mut self, well: bool) {
        self.silence.answered();
        if well && self.config.register == RegisterPolicy::Never {
            self.registration.known = Known::Yes;
        }
        let over = match self.hold.as_ref().map(|hold| hold.why) {
            Some(Why::Offline) => true,
            Some(Why::Config | Why::Unregistered) => well,
            Some(Why::Conflict | Why::Busy) | None => false,
        };
        if over {
            self.release(false);
        }
    }

    /// Whether a harmless call can be made.
    pub(super) fn may_probe(&self) -> bool {
        self.token.living.is_some() && self.registration.known != Known::No
    }

    /// A `set_config` or `get_access_token` got no reply. That it alone does not work holds nobody up; whether anything answers
    /// is found out.
    pub(super) fn own_lost(&mut self, path: &'static str, error: &TransportError) -> Option<Instant> {
        let nothing = self.silence.lost(path, error);
        if Loss::of(error) == Loss::Unsent || (nothing && !self.may_probe()) {
            return Some(self.offline(error, false));
        }
        self.check |= self.hold.is_none() && self.may_probe();
        None
    }

    /// Nothing answers; when to try again.
    pub(super) fn offline(&mut self, error: &TransportError, by_probe: bool) -> Instant {
        self.losses = self.losses.saturating_add(1);
        let now = Instant::now();
        let wait = self.config.timing.link.jittered(self.losses).max(error.retry_after().unwrap_or_default());
        self.hold(Why::Offline, error.cause().to_owned(), now + wait);
        let harmless = match Loss::of(error) {
            Loss::Unsent => return now + wait,
            Loss::Unreadable => HARMLESS_UNREADABLE,
            Loss::InFront | Loss::Silent => HARMLESS,
        };
        if let Some(hold) = self.hold.as_mut() {
            hold.one_at = (by_probe && self.losses > harmless).then_some(now);
        }
        now + wait
    }

    pub(super) fn conflict(&mut self, code: ResultCode) -> Instant {
        let failures = self.conflicts.next(self.session.shared.served());
        let until = Instant::now() + self.config.timing.conflict.jittered(failures);
        let cause = match code.value() {
            1006 => explanations::callback(code, &self.config.callback_url, explanations::SAID_TO_A_CALL),
            _ => explanations::conflict(code, &self.config.account.uid),
        };
        self.hold(Why::Conflict, cause, until);
        until
    }

    pub(super) fn misconfigured(&mut self, code: ResultCode) -> Instant {
        let failures = self.misconfigured.next(self.session.shared.served());
        let until = Instant::now() + self.config.timing.config.jittered(failures);
        let cause = explanations::config(code, &self.config.account.uid, &self.config.callback_url);
        self.hold(Why::Config, cause, until);
        until
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
    pub(super) fn closed(&self) -> Option<String> {
        if self.unregistered {
            return Some(explanations::unregistered());
        }
        self.hold.as_ref().map(|hold| hold.cause.clone()).or_else(|| self.impossible())
    }

    /// What calls lack.
    fn impossible(&self) -> Option<String> {
        let registration = || self.registration.trouble.clone();
        match self.registration.known {
            Known::No => return Some(registration().unwrap_or_else(explanations::registering)),
            Known::Unknown if self.registration.trouble.is_none() => return Some(explanations::starting()),
            Known::Unknown | Known::Yes => {}
        }
        if self.token.living.is_some() {
            return None;
        }
        Some(self.token.trouble.clone().or_else(registration).unwrap_or_else(explanations::no_token))
    }

    /// The door for all calls.
    fn door(&self) -> Setting {
        let closed = |cause: String| Setting::Closed { cause: cause.into() };
        if self.unregistered {
            return closed(explanations::unregistered());
        }
        let Some(hold) = &self.hold else { return self.impossible().map_or(Setting::Open, closed) };
        let one = hold.doubt.is_some() || hold.one_at.is_some_and(|at| at <= Instant::now());
        match self.impossible() {
            None if one => Setting::One { turn: hold.turn, cause: hold.cause.as_str().into() },
            _ => closed(hold.cause.clone()),
        }
    }

    /// The state to publish; none while something is under way whose end decides it.
    fn state(&self, closed: Option<&str>) -> Option<(CloudState, String)> {
        if self.unregistered {
            return Some((CloudState::Unregistered, explanations::unregistered()));
        }
        if let Some(hold) = &self.hold {
            return Some((hold.state()?, hold.cause.clone()));
        }
        if let Some(cause) = self.silence.unbroken() {
            let being_found_out = self.check && self.may_probe();
            return (!being_found_out).then(|| (CloudState::Offline, cause.to_owned()));
        }
        let (registration, token) = (&self.registration, &self.token);
        let severe = |grade: Grade, trouble: &Option<String>| grade == Grade::Severe && trouble.is_some();
        let no_token = severe(token.grade, &token.trouble);
        let severe = severe(registration.grade, &registration.trouble) || no_token;
        let bad = if severe { CloudState::AuthError } else { CloudState::Degraded };
        let mut causes: Vec<String> = registration.trouble.iter().cloned().collect();
        if causes.is_empty() && (closed.is_some() || no_token) {
            causes.extend(token.trouble.clone());
        }
        let closed_alone = self.standings.closed();
        causes.extend(closed_alone.iter().map(|closed| explanations::endpoint(closed.endpoint.path(), &closed.cause)));
        match (closed, causes.is_empty()) {
            (None, true) => Some((CloudState::Online, token.trouble.clone().unwrap_or_default())),
            (Some(_), true) => None,
            (_, false) => Some((bad, causes.join("; "))),
        }
    }

    pub(super) fn publish(&mut self) {
        let closed = self.closed();
        let living = self.token.living.as_ref();
        let state = self.state(closed.as_deref());
        // 1007 twice: until another call tells otherwise, or it has been made again.
        let denied = self.hold.as_ref().and_then(|hold| hold.code).is_some_and(|code| code.value() == 1007);
        let registered = self.registration.known == Known::Yes && !self.unregistered && !denied;
        let token_dies = living.map(|living| living.dies_at);
        let token_life = living.map(|living| living.life).unwrap_or_default();
        let closed_alone = self.standings.closed();
        self.status.send_if_modified(|status| {
            let before = status.clone();
            if let Some((state, cause)) = state {
                if status.state != state {
                    status.since = SystemTime::now();
                    log(state, &cause);
                } else if status.cause == explanations::starting() || !explanations::same(&status.cause, &cause) {
                    log(state, &cause);
                } else if status.cause != cause {
                    tracing::debug!(state = state.as_str(), "iLink: still {}: {cause}", state.as_str());
                }
                (status.state, status.cause) = (state, cause);
            }
            status.closed = closed_alone;
            (status.registered, status.token_dies, status.token_life) = (registered, token_dies, token_life);
            *status != before
        });
        let access = Access {
            grant: living.map(|living| living.grant.clone()),
            registration: self.registration.epoch,
            opening: self.opening,
        };
        self.access.send_if_modified(|seen| {
            let changed = seen.generation() != access.generation()
                || (seen.registration, seen.opening) != (access.registration, access.opening);
            *seen = access;
            changed
        });
        let shared = &self.session.shared;
        let watched = self.hold.is_some() || self.standings.any() || !self.silence.is_empty();
        shared.watched.store(watched, Ordering::Relaxed);
        shared.doors.set(self.door(), self.standings.settings());
    }
}

/// One line for each change of state.
fn log(state: CloudState, cause: &str) {
    let name = state.as_str();
    match (state, cause) {
        (CloudState::AuthError, cause) => tracing::error!(state = name, "iLink: {name}: {cause}"),
        (CloudState::Degraded | CloudState::Offline, cause) => tracing::warn!(state = name, "iLink: {name}: {cause}"),
        (_, "") => tracing::info!(state = name, "iLink: {name}"),
        (_, cause) => tracing::info!(state = name, "iLink: {name}: {cause}"),
    }
}
