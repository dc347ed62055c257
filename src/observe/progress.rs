//! Whether a loop is stuck: for the watchdog and `/healthz`.
//!
//! A loop that waits for work, for the broker or for iLink rests, however long: a peer that cannot be reached does not
//! make the bridge unhealthy. A loop that works on one thing for half a minute is stuck, unless it is excused. It is
//! excused while it waits for a spool that rebuilds a large damaged database or that cannot be read for a while:
//! killing the process would only start that over. Time for which the machine was suspended does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::os::clock;

/// One thing takes longer than this only if something is wrong with this process or its disk.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// One loop's heartbeat; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Milliseconds of [`clock::awake_now`] since which the loop is at its present work; 0 while it rests.
    working_since_ms: Arc<AtomicU64>,
    excused: Arc<AtomicBool>,
}

impl Progress {
    /// Of a loop that is not stuck while `excused` is set.
    #[must_use]
    pub fn unless(excused: Arc<AtomicBool>) -> Self {
        Self { working_since_ms: Arc::default(), excused }
    }

    /// The loop begins a piece of work.
    pub fn beat(&self) {
        self.working_since_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// The loop waits for somebody else.
    pub fn rest(&self) {
        self.working_since_ms.store(0, Ordering::Relaxed);
    }

    /// Has the loop been at one piece of work for too long?
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let since = self.working_since_ms.load(Ordering::Relaxed);
        let excused = self.excused.load(Ordering::Relaxed);
        since != 0 && !excused && Duration::from_millis(now_ms().saturating_sub(since)) > STUCK_AFTER
    }

    /// The loop has been at one piece of work since the machine booted.
    #[cfg(test)]
    pub(crate) fn pretend_stuck(&self) {
        self.working_since_ms.store(1, Ordering::Relaxed);
    }
}

/// The names of the loops that are stuck.
#[must_use]
pub fn stuck(loops: &[(&'static str, Progress)]) -> Vec<&'static str> {
    loops.iter().filter(|(_, progress)| progress.is_stuck()).map(|(name, _)| *name).collect()
}

fn now_ms() -> u64 {
    clock::millis(clock::awake_now()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resting_is_healthy_and_long_work_is_not() {
        let progress = Progress::default();
        assert!(!progress.is_stuck());
        progress.beat();
        assert!(!progress.is_stuck());
        progress.pretend_stuck();
        assert!(progress.is_stuck() || clock::awake_now() < STUCK_AFTER);
        let loops = [("relay", Progress::default()), ("deliver", progress.clone())];
        assert!(stuck(&loops) == ["deliver"] || clock::awake_now() < STUCK_AFTER);
        progress.rest();
        assert!(!progress.is_stuck());
    }

    #[test]
    fn long_work_that_is_excused_is_healthy() {
        let excused = Arc::new(AtomicBool::new(true));
        let progress = Progress::unless(Arc::clone(&excused));
        progress.pretend_stuck();
        assert!(!progress.is_stuck());
        excused.store(false, Ordering::Relaxed);
        assert!(progress.is_stuck() || clock::awake_now() < STUCK_AFTER);
    }
}
