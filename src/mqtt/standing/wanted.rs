//! The message that the broker should hold at one topic, and how long to wait after it was refused.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::local::Publication;

/// The longest wait after refusals that each ended a connection.
pub(super) const LONGEST: Duration = Duration::from_hours(1);

/// How long the broker is assumed to hold a message that it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Lasts {
    /// Until the connection ends: then the last will or another bridge may replace it.
    Connection,
    /// Until the broker begins a new session: then it may have lost its retained messages, too.
    Session,
}

/// The outcome of a publish of retained state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Outcome {
    /// The broker has it.
    Acked,
    /// The broker may take it another time.
    ForNow,
    /// The broker will not take it until somebody corrects something.
    ForGood,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) version: u64,
    pub(super) publication: Publication,
    pub(super) lasts: Lasts,
    /// Whether the broker has it.
    pub(super) held: bool,
    pub(super) not_before: Option<Instant>,
    pub(super) refusal: Option<Outcome>,
    /// How many times in a row it was refused for now; or how many connections ended because it was refused for good.
    pub(super) times: u32,
    /// How many connections were lost quickly while it was in flight.
    pub(super) losses: u32,
    /// Told once the topic is cleared; dropped when the message is replaced.
    pub(super) cleared: Option<oneshot::Sender<bool>>,
}

impl Wanted {
    /// Sets the wait after one more refusal for now.
    pub(super) fn wait_for_now(&mut self, soon: Duration, longest: Duration, now: Instant) {
        if self.refusal != Some(Outcome::ForNow) {
            (self.refusal, self.times) = (Some(Outcome::ForNow), 0);
        }
        self.not_before = Some(now + soon.saturating_mul(2_u32.saturating_pow(self.times)).min(longest));
        self.times = self.times.saturating_add(1);
    }

    /// The wait after a refusal for good.
    pub(super) fn slowly(&self, every: Duration) -> Duration {
        every.saturating_mul(2_u32.saturating_pow(self.times)).min(LONGEST.max(every))
    }
}
