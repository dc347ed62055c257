//! Which endpoint is asked, and how long it is waited for until another one is asked besides.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::os::clock::{awake_now, millis};

/// An endpoint that failed or was silent is asked last for so long.
const LAST_FOR: Duration = Duration::from_secs(10);
/// How long an endpoint may be silent, at least, until another one is asked besides.
const PATIENCE: Duration = Duration::from_millis(300);
/// The same as a multiple of what answers usually take: where etcd is slow, asking twice would make it slower.
const PATIENCE_TIMES: u32 = 4;
/// Of the usual time, each answer makes one part in so many.
const REMEMBERED: u64 = 8;

/// What is known of the endpoints, by their index.
#[derive(Debug)]
pub(super) struct Choice {
    /// The one that answered last, unless it was left since.
    current: AtomicUsize,
    /// Until when each is asked last, in milliseconds.
    last_until: Vec<AtomicU64>,
    /// What answers usually take, in microseconds.
    usual: AtomicU64,
}

impl Choice {
    pub(super) fn among(endpoints: usize) -> Self {
        let last_until = (0..endpoints).map(|_| AtomicU64::new(0)).collect();
        Self { current: AtomicUsize::new(0), last_until, usual: AtomicU64::new(0) }
    }

    /// All of them, in the order in which they are to be asked.
    pub(super) fn order(&self) -> Vec<usize> {
        let (count, current) = (self.last_until.len(), self.current.load(Ordering::Relaxed));
        let mut order: Vec<_> = (0..count).map(|n| (current + n) % count).collect();
        let now = millis(awake_now());
        order.sort_by_key(|endpoint| self.until(*endpoint) > now);
        order
    }

    /// The first of them.
    pub(super) fn current(&self) -> usize {
        self.order().first().copied().unwrap_or(0)
    }

    /// This endpoint is no good at present: it is asked last for a while.
    pub(super) fn leave(&self, endpoint: usize) {
        if let Some(until) = self.last_until.get(endpoint) {
            until.store(millis(awake_now() + LAST_FOR), Ordering::Relaxed);
        }
        let next = self.current();
        let _ = self.current.compare_exchange(endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// This endpoint answered, after so long. Whoever was asked before it, in this order, did not.
    pub(super) fn answered(&self, endpoint: usize, order: &[usize], took: Duration) {
        for silent in order.iter().take_while(|before| **before != endpoint) {
            self.leave(*silent);
        }
        self.current.store(endpoint, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = (usual / REMEMBERED).saturating_mul(REMEMBERED - 1).saturating_add(took / REMEMBERED);
        self.usual.store(usual, Ordering::Relaxed);
    }

    /// How long an endpoint is waited for until another one is asked besides.
    pub(super) fn patience(&self) -> Duration {
        PATIENCE.max(Duration::from_micros(self.usual.load(Ordering::Relaxed)) * PATIENCE_TIMES)
    }

    fn until(&self, endpoint: usize) -> u64 {
        self.last_until.get(endpoint).map_or(0, |until| until.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_asked_first_and_who_was_silent_last() {
        let choice = Choice::among(3);
        assert_eq!(choice.order(), [0, 1, 2]);
        choice.answered(1, &[0, 1, 2], Duration::from_millis(5));
        assert_eq!(choice.order(), [1, 2, 0]);
        // One that was not asked at all keeps its place.
        choice.leave(1);
        assert_eq!((choice.current(), choice.order()), (2, vec![2, 0, 1]));
        choice.leave(2);
        assert_eq!(choice.order().len(), 3, "somebody is asked all the same");
        choice.answered(0, &[0, 1, 2], Duration::from_millis(5));
        choice.last_until[2].store(0, Ordering::Relaxed);
        assert_eq!(choice.order()[0], 2, "until it answers again, or its time is over");
    }

    #[test]
    fn a_slow_etcd_is_waited_for_longer() {
        let choice = Choice::among(2);
        assert_eq!(choice.patience(), PATIENCE);
        for _ in 0..100 {
            choice.answered(0, &[0, 1], Duration::from_secs(1));
        }
        assert!(choice.patience() > Duration::from_secs(3), "{:?}", choice.patience());
    }
}
