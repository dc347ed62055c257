//! Which messages of a run have arrived, and how long they took.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::{Head, now};

/// What arrived of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Numbers that arrived at least once.
    pub(crate) distinct: u64,
    /// Copies beyond the first.
    pub(crate) copies: u64,
    /// Answered and not arrived.
    pub(crate) missing: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// p50, p99 and p99.9 from sending to arrival, in µs.
    pub(crate) latency_us: [f64; 3],
}

#[derive(Default)]
struct Run {
    number: u32,
    seen: Vec<u64>,
    arrived: Arrived,
    latencies_us: Vec<u32>,
}

/// Shared between the thread that hears and the one that is asked.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Run>>);

impl Recorder {
    /// Notes an arrival.
    pub(crate) fn note(&self, head: Head) {
        let at = now();
        let mut run = self.lock();
        if head.run != run.number {
            return;
        }
        let (word, bit) = ((head.number / 64) as usize, 1 << (head.number % 64));
        if run.seen.len() <= word {
            run.seen.resize(word + 1, 0);
        }
        if run.seen[word] & bit != 0 {
            run.arrived.copies += 1;
            return;
        }
        run.seen[word] |= bit;
        run.arrived.distinct += 1;
        if run.arrived.first_ns == 0 {
            run.arrived.first_ns = at;
        }
        run.arrived.last_ns = at;
        run.latencies_us.push(u32::try_from(at.saturating_sub(head.sent_ns) / 1000).unwrap_or(u32::MAX));
    }

    /// Begins another run and forgets the one before.
    pub(crate) fn begin(&self, number: u32) {
        *self.lock() = Run { number, ..Run::default() };
    }

    /// Waits until numbers 0 to `total` have arrived, but those `unanswered`, or until nothing more comes for `patience`.
    pub(crate) fn wait(&self, total: u64, unanswered: &[u64], patience: Duration) -> Arrived {
        let wanted = total.saturating_sub(unanswered.len() as u64);
        let mut before = None;
        loop {
            let mut run = self.lock();
            let distinct = run.arrived.distinct;
            // Counting the missing walks all of them; as long as too few arrived it need not be done.
            let missing = if distinct >= wanted || before == Some(distinct) {
                Some(missing(&run, total, unanswered))
            } else {
                None
            };
            if let Some(missing) = missing.filter(|missing| *missing == 0 || before == Some(distinct)) {
                let latency_us = percentiles(&mut run.latencies_us);
                let Arrived { copies, first_ns, last_ns, .. } = run.arrived;
                return Arrived { distinct, copies, missing, first_ns, last_ns, latency_us };
            }
            before = Some(distinct);
            drop(run);
            self.until(wanted.max(distinct + 1), patience);
        }
    }

    /// Waits until so many have arrived, or the time is over.
    fn until(&self, wanted: u64, patience: Duration) {
        let step = Duration::from_millis(5);
        let mut left = patience;
        while !left.is_zero() && self.lock().arrived.distinct < wanted {
            std::thread::sleep(step);
            left = left.saturating_sub(step);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.0.lock().unwrap()
    }
}

fn missing(run: &Run, total: u64, unanswered: &[u64]) -> u64 {
    let is_there = |n: u64| run.seen.get((n / 64) as usize).is_some_and(|word| word & (1 << (n % 64)) != 0);
    (0..total).filter(|n| !is_there(*n) && unanswered.binary_search(n).is_err()).count() as u64
}

/// p50, p99 and p99.9 of these; 0 of none.
pub(crate) fn percentiles(values: &mut [u32]) -> [f64; 3] {
    values.sort_unstable();
    let at = |per_mille: usize| {
        let index = (values.len() * per_mille).div_ceil(1000).saturating_sub(1);
        values.get(index).map_or(0.0, |value| f64::from(*value))
    };
    [at(500), at(990), at(999)]
}
