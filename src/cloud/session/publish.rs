//! What the task tells: to callers whether they may call, to everybody how things stand.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use super::doors::Setting;
use super::explanations;
use super::messages::{Access, Renewal};
use super::state::{Grade, Known};
use super::task::Task;
use super::types::CloudState;

impl Task {
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
