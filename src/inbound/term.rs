//! Until when a push may be stored: in time for the last of its tries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::os::clock::millis;

/// iLink waits for 5 s, and then tries elsewhere: what is not stored a little before that must not be stored for this try any
/// more.
const IN_TIME: Duration = Duration::from_millis(4500);

/// In milliseconds of the boot-time clock.
pub(super) struct Term(AtomicU64);

impl Term {
    /// For a try that waits since then.
    pub(super) fn of(since: Duration) -> Self {
        Self(AtomicU64::new(end(since)))
    }

    /// There is another try, which waits since then.
    pub(super) fn extend(&self, since: Duration) {
        self.0.fetch_max(end(since), Ordering::Relaxed);
    }

    /// Until when, by the boot-time clock.
    pub(super) fn end(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn end(since: Duration) -> u64 {
    millis(since + IN_TIME)
}
