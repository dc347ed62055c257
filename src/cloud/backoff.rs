//! How long to wait before trying again: every wait of the session, with its documented default.

use std::time::Duration;

/// A growing wait: `first`, then twice as long each time, at most `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Backoff {
    /// A growing wait from `first` to `most`, in seconds.
    #[must_use]
    pub const fn seconds(first: u64, most: u64) -> Self {
        Self { first: Duration::from_secs(first), most: Duration::from_secs(most) }
    }

    /// The wait after `failures` failures in a row, counted from 1, without jitter.
    #[must_use]
    pub fn exact(&self, failures: u32) -> Duration {
        // Past 2^20 the longest wait is reached whatever the first one is.
        let factor = 1_u32 << failures.saturating_sub(1).min(20);
        self.first.saturating_mul(factor).min(self.most)
    }

    /// The wait after `failures` failures in a row, and up to a quarter more, so that many bridges which lost the service at
    /// the same moment do not come back at the same moment. Never shorter than [`exact`](Self::exact), because some waits are
    /// the service's minimum, and never longer than `most`; those who wait that long have drifted apart before.
    #[must_use]
    pub fn jittered(&self, failures: u32) -> Duration {
        let exact = self.exact(failures);
        let quarters = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        exact.saturating_add(exact.mul_f64(quarters / 4.0)).min(self.most)
    }
}

/// The waits of the session. The defaults are what `protocol` asks for; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The service cannot be reached or is in trouble (1016, 1017): 1 s to 60 s.
    pub link: Backoff,
    /// A conflict (1002, 1003), or a session that a renewal did not mend (1007, 1008, 1015): 30 s to 5 min.
    pub conflict: Backoff,
    /// The callback could not be verified (1006): 30 s to 10 min.
    pub callback: Backoff,
    /// The configuration is wrong (1000, 1001 for our uid, 1005): 2 min to 15 min.
    pub config: Backoff,
    /// `set_config` (1004) or `get_access_token` (1009) was called too often: 10 min to 2 h.
    pub quota: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            link: Backoff::seconds(1, 60),
            conflict: Backoff::seconds(30, 300),
            callback: Backoff::seconds(30, 600),
            config: Backoff::seconds(120, 900),
            quota: Backoff::seconds(600, 7200),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::seconds(1, 60);
        let waits: Vec<u64> = (0..9).map(|failures| backoff.exact(failures).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.exact(u32::MAX), Duration::from_mins(1));
    }

    #[test]
    fn jitter_only_lengthens_and_by_a_quarter_at_most() {
        let backoff = Backoff::seconds(30, 300);
        for failures in 1..50 {
            let (exact, jittered) = (backoff.exact(failures), backoff.jittered(failures));
            assert!(jittered >= exact && jittered <= exact.mul_f64(1.25).min(backoff.most), "{exact:?} {jittered:?}");
        }
    }
}
