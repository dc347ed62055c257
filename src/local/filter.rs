//! MQTT topic filters: validity, and matching against topics (MQTT 5 §4.7).
//!
//! Used for `mqtt.response_topics`. Subscriptions are matched by the broker.

/// The longest MQTT string, in bytes.
pub const MAX_STRING: usize = 65_535;
/// Mosquitto disconnects a client whose topic has more.
pub const MAX_SLASHES: usize = 200;

/// Whether `filter` may be subscribed to: `#` only as the whole last level, `+` only as a whole level.
#[must_use]
pub fn is_valid_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').rev();
    let last = levels.next().unwrap_or_default();
    let plain = |level: &str| !level.contains(['#', '+']);
    !filter.is_empty()
        && filter.len() <= MAX_STRING
        && !filter.contains('\0')
        && (last == "#" || last == "+" || plain(last))
        && levels.all(|level| level == "+" || plain(level))
}

/// Whether `topic` is one of those `filter` selects: `+` is any one level, a last `#` its parent and everything under it;
/// neither stands for a first level that begins with `$`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn validity() {
        for filter in ["a", "/", "#", "+", "a/#", "+/a/+", "a//b", "$SYS/#", "a b"] {
            assert!(is_valid_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0", "a/##"] {
            assert!(!is_valid_filter(filter), "{filter}");
        }
        assert!(!is_valid_filter(&"a".repeat(MAX_STRING + 1)));
    }

    #[test]
    fn matching() {
        for (filter, topic) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+", "a/"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("+/+", "/"),
            ("$SYS/#", "$SYS/x"),
            ("+/reply/#", "c/reply"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("a/b", "a"),
            ("a", "a/b"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a/#", "ab"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("A", "a"),
            ("+", "/a"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    proptest! {
        #[test]
        fn a_topic_is_matched_by_itself_and_its_generalisations(
            levels in proptest::collection::vec("[a-c]{0,2}", 1..6),
            cut in 0usize..6,
        ) {
            let topic = levels.join("/");
            prop_assert!(matches(&topic, &topic));
            prop_assert!(matches(&vec!["+"; levels.len()].join("/"), &topic));
            let cut = cut.min(levels.len());
            let mut filter = levels[..cut].to_vec();
            filter.push("#".to_owned());
            prop_assert!(matches(&filter.join("/"), &topic));
        }
    }
}
