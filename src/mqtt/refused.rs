//! Refused publishes and subscriptions: their explanation, with the line that the broker's ACL lacks; and the list of what is
//! refused at present, by *kind* of topic. The list is for health and status, and lets the log tell when refusals of a kind
//! begin and end, and not each of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::local::Base;
use crate::observe::log::clipped;

use super::delivery::{Ack, Refusal};

/// If no publish of a kind was refused for so long, the next success of that kind ends the refusal.
const OVER_AFTER: Duration = Duration::from_mins(1);
/// The most kinds in the list.
const KINDS: usize = 32;

/// Publishes of one kind that the broker refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The topic of the last one, shortened if it is long.
    pub topic: String,
    /// Why, and what to do about it.
    pub cause: String,
    /// Since when.
    pub since: SystemTime,
}

#[derive(Debug)]
struct Entry {
    shown: Refused,
    reason: String,
    last: Instant,
}

/// The list. A topic's kind is the first level below the base topic; elsewhere, its first two levels.
#[derive(Debug)]
pub(super) struct RefusedTopics {
    base: Base,
    kinds: BTreeMap<String, Entry>,
}

impl RefusedTopics {
    pub(super) fn new(base: Base) -> Self {
        Self { base, kinds: BTreeMap::new() }
    }

    fn kind(&self, topic: &str) -> String {
        match self.base.strip(topic) {
            Some(rest) => format!("{}/{}", self.base.as_str(), clipped(rest.split('/').next().unwrap_or(rest))),
            None => clipped(&topic.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")),
        }
    }

    /// A publish was refused for good. Returns whether that is news.
    pub(super) fn refused(&mut self, topic: &str, refusal: &Refusal, now: Instant) -> bool {
        let kind = self.kind(topic);
        let reason = without_numbers(&refusal.reason);
        if let Some(entry) = self.kinds.get_mut(&kind) {
            entry.last = now;
            entry.shown.topic = clipped(topic);
            if entry.reason == reason {
                return false;
            }
        } else if self.kinds.len() >= KINDS {
            return false;
        }
        let cause = format!("{}; {}", refusal.reason, refusal.remedy);
        let shown = Refused { topic: clipped(topic), cause, since: SystemTime::now() };
        self.kinds.insert(kind, Entry { shown, reason, last: now });
        true
    }

    /// A publish was taken. Returns its kind if that ends the kind's refusals.
    pub(super) fn taken(&mut self, topic: &str, now: Instant) -> Option<String> {
        if self.kinds.is_empty() {
            return None;
        }
        let kind = self.kind(topic);
        let entry = self.kinds.get(&kind)?;
        let same = entry.shown.topic == topic && entry.reason == NOT_AUTHORIZED;
        let over = same || now.duration_since(entry.last) >= OVER_AFTER;
        over.then(|| self.kinds.remove(&kind)).flatten().map(|_| kind)
    }

    pub(super) fn all(&self) -> Vec<Refused> {
        self.kinds.values().map(|entry| entry.shown.clone()).collect()
    }
}

fn without_numbers(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The reason if the bridge is not authorised.
pub(super) const NOT_AUTHORIZED: &str = "the broker refuses it: not authorized";

/// Explains a PUBACK that refuses a publish for good.
pub(super) fn refusal(base: &Base, topic: &str, ack: Ack) -> Refusal {
    let (reason, remedy) = match ack {
        Ack::TopicInvalid => {
            ("the broker refuses it: topic name invalid", "look for the reason in the broker's log".to_owned())
        }
        Ack::PayloadInvalid => {
            ("the broker refuses it: payload format invalid", "look for the reason in the broker's log".to_owned())
        }
        Ack::TooLarge => (
            "the broker refuses it: packet too large",
            "raise the largest message that the broker takes (Mosquitto: message_size_limit)".to_owned(),
        ),
        _ => (NOT_AUTHORIZED, write_line(base, topic)),
    };
    Refusal { reason: reason.to_owned(), remedy }
}

/// The remedy: the line in the broker's ACL that allows us to publish to `topic`.
fn write_line(base: &Base, topic: &str) -> String {
    let line = match base.strip(topic).and_then(|rest| rest.split_once('/')) {
        Some(("call", _)) => probe_line(base),
        Some((tree, _)) => format!("topic write {}/{tree}/#", base.as_str()),
        None => format!("topic write {topic}"),
    };
    format!("the broker's ACL needs: {line}")
}

/// The ACL line for the self-test's probe: of all command topics, the bridge publishes only to this one.
pub(super) fn probe_line(base: &Base) -> String {
    format!("topic write {}", base.self_test("+"))
}

/// The remedy: the lines in the broker's ACL that let messages on `filters` reach us.
pub(super) fn read_lines(filters: &[String]) -> String {
    let lines: Vec<String> = filters.iter().map(|filter| format!("topic read {filter}")).collect();
    format!("the broker's ACL needs: {}", lines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> RefusedTopics {
        RefusedTopics::new("ilink".parse().unwrap())
    }

    fn refusal(reason: &str) -> Refusal {
        Refusal { reason: reason.to_owned(), remedy: "mend it".to_owned() }
    }

    #[test]
    fn a_kind_is_news_once_and_over_when_the_same_topic_is_taken() {
        let (mut topics, now) = (topics(), Instant::now());
        assert!(topics.refused("ilink/recv/user/1/text", &refusal(NOT_AUTHORIZED), now));
        assert!(!topics.refused("ilink/recv/user/2/text", &refusal(NOT_AUTHORIZED), now));
        assert!(topics.refused("ilink/event/text", &refusal(NOT_AUTHORIZED), now));
        let shown = topics.all();
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[1].topic, "ilink/recv/user/2/text");
        assert!(shown[1].cause.ends_with("; mend it"));
        assert_eq!(topics.taken("ilink/recv/user/1/text", now), None, "others of its kind may be allowed");
        assert_eq!(topics.taken("ilink/recv/user/2/text", now).as_deref(), Some("ilink/recv"));
        assert!(topics.refused("ilink/recv/user/2/text", &refusal(NOT_AUTHORIZED), now));
        assert_eq!(topics.taken("ilink/recv/user/1/text", now + OVER_AFTER).as_deref(), Some("ilink/recv"));
        assert_eq!(topics.all().len(), 1);
    }

    #[test]
    fn what_concerns_one_message_is_not_over_with_the_next() {
        let (mut topics, now) = (topics(), Instant::now());
        assert!(topics.refused("a/b", &refusal("the packet has 500 bytes"), now));
        assert_eq!(topics.taken("a/b", now), None);
        assert!(!topics.refused("a/b", &refusal("the packet has 700 bytes"), now), "other numbers are no news");
        assert!(topics.refused("a/b", &refusal(NOT_AUTHORIZED), now));
    }

    #[test]
    fn a_base_of_many_levels_has_the_same_kinds() {
        let (mut topics, now) = (RefusedTopics::new("home/first floor/ilink".parse().unwrap()), Instant::now());
        assert!(topics.refused("home/first floor/ilink/recv/user/1/text", &refusal(NOT_AUTHORIZED), now));
        let later = now + OVER_AFTER;
        assert_eq!(topics.taken("home/first floor/ilink/event/text", later), None, "that was never refused");
        assert!(topics.refused("home/first floor/ilink/result/call/x", &refusal(NOT_AUTHORIZED), later));
        assert!(topics.refused("home/first floor/lamp", &refusal(NOT_AUTHORIZED), later));
        let over = topics.taken("home/first floor/ilink/recv/user/2/text", later);
        assert_eq!(over.as_deref(), Some("home/first floor/ilink/recv"));
        assert_eq!(topics.all().len(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut topics, now) = (topics(), Instant::now());
        let long = "x".repeat(60_000);
        let news = (0..1000).filter(|n| topics.refused(&format!("{n}/{long}"), &refusal("no"), now)).count();
        assert_eq!(news, KINDS);
        assert!(topics.all().iter().all(|refused| refused.topic.len() < 1000));
    }

    #[test]
    fn the_remedy_names_the_tree() {
        let base: Base = "home/ilink".parse().unwrap();
        for (topic, tree) in [
            ("home/ilink/recv/user/1/text", "home/ilink/recv/#"),
            ("home/ilink/bridge/state", "home/ilink/bridge/#"),
            ("home/ilink/call/self_test/0123", "home/ilink/call/self_test/+"),
            ("zigbee2mqtt/lamp/set", "zigbee2mqtt/lamp/set"),
        ] {
            let refusal = super::refusal(&base, topic, Ack::NotAuthorized);
            assert_eq!(refusal.reason, "the broker refuses it: not authorized");
            assert_eq!(refusal.remedy, format!("the broker's ACL needs: topic write {tree}"));
        }
    }
}
