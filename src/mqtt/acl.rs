//! Refusals in plain words, with the line that the broker's ACL lacks.

use super::delivery::{Ack, Refusal};
use crate::local::Base;

/// The reason of a refusal for want of rights.
pub(super) const NOT_AUTHORIZED: &str = "the broker refuses it: not authorized";

/// Why a PUBACK refuses a publication for good.
pub(super) fn refusal(base: &Base, topic: &str, ack: Ack) -> Refusal {
    let (reason, remedy) = match ack {
        Ack::TopicInvalid => {
            ("the broker refuses it: topic name invalid", "look for the reason in the broker's log".to_owned())
        }
        Ack::PayloadInvalid => {
            ("the broker refuses it: payload format invalid", "look for the reason in the broker's log".to_owned())
        }
        _ => (NOT_AUTHORIZED, write_line(base, topic)),
    };
    Refusal { reason: reason.to_owned(), remedy }
}

/// What to write into the broker's ACL so that `topic` may be published.
fn write_line(base: &Base, topic: &str) -> String {
    let line = match base.strip(topic).and_then(|rest| rest.split_once('/')) {
        Some(("call", _)) => probe_line(base),
        Some((tree, _)) => format!("topic write {}/{tree}/#", base.as_str()),
        None => format!("topic write {topic}"),
    };
    format!("the broker's ACL needs: {line}")
}

/// Of all command topics, the bridge publishes only to its probes'.
pub(super) fn probe_line(base: &Base) -> String {
    format!("topic write {}", base.self_test("+"))
}

/// What to write into the broker's ACL so that messages on `filters` arrive.
pub(super) fn read_lines(filters: &[String]) -> String {
    let lines: Vec<String> = filters.iter().map(|filter| format!("topic read {filter}")).collect();
    format!("the broker's ACL needs: {}", lines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_tree() {
        let base: Base = "home/ilink".parse().unwrap();
        for (topic, tree) in [
            ("home/ilink/recv/user/1/text", "home/ilink/recv/#"),
            ("home/ilink/bridge/state", "home/ilink/bridge/#"),
            ("home/ilink/call/self_test/0123", "home/ilink/call/self_test/+"),
            ("zigbee2mqtt/lamp/set", "zigbee2mqtt/lamp/set"),
        ] {
            let refusal = refusal(&base, topic, Ack::NotAuthorized);
            assert_eq!(refusal.reason, "the broker refuses it: not authorized");
            assert_eq!(refusal.remedy, format!("the broker's ACL needs: topic write {tree}"));
        }
    }
}
