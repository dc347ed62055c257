//! Limits how often `set_config` and `get_access_token` are called, whatever iLink answers.
//!
//! No sequence of answers, restarts or reloads gets around the limit, because each call is recorded on disk before it
//! is made. Two buckets are in series. The small one allows the quick repair of a single fault. The large one limits
//! the rate while trouble lasts. Together they slow the calls down: the first at once, then one every half minute or
//! minute, then one every few minutes, which is as long as the session waits in a conflict anyway.
//!
//! iLink answers 1004 and 1009 to whoever calls more often, and then refuses for ten minutes. A day without trouble
//! takes about fifteen tokens and, with the default `callback.verify_every`, five `set_config`.
//!
//! Pure: the caller passes the time in.

use std::time::Duration;

use tokio::time::Instant;

/// So many calls at once, and then one in each period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    burst: u32,
    every: Duration,
}

/// Both have to have room.
pub(super) type Pace = [Bucket; 2];

const fn bucket(burst: u32, every_s: u64) -> Bucket {
    Bucket { burst, every: Duration::from_secs(every_s) }
}

/// `get_access_token`: 300 on the worst of days.
pub(super) const TOKENS: Pace = [bucket(6, 30), bucket(12, 300)];
/// `set_config`, on our own account: a start takes two, a reload one. 156 on the worst of days.
pub(super) const CONFIG: Pace = [bucket(6, 60), bucket(12, 600)];
/// `set_config`, on the operator's account: an operator must not be kept out by what the session has spent, and a script must
/// not spend what the session needs.
pub(super) const VERBS: Pace = [bucket(10, 60), bucket(24, 600)];

/// What a renewal that nobody waits for leaves to repairs.
pub(super) const RESERVE: u32 = 4;

/// What is spent of each bucket, as the time until it is as good as new.
pub(super) type Spent = [Duration; 2];

#[derive(Debug, Clone)]
pub(super) struct Budget {
    pace: Pace,
    /// When each bucket is as good as new.
    new_at: [Instant; 2],
}

impl Budget {
    /// With `spent` of it; no more than a bucket holds, so that a clock that was set back does not stop us for long.
    pub(super) fn new(pace: Pace, now: Instant, spent: Spent) -> Self {
        let [small, large] = pace;
        let at = |bucket: Bucket, spent: Duration| now + spent.min(bucket.every * bucket.burst);
        Self { pace, new_at: [at(small, spent[0]), at(large, spent[1])] }
    }

    /// When a call may be made that leaves `reserve` others possible.
    pub(super) fn next(&self, now: Instant, reserve: u32) -> Instant {
        let buckets = self.pace.iter().zip(&self.new_at);
        let moments = buckets.map(|(bucket, new_at)| {
            let room = bucket.every * bucket.burst.saturating_sub(1 + reserve);
            new_at.checked_sub(room).unwrap_or(now)
        });
        moments.max().map_or(now, |moment| moment.max(now))
    }

    /// A call is being made. Beyond the burst, which only others' allowances make possible, nothing is added.
    pub(super) fn spend(&mut self, now: Instant) {
        for (bucket, new_at) in self.pace.iter().zip(&mut self.new_at) {
            *new_at = ((*new_at).max(now) + bucket.every).min(now + bucket.every * bucket.burst);
        }
    }

    /// A call did not reach the service.
    pub(super) fn refund(&mut self, now: Instant) {
        for (bucket, new_at) in self.pace.iter().zip(&mut self.new_at) {
            *new_at = new_at.checked_sub(bucket.every).unwrap_or(now).max(now);
        }
    }

    pub(super) fn spent(&self, now: Instant) -> Spent {
        self.new_at.map(|new_at| new_at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: Spent = [Duration::ZERO; 2];

    /// The calls made when one is wanted at each of `moments`.
    fn made(pace: Pace, moments: impl Iterator<Item = Duration>) -> Vec<Duration> {
        let start = Instant::now();
        let mut budget = Budget::new(pace, start, NOTHING);
        let mut made = Vec::new();
        for moment in moments {
            let now = start + moment;
            if budget.next(now, 0) <= now {
                budget.spend(now);
                made.push(moment);
            }
        }
        made
    }

    #[test]
    fn a_repair_is_at_once_and_trouble_slows_down() {
        let seconds = made(TOKENS, (0..3600).map(Duration::from_secs));
        let seconds: Vec<u64> = seconds.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds[..8], [0, 1, 2, 3, 4, 5, 30, 60]);
        let last: Vec<u64> = seconds.windows(2).map(|pair| pair[1] - pair[0]).rev().take(8).collect();
        assert_eq!(last, [300; 8]);
        assert_eq!(made(CONFIG, (0..86_400).map(Duration::from_secs)).len(), 155);
        assert_eq!(made(TOKENS, (0..86_400).map(Duration::from_secs)).len(), 299);
    }

    #[test]
    fn a_reserve_is_left() {
        let now = Instant::now();
        let mut budget = Budget::new(TOKENS, now, NOTHING);
        for _ in 0..2 {
            assert_eq!(budget.next(now, RESERVE), now);
            budget.spend(now);
        }
        assert_eq!(budget.next(now, RESERVE), now + Duration::from_secs(30));
        assert_eq!(budget.next(now, 0), now);
    }

    #[test]
    fn what_did_not_reach_the_service_is_not_spent_and_a_clock_set_back_costs_one_burst() {
        let now = Instant::now();
        let mut budget = Budget::new(CONFIG, now, NOTHING);
        for _ in 0..100 {
            budget.spend(now);
            budget.refund(now);
        }
        assert_eq!(budget.spent(now), NOTHING);
        let budget = Budget::new(CONFIG, now, [Duration::from_hours(1000); 2]);
        assert_eq!(budget.next(now, 0), now + Duration::from_mins(10));
    }

    proptest! {
        /// Whenever calls are wanted, however often the process starts again: in no window are there more than the pace says.
        #[test]
        fn nothing_outruns_it(
            config in any::<bool>(),
            steps in prop::collection::vec((0_u64..400_000, 1_u8..12, any::<bool>()), 1..400),
        ) {
            let pace = if config { CONFIG } else { TOKENS };
            let mut now = Instant::now();
            let mut budget = Budget::new(pace, now, NOTHING);
            let mut calls: Vec<Instant> = Vec::new();
            for (pause, wanted, restart) in steps {
                now += Duration::from_millis(pause);
                if restart {
                    budget = Budget::new(pace, now, budget.spent(now));
                }
                for _ in 0..wanted {
                    if budget.next(now, 0) <= now {
                        budget.spend(now);
                        calls.push(now);
                    }
                }
                prop_assert!(budget.next(now, 0) <= now + pace[1].every, "the longest wait");
            }
            for bucket in pace {
                for (first, begun) in calls.iter().enumerate() {
                    for (last, ended) in calls.iter().enumerate().skip(first) {
                        let most = f64::from(bucket.burst) + (*ended - *begun).div_duration_f64(bucket.every);
                        let made = f64::from(u32::try_from(last - first + 1).unwrap());
                        prop_assert!(made <= most + 0.001);
                    }
                }
            }
        }
    }
}
