//! Which of the link's own publications the broker refuses, remembered across connections.
//!
//! They would be tried first on every connection. Mosquitto 2.0.11 with `max_queued_messages 0` closes the connection after
//! the PUBACK that refuses a publish, so a missing ACL line for `bridge/state` would stop everything else too.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The longest time for which a refusal is believed.
const LONGEST: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub(super) struct Denied {
    first: Duration,
    topics: HashMap<String, Refused>,
}

#[derive(Debug)]
struct Refused {
    times: u32,
    until: Instant,
    reason: String,
}

impl Denied {
    /// `first`: when to try again after the first refusal; doubles with each that follows, up to an hour.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, topics: HashMap::new() }
    }

    /// Until when not to try, and why.
    pub(super) fn until(&self, topic: &str, now: Instant) -> Option<(Instant, &str)> {
        self.topics
            .get(topic)
            .filter(|refused| now < refused.until)
            .map(|refused| (refused.until, refused.reason.as_str()))
    }

    /// The broker refused it. Returns when to try again.
    pub(super) fn refused(&mut self, topic: &str, reason: &str, now: Instant) -> Instant {
        let times = self.topics.get(topic).map_or(0, |refused| refused.times);
        let until = now + self.first.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST);
        let refused = Refused { times: times.saturating_add(1), until, reason: reason.to_owned() };
        self.topics.insert(topic.to_owned(), refused);
        until
    }

    /// The broker took it.
    pub(super) fn taken(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_believed_longer_and_longer_until_one_is_taken() {
        let mut denied = Denied::new(Duration::from_mins(1));
        let now = Instant::now();
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let until = denied.refused("a", "not authorized", now);
            assert_eq!(until - now, Duration::from_mins(minutes));
        }
        assert_eq!(denied.until("a", now).map(|(_, reason)| reason), Some("not authorized"));
        assert_eq!(denied.until("a", now + LONGEST), None);
        assert_eq!(denied.until("b", now), None);
        denied.taken("a");
        assert_eq!(denied.until("a", now), None);
    }
}
