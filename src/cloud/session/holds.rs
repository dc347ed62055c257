//! What keeps all calls waiting: when it begins, how long it lasts, what ends it.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::task::Task;
use super::tracks::{Hold, Known, Why};
use super::types::RegisterPolicy;
use super::words;
use crate::cloud::TransportError;
use crate::protocol::ResultCode;

impl Task {
    /// The way is open again.
    pub(super) fn release(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.opening += 1;
            self.losses = 0;
            if hold.why != Why::Checking {
                self.upkeep.read_presence();
            }
        }
    }

    pub(super) fn not_registered_by_others(&mut self, code: ResultCode) -> Instant {
        let until = self.conflict(code);
        self.registration.known = Known::No;
        self.hold = Some(Hold { why: Why::Unregistered, cause: words::not_registered_by_us(code), until });
        until
    }

    /// iLink has answered; `well` if it did what was asked.
    pub(super) fn answered(&mut self, well: bool) {
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

    pub(super) fn offline(&mut self, cause: String) -> Instant {
        self.losses = self.losses.saturating_add(1);
        let until = Instant::now() + self.config.timing.link.jittered(self.losses);
        self.hold = Some(Hold { why: Why::Offline, cause, until });
        until
    }

    pub(super) fn conflict(&mut self, code: ResultCode) -> Instant {
        let failures = self.conflicts.next(self.session.shared.served.load(Ordering::Relaxed));
        let until = Instant::now() + self.config.timing.conflict.jittered(failures);
        let cause = words::conflict(code, &self.config.account.uid);
        self.hold = Some(Hold { why: Why::Conflict, cause, until });
        until
    }

    pub(super) fn misconfigured(&mut self, code: ResultCode) -> Instant {
        let failures = self.misconfigured.next(self.session.shared.served.load(Ordering::Relaxed));
        let until = Instant::now() + self.config.timing.config.jittered(failures);
        let cause = words::config(code, &self.config.account.uid, &self.config.callback_url);
        self.hold = Some(Hold { why: Why::Config, cause, until });
        until
    }
}
