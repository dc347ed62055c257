//! Exponential back-off with jitter: a broker that comes back is not met by all its clients at once.

use std::time::Duration;

use super::config::Timing;

/// A series of waits.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self::between(timing.backoff_min, timing.backoff_max)
    }

    /// The first wait is at most `min`; none is longer than `max`.
    #[must_use]
    pub const fn between(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// Starts again with the shortest wait. A CONNACK alone is no reason: two clients with the same client id get one each
    /// time, and disconnect each other right after it.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure: a random time between half of the present step and the whole of it.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: it never ends")]
    pub fn next(&mut self) -> Duration {
        let step = self.min.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        // Without randomness, the whole step: never too early.
        let jitter = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        step / 2 + (step / 2).mul_f64(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_limit_and_starts_again() {
        let timing =
            Timing { backoff_min: Duration::from_secs(1), backoff_max: Duration::from_secs(5), ..Timing::default() };
        let mut backoff = Backoff::new(&timing);
        for step in [1, 2, 4, 5, 5, 5].map(Duration::from_secs) {
            let wait = backoff.next();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
        }
        backoff.failures = u32::MAX;
        assert!(backoff.next() <= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
