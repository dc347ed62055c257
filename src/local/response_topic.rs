//! Where a requester may have its result sent: the guard on the MQTT 5 Response Topic.
//!
//! A Response Topic is chosen by whoever may send commands, and the bridge publishes there with its own rights; without a
//! guard it could be told to switch other devices, or to send itself commands.

use super::escape::is_unsendable;
use super::filter::{MAX_SLASHES, MAX_STRING, matches};
use super::topics::Base;

/// The first levels under the base with a meaning of their own.
const OWN_TREES: [&str; 7] = ["send", "call", "result", "recv", "event", "presence", "bridge"];
/// The same under `by/<client>/`.
const CLIENT_TREES: [&str; 4] = ["send", "call", "result", "ack"];

/// Whether a result may be sent to `topic`: only where `filters` (`mqtt.response_topics`) allow it, and under the base or
/// the discovery prefix only by a filter that spells these out, never where the topic already has a meaning.
///
/// # Errors
///
/// Why not, for the log.
pub fn response_topic_allowed(
    topic: &str,
    base: &Base,
    discovery_prefix: &str,
    filters: &[String],
) -> Result<(), String> {
    if topic.is_empty() || topic.len() > MAX_STRING || topic.matches('/').count() > MAX_SLASHES {
        return Err("it is empty or too long".to_owned());
    }
    if topic.contains(|c| matches!(c, '+' | '#' | '$') || is_unsendable(c)) {
        return Err("it holds a wildcard, a $ or a control character".to_owned());
    }
    let allowing = || filters.iter().filter(|filter| matches(filter, topic));
    if allowing().next().is_none() {
        return Err("no filter of mqtt.response_topics allows it".to_owned());
    }
    for (name, root) in [("base topic", base.as_str()), ("discovery prefix", discovery_prefix)] {
        if is_under(topic, root) && !allowing().any(|filter| is_under(filter, root)) {
            return Err(format!("it is under the {name}, which no filter of mqtt.response_topics allowing it names"));
        }
    }
    if topic == base.as_str() || base.strip(topic).is_some_and(has_a_meaning) {
        return Err("it is one of the bridge's own topics".to_owned());
    }
    Ok(())
}

fn is_under(topic: &str, root: &str) -> bool {
    !root.is_empty() && topic.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a topic (without the base) is in a tree that the bridge, its clients or its devices use otherwise.
fn has_a_meaning(topic: &str) -> bool {
    let mut levels = topic.split('/');
    match levels.next() {
        Some("by") => levels.nth(1).is_none_or(|tree| CLIENT_TREES.contains(&tree)),
        first => first.is_some_and(|tree| OWN_TREES.contains(&tree)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(topic: &str, filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        response_topic_allowed(topic, &"ilink".parse().unwrap(), "homeassistant", &filters).is_ok()
    }

    #[test]
    fn the_default_is_the_reply_tree() {
        for topic in ["ilink/reply", "ilink/reply/c1", "ilink/reply/c1/7", "ilink/reply/"] {
            assert!(allowed(topic, &["ilink/reply/#"]), "{topic}");
        }
        for topic in
            ["", "x", "ilink/replies", "ilink/send/user/1/text", "ilink/reply/+", "ilink/reply/#", "ilink/reply/$x"]
        {
            assert!(!allowed(topic, &["ilink/reply/#"]), "{topic}");
        }
        assert!(!allowed("ilink/reply/x", &[]));
        assert!(!allowed("ilink/reply/a\0", &["ilink/reply/#"]));
        assert!(!allowed(&format!("ilink/reply{}", "/x".repeat(200)), &["ilink/reply/#"]));
    }

    #[test]
    fn a_broad_filter_does_not_reach_under_the_base_or_the_discovery_prefix() {
        for topic in ["ilink", "ilink/reply/x", "ilink/x", "homeassistant", "homeassistant/light/x/config", "$SYS/x"] {
            assert!(!allowed(topic, &["#"]), "{topic}");
            assert!(!allowed(topic, &["+/#"]), "{topic}");
        }
        for topic in ["x", "ilink2/x", "home/x", "homeassistants"] {
            assert!(allowed(topic, &["#"]), "{topic}");
        }
        assert!(allowed("ilink/reply/x", &["#", "ilink/reply/#"]));
    }

    #[test]
    fn no_filter_reaches_the_bridges_own_topics() {
        for tree in ["send", "call/ham_group/list", "recv/x", "result/x", "event/text", "presence/1", "bridge/state"] {
            assert!(!allowed(&format!("ilink/{tree}"), &["ilink/#"]), "{tree}");
        }
        for tree in ["by", "by/c", "by/c/send/x", "by/c/call", "by/c/ack/x", "by/c/result/x"] {
            assert!(!allowed(&format!("ilink/{tree}"), &["ilink/#"]), "{tree}");
        }
        assert!(allowed("ilink/by/c/reply/1", &["ilink/by/+/reply/#"]));
    }
}
