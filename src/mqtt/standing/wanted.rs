//! What should stand at one topic, and how long a refusal of it is respected.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::local::Publication;

/// The longest wait after refusals that each cost a connection.
pub(super) const LONGEST: Duration = Duration::from_hours(1);

/// For how long the broker is believed to have what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Lasts {
    /// Until the connection ends: the last will speaks then, or another bridge does.
    Connection,
    /// Until the broker begins another session: then it may have lost its retained messages too.
    Session,
}

/// What became of what the link sent from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum Outcome {
    /// The broker has it.
    Acked,
    /// It may be taken another time.
    ForNow,
    /// It will not be taken until somebody mends something.
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
    /// Refusals for now in a row; connections that refusals for good cost.
    pub(super) times: u32,
    /// Quick losses while it was in flight.
    pub(super) losses: u32,
    /// Who waits to hear that it was cleared; dropped when it is replaced.
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
