//! The breaker: a route that fires too often is cut off for a while, because that is what a loop looks like.

use std::time::Duration;

use super::rule::Rate;

/// How long it stays open.
pub const OPEN_FOR: Duration = Duration::from_mins(1);

/// One route's breaker. The caller brings the time, of whatever clock.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    /// When all that fired so far would be used up at the allowed rate.
    used_until: Duration,
    open_until: Option<Duration>,
}

/// What the breaker says to one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may fire.
    Pass,
    /// It may not, and from now on none may for a while.
    Opened,
    /// It may not.
    Open,
}

impl Breaker {
    /// May a route of this rate fire at `now`?
    pub fn fire(&mut self, rate: Rate, now: Duration) -> Verdict {
        if rate.count == 0 {
            return Verdict::Pass;
        }
        if self.open_until.is_some_and(|until| now < until) {
            return Verdict::Open;
        }
        if self.open_until.take().is_some() {
            self.used_until = now;
        }
        let used_until = self.used_until.max(now) + rate.per / rate.count;
        // The divisions' rounding must not cost the last one.
        if used_until.saturating_sub(now) > rate.per + Duration::from_micros(1) {
            self.open_until = Some(now + OPEN_FOR);
            return Verdict::Opened;
        }
        self.used_until = used_until;
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn so_many_may_fire_at_once_and_one_more_opens_it() {
        let mut breaker = Breaker::default();
        let rate = "30/m".parse().unwrap();
        for _ in 0..30 {
            assert_eq!(breaker.fire(rate, at(100)), Verdict::Pass);
        }
        assert_eq!(breaker.fire(rate, at(100)), Verdict::Opened);
        assert_eq!(breaker.fire(rate, at(159)), Verdict::Open);
        for _ in 0..30 {
            assert_eq!(breaker.fire(rate, at(160)), Verdict::Pass);
        }
        assert_eq!(breaker.fire(rate, at(160)), Verdict::Opened);
    }

    #[test]
    fn a_steady_pace_within_the_rate_never_opens_it() {
        for rate in ["7/s", "30/m", "3/h", "1/s"] {
            let rate: Rate = rate.parse().unwrap();
            let mut breaker = Breaker::default();
            for n in 0..10_000 {
                assert_eq!(breaker.fire(rate, (rate.per / rate.count + Duration::from_nanos(1)) * n), Verdict::Pass);
            }
        }
        assert_eq!(Breaker::default().fire("0".parse().unwrap(), at(1)), Verdict::Pass);
    }
}
