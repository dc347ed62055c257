//! Remembers across connections that the broker refuses the self-test's probe.
//!
//! Otherwise the probe would be the first publish on every connection. Mosquitto 2.0.11 with `max_queued_messages 0` closes the
//! connection after it has refused a publish, so one missing ACL line would stop everything else too.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time for which a refusal is believed.
const LONGEST: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub(super) struct Denied {
    every: Duration,
    refused: Option<Refused>,
    /// How many connections in a row ended because of it.
    costs: u32,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    until: Instant,
    reason: String,
}

impl Denied {
    /// `every`: how long to wait before the next try, which finds out whether the ACL has been corrected. The wait doubles
    /// while each try ends the connection.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, refused: None, costs: 0 }
    }

    /// Until when the probe must not be tried, and why.
    pub(super) fn until(&self, now: Instant) -> Option<(Instant, &str)> {
        self.refused
            .as_ref()
            .filter(|refused| now < refused.until)
            .map(|refused| (refused.until, refused.reason.as_str()))
    }

    /// The broker refused it. Returns when to try again.
    pub(super) fn refused(&mut self, reason: &str, now: Instant) -> Instant {
        let until = now + self.every.saturating_mul(2_u32.saturating_pow(self.costs)).min(LONGEST);
        self.refused = Some(Refused { at: now, until, reason: reason.to_owned() });
        until
    }

    /// A refusal has just ended the connection. It was this one if it is not older than `within`.
    pub(super) fn cost(&mut self, now: Instant, within: Duration) {
        if self.refused.as_ref().is_some_and(|refused| now.duration_since(refused.at) < within) {
            self.costs = self.costs.saturating_add(1);
        }
    }

    /// The broker took it.
    pub(super) fn taken(&mut self) {
        (self.refused, self.costs) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_believed_for_a_while_and_longer_and_longer_where_it_costs_connections() {
        let mut denied = Denied::new(Duration::from_mins(1));
        let (now, soon) = (Instant::now(), Duration::from_secs(1));
        for _ in 0..5 {
            assert_eq!(denied.refused("not authorized", now) - now, Duration::from_mins(1));
            denied.cost(now + 2 * soon, soon);
        }
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let until = denied.refused("not authorized", now);
            assert_eq!(until - now, Duration::from_mins(minutes));
            denied.cost(now, soon);
        }
        assert_eq!(denied.until(now).map(|(_, reason)| reason), Some("not authorized"));
        assert_eq!(denied.until(now + LONGEST), None);
        denied.taken();
        assert_eq!(denied.until(now), None);
        assert_eq!(denied.refused("not authorized", now) - now, Duration::from_mins(1));
    }
}
