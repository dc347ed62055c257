//! What keeps all calls waiting: when it begins, how long it lasts, what ends it.

use tokio::time::Instant;

use super::explanations;
use super::standing::Loss;
use super::state::{Grade, Hold, Known, Want, Why};
use super::task::Task;
use super::types::RegisterPolicy;
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
}
