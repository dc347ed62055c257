//! Clocks for tests that play a day within a second: both follow tokio's paused clock, on the threads that have
//! entered.

use std::cell::RefCell;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{Run, millis};

/// The wall clock at the beginning.
const WALL_MS: u64 = 1_767_225_600_000;
/// The time since boot at the beginning of a run on a machine that was just booted.
const BOOTED: Duration = Duration::from_mins(1);

thread_local! {
    static HERE: RefCell<Option<Clocks>> = const { RefCell::new(None) };
}

/// The clocks of one simulated world.
#[derive(Clone, Default)]
pub(crate) struct Clocks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    began: OnceLock<Instant>,
    /// The present run of the process, and how long the world had existed when the machine was booted.
    run: Mutex<(Run, Duration)>,
    /// Whether there are others, and how far the wall clock was set ahead since the beginning.
    set: Mutex<(bool, Duration)>,
}

/// Leaves them when it is dropped.
pub(crate) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl Clocks {
    /// This thread goes by them from now on. On the runtime's other threads: from `on_thread_start`.
    pub(crate) fn enter(&self) -> Entered {
        HERE.set(Some(self.clone()));
        Entered
    }

    /// Another run of the process begins, perhaps on a machine that was booted again.
    pub(crate) fn start_anew(&self, booted: bool) {
        let now = self.elapsed();
        let mut run = self.0.run.lock().unwrap();
        let booted = if booted { now } else { run.1 };
        *run = (
            Run { mark: run.0.mark + 1, wall_ms: WALL_MS + millis(now), boot: BOOTED + now.saturating_sub(booted) },
            booted,
        );
    }

    /// There are other members, or there are none; and somebody sets the wall clock, so far ahead of where it began.
    pub(crate) fn set(&self, among_others: bool, ahead: Duration) {
        *self.0.set.lock().unwrap() = (among_others, ahead);
    }

    fn elapsed(&self) -> Duration {
        self.0.began.get_or_init(Instant::now).elapsed()
    }
}

fn here<T>(look: impl FnOnce(&Clocks) -> T) -> Option<T> {
    HERE.with_borrow(|clocks| clocks.as_ref().map(look))
}

pub(super) fn boot_now() -> Option<Duration> {
    here(|clocks| BOOTED + clocks.elapsed().saturating_sub(clocks.0.run.lock().unwrap().1))
}

pub(super) fn wall_now_ms() -> Option<u64> {
    here(|clocks| WALL_MS + millis(clocks.elapsed() + clocks.0.set.lock().unwrap().1))
}

pub(super) fn among_others() -> Option<bool> {
    here(|clocks| clocks.0.set.lock().unwrap().0)
}

pub(super) fn run() -> Option<Run> {
    here(|clocks| clocks.0.run.lock().unwrap().0)
}

/// Until it is dropped, tokio does not move its paused clock on.
pub(crate) struct Standstill {
    _going_on: mpsc::Sender<()>,
}

/// For what waits for a thread of which tokio does not know: it takes no time on a simulated clock.
pub(crate) fn standstill() -> Option<Standstill> {
    here(|_| {
        let (going_on, gone_on) = mpsc::channel();
        // While blocking work is under way, the clock stands still.
        tokio::task::spawn_blocking(move || gone_on.recv());
        Standstill { _going_on: going_on }
    })
}
