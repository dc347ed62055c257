//! What the task tells: to callers whether they may call, to everybody how things stand.

use std::time::SystemTime;

use super::asks::{Access, Renewal};
use super::doors::{Endpoint, Setting};
use super::task::Task;
use super::tracks::Known;
use super::types::CloudState;
use super::words;

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
            return Some(words::unregistered());
        }
        if let Some(hold) = &self.hold {
            return Some(hold.cause.clone());
        }
        let registration = || self.registration.trouble.clone();
        match self.registration.known {
            Known::No => return Some(registration().unwrap_or_else(words::registering)),
            Known::Unknown if self.registration.trouble.is_none() => return Some(words::starting()),
            Known::Unknown | Known::Yes => {}
        }
        if self.token.living.is_some() {
            return None;
        }
        Some(self.token.trouble.clone().or_else(registration).unwrap_or_else(words::no_token))
    }

    /// The state to publish; none while something is under way whose end decides it.
    fn state(&self, closed: Option<&str>) -> Option<(CloudState, String)> {
        if self.unregistered {
            return Some((CloudState::Unregistered, words::unregistered()));
        }
        if let Some(hold) = &self.hold {
            return Some((hold.state()?, hold.cause.clone()));
        }
        if let Some(cause) = &self.registration.trouble {
            return Some((CloudState::Degraded, cause.clone()));
        }
        match (closed, &self.token.trouble) {
            (None, note) => Some((CloudState::Online, note.clone().unwrap_or_default())),
            (Some(_), Some(cause)) => Some((CloudState::Degraded, cause.clone())),
            (Some(_), None) => None,
        }
    }

    pub(super) fn publish(&mut self) {
        let closed = self.closed();
        let living = self.token.living.as_ref();
        let state = self.state(closed.as_deref());
        let registered = self.registration.known == Known::Yes && !self.unregistered;
        let token_dies = living.map(|living| living.dies_at);
        let token_life = living.map(|living| living.life).unwrap_or_default();
        self.status.send_if_modified(|status| {
            let before = status.clone();
            if let Some((state, cause)) = state {
                if status.state != state {
                    status.since = SystemTime::now();
                    log(state, &cause);
                } else if status.cause == words::starting() || !words::same(&status.cause, &cause) {
                    log(state, &cause);
                } else if status.cause != cause {
                    tracing::debug!(state = state.as_str(), "iLink: still {}: {cause}", state.as_str());
                }
                (status.state, status.cause) = (state, cause);
            }
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
        let all = closed.map_or(Setting::Open, |cause| Setting::Closed { cause: cause.into() });
        self.session.shared.doors.set(all, Endpoint::ALL.map(|_| Setting::Open));
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
