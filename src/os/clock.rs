//! The two clocks that measure how long a message has waited.
//!
//! Within one run of the process it is the boot-time clock, which counts suspended time and which nobody can set.
//! Across restarts only the wall clock is left. If it went backwards, that counts as no time at all. Between the members of a
//! cluster, too, only the wall clock is left, as it is set now: it may have been wrong at the start.

#[cfg(test)]
pub(crate) mod simulated;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// This run's fixed point: an unguessable mark of the run, and both clocks read at its start.
#[derive(Clone, Copy, Default)]
struct Run {
    mark: u64,
    wall_ms: u64,
    boot: Duration,
}

fn run() -> Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    #[cfg(test)]
    if let Some(run) = simulated::run() {
        return run;
    }
    *RUN.get_or_init(|| Run {
        mark: getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())),
        wall_ms: wall_now_ms(),
        boot: boot_now(),
    })
}

/// Whether other processes, whose moments are read here, run at the same time.
static AMONG_OTHERS: AtomicBool = AtomicBool::new(false);

/// This process is a member of a cluster: a moment after its start that is not its own is not one of a wall clock that went back,
/// but another member's.
pub fn run_among_others() {
    AMONG_OTHERS.store(true, Ordering::Relaxed);
}

fn among_others() -> bool {
    #[cfg(test)]
    if let Some(among_others) = simulated::among_others() {
        return among_others;
    }
    AMONG_OTHERS.load(Ordering::Relaxed)
}

/// Time since boot, suspended time included.
#[must_use]
pub fn boot_now() -> Duration {
    #[cfg(test)]
    if let Some(now) = simulated::boot_now() {
        return now;
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Time since boot without suspended time: it measures how long a piece of work has taken.
#[must_use]
pub fn awake_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The longest sleep of who waits for a moment of the boot-time clock.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long to sleep before looking again whether the boot-time clock, which says `now`, has reached `at`. Timers stand still
/// while the machine is suspended, which that clock counts: what is due by then is seen soon after, not as much later again.
#[must_use]
pub fn nap(at: Duration, now: Duration) -> Duration {
    at.saturating_sub(now).min(LOOK_AGAIN)
}

/// Milliseconds since the Unix epoch by the wall clock.
#[must_use]
pub fn wall_now_ms() -> u64 {
    #[cfg(test)]
    if let Some(now) = simulated::wall_now_ms() {
        return now;
    }
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// `ms` since the Unix epoch as RFC 3339 in UTC with milliseconds; beyond the year 9999, which it cannot say, its last moment.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(LAST))).to_string()
}

/// The moment something was accepted, readable again by a later run of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    run: u64,
    boot_ms: u64,
    wall_ms: u64,
}

impl Stamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let run = run();
        Self { run: run.mark, boot_ms: millis(boot_now()), wall_ms: wall_now_ms() }
    }

    /// How long ago this was: by the boot-time clock for a moment of this run; for an earlier run's, by the wall clock up to
    /// the start of this run and by the boot-time clock since. Among others, for everybody else's by the wall clock alone: a
    /// machine without a clock of its own may have started with a wrong one, and set it since. Never below zero.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age_at(boot_now())
    }

    /// The boot-time instant at which this will be (or was) `age` old; zero if that was before the boot. From then on
    /// [`Self::age`] is at least `age`, unless it goes by the wall clock alone and that was set meanwhile.
    #[must_use]
    pub fn plus(&self, age: Duration) -> Duration {
        let now = boot_now();
        now.saturating_add(age).saturating_sub(self.age_at(now))
    }

    fn age_at(&self, boot: Duration) -> Duration {
        let run = run();
        if self.run == run.mark {
            return boot.saturating_sub(Duration::from_millis(self.boot_ms));
        }
        if among_others() {
            return Duration::from_millis(wall_now_ms().saturating_sub(self.wall_ms));
        }
        Duration::from_millis(run.wall_ms.saturating_sub(self.wall_ms)) + boot.saturating_sub(run.boot)
    }

    /// Milliseconds since the Unix epoch by the wall clock of that moment.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.wall_ms
    }
}

/// In whole milliseconds.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_looked_for_soon_after_a_suspend() {
        let hour = Duration::from_hours(1);
        assert_eq!(nap(hour, Duration::ZERO), LOOK_AGAIN);
        assert_eq!(nap(hour + LOOK_AGAIN / 7, hour), LOOK_AGAIN / 7);
        assert_eq!(nap(hour, 2 * hour), Duration::ZERO);
    }

    #[test]
    fn no_time_awake_is_longer_than_the_time_since_the_boot() {
        let (awake, boot) = (awake_now(), boot_now());
        assert!(awake <= boot && awake_now() >= awake);
    }

    #[test]
    fn a_moment_of_this_run_is_measured_by_the_boot_clock_whatever_the_wall_clock_says() {
        let stamp = Stamp { wall_ms: 0, ..Stamp::now() };
        assert!(stamp.age() < Duration::from_mins(1));
    }

    #[test]
    fn an_earlier_runs_moment_is_measured_by_the_wall_clock() {
        let now = Stamp::now();
        let stamp = Stamp { run: now.run ^ 1, boot_ms: u64::MAX, wall_ms: now.wall_ms - 90_000 };
        assert!(stamp.age() >= Duration::from_secs(89) && stamp.age() < Duration::from_secs(150));
    }

    #[test]
    fn a_wall_clock_that_went_back_counts_as_no_time() {
        let now = Stamp::now();
        let stamp = Stamp { run: now.run ^ 1, boot_ms: 0, wall_ms: now.wall_ms + 3_600_000 };
        assert!(stamp.age() < Duration::from_mins(1));
    }

    #[tokio::test(start_paused = true)]
    async fn another_members_moment_is_measured_by_the_wall_clock_as_it_is_set_now() {
        let clocks = simulated::Clocks::default();
        let _entered = clocks.enter();
        clocks.start_anew(false);
        // This machine has started with a clock that is an hour behind the others'.
        let stamp = Stamp { run: u64::MAX, boot_ms: 0, wall_ms: wall_now_ms() + 3_600_000 };
        tokio::time::advance(Duration::from_secs(30)).await;
        for (among_others, ahead_s, age_s) in [(true, 0, 0), (true, 3600, 30), (true, 3500, 0), (false, 3600, 30)] {
            clocks.set(among_others, Duration::from_secs(ahead_s));
            assert_eq!(stamp.age(), Duration::from_secs(age_s), "{among_others} {ahead_s}");
        }
        clocks.set(true, Duration::from_hours(1));
        let due = stamp.plus(Duration::from_mins(1));
        assert_eq!(due, boot_now() + Duration::from_secs(30));
        assert_eq!(Stamp { wall_ms: 0, ..Stamp::now() }.age(), Duration::ZERO, "its own go by the boot-time clock");
    }

    #[test]
    fn deadlines_lie_ahead_by_what_is_left() {
        let left = Stamp::now().plus(Duration::from_secs(10)).saturating_sub(boot_now());
        assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(10), "{left:?}");
    }

    #[test]
    fn a_deadline_is_never_earlier_than_the_age_it_stands_for() {
        let now = Stamp::now();
        for stamp in [now, Stamp { run: now.run ^ 1, wall_ms: now.wall_ms - 500, ..now }] {
            for _ in 0..1000 {
                let age = Duration::from_secs(1);
                assert!(stamp.age_at(stamp.plus(age)) >= age);
            }
        }
    }

    #[test]
    fn a_damaged_rows_absurd_times_are_cut_off() {
        assert!(Stamp::now().plus(Duration::MAX) > Duration::from_secs(u64::MAX / 2));
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(1_767_225_600_001), "2026-01-01T00:00:00.001Z");
    }
}
