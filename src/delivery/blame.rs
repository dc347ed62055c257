//! When a message is to blame for its own failures: only by comparison with others.
//!
//! A broker that is busy refuses everybody, and one that dies at each message dies at the innocent too. So a failure says
//! something about a message only if it was sent alone, and if others were acknowledged since it failed before.

use std::time::Duration;

/// Failures in comparison with others, at least, before a message is blamed: a broker that goes and comes may meet the same
/// message a few times by chance.
const COMPARISONS: u32 = 5;

/// What is held against one message. Pure: the caller brings the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// When it first failed alone.
    since: Duration,
    /// How many of others had been acknowledged when it last did.
    others: u64,
    /// How often it failed alone after others had been acknowledged since it had before.
    comparisons: u32,
}

impl Blame {
    /// It failed alone at `now`, for the first time; `others` were acknowledged so far.
    #[must_use]
    pub fn first(now: Duration, others: u64) -> Self {
        Self { since: now, others, comparisons: 0 }
    }

    /// It failed alone once more.
    pub fn again(&mut self, others: u64) {
        self.comparisons += u32::from(others > self.others);
        self.others = others;
    }

    /// Is it to blame, having failed each time since the first, over at least `long`?
    #[must_use]
    pub fn is_proven(&self, now: Duration, long: Duration) -> bool {
        self.comparisons >= COMPARISONS && now.saturating_sub(self.since) >= long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    /// Fails alone once a minute; `acknowledged` says what others got between the failures.
    fn minutes(acknowledged: impl IntoIterator<Item = u64>) -> (Blame, Duration) {
        let (mut now, mut others) = (Duration::from_hours(1), 7);
        let mut blame = Blame::first(now, others);
        for more in acknowledged {
            now += Duration::from_mins(1);
            others += more;
            blame.again(others);
        }
        (blame, now)
    }

    #[test]
    fn who_fails_while_others_do_not_is_to_blame_after_ten_minutes() {
        let (blame, now) = minutes([1; 9]);
        assert!(!blame.is_proven(now, LONG));
        let (blame, now) = minutes([1; 10]);
        assert!(blame.is_proven(now, LONG));
    }

    #[test]
    fn a_broker_that_takes_nothing_blames_nobody_however_long() {
        let (blame, now) = minutes(std::iter::repeat_n(0, 10_000));
        assert!(!blame.is_proven(now, LONG));
    }

    #[test]
    fn a_moment_in_which_others_were_taken_proves_nothing() {
        let once = (0..100).map(|n| if n == 50 { 10_000 } else { 0 });
        let (blame, now) = minutes(once);
        assert!(!blame.is_proven(now, LONG));
    }

    #[test]
    fn rare_comparisons_count_too() {
        let (blame, now) = minutes((0..60).map(|n| u64::from(n % 10 == 0)));
        assert!(blame.is_proven(now, LONG));
    }

    #[test]
    fn many_failures_at_once_prove_nothing() {
        let mut blame = Blame::first(Duration::from_secs(1), 0);
        for others in 1..1000 {
            blame.again(others);
        }
        assert!(!blame.is_proven(Duration::from_mins(10), LONG));
    }
}
