//! Operations on topic filters: whether two overlap, and how to cover many with a set that does not overlap itself.

/// Whether some topic is selected by both filters.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // A last `#` selects its parent too.
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

/// Filters that together select all that `filters` do, no two of which overlap.
///
/// A broker may deliver a message once for each subscription that selects it, or once in all, and MQTT 3.1.1 does not tell
/// which; with these it comes once.
pub(super) fn cover<'a>(filters: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut cover: Vec<String> = Vec::new();
    for filter in filters {
        if cover.iter().any(|other| other == filter) {
            continue;
        }
        let mut filter = filter.to_owned();
        while let Some(at) = cover.iter().position(|other| overlap(other, &filter)) {
            filter = join(&cover.swap_remove(at), &filter);
        }
        cover.push(filter);
    }
    cover.sort();
    cover
}

/// The narrowest filter that selects all that two overlapping ones do.
fn join(one: &str, other: &str) -> String {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    let mut levels = Vec::new();
    loop {
        match (one.next(), other.next()) {
            (None, None) => return levels.join("/"),
            (Some(a), Some(b)) if a != "#" && b != "#" => levels.push(if a == b { a } else { "+" }),
            _ => {
                levels.push("#");
                return levels.join("/");
            }
        }
    }
}

/// How many values the wildcards of a filter give: one for each `+`, one for a last `#`.
pub(super) fn wildcards(filter: &str) -> usize {
    filter.split('/').filter(|level| matches!(*level, "+" | "#")).count()
}

/// What the wildcards of a filter stand for in a topic that it selects; a last `#` for all levels that are left.
pub(super) fn wildcard_levels<'t>(filter: &str, topic: &'t str) -> Vec<&'t str> {
    let mut found = Vec::new();
    let mut rest = Some(topic);
    for wanted in filter.split('/') {
        let (level, after) = match rest.map(|rest| rest.split_once('/')) {
            Some(Some((level, after))) => (level, Some(after)),
            _ => (rest.unwrap_or_default(), None),
        };
        match wanted {
            "#" => found.push(rest.unwrap_or_default()),
            "+" => found.push(level),
            _ => {}
        }
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::filter::matches;

    #[test]
    fn overlaps() {
        for (one, other) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+/c", "a/b/+"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a"),
            ("+/b", "a/+"),
            ("a/#", "+/b"),
        ] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in
            [("a", "b"), ("a/b", "a"), ("a/+", "a"), ("a/b/#", "a/c"), ("a/+/c", "a/b/d"), ("a/b", "b/+")]
        {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }

    #[test]
    fn covers() {
        for (filters, wanted) in [
            (&["stat/+/POWER", "tele/+/SENSOR"][..], &["stat/+/POWER", "tele/+/SENSOR"][..]),
            (&["stat/+/POWER", "stat/#", "stat/x/POWER"], &["stat/#"]),
            (&["a/+/c", "a/b/+"], &["a/+/+"]),
            (&["a", "a/#"], &["a/#"]),
            (&["a/+/c", "a/b/+", "a/x/y"], &["a/+/+"]),
        ] {
            assert_eq!(cover(filters.iter().copied()), wanted, "{filters:?}");
        }
    }

    #[test]
    fn wildcards_have_values() {
        for (filter, topic, values) in [
            ("stat/+/POWER", "stat/lamp/POWER", &["lamp"][..]),
            ("+/+", "a/", &["a", ""]),
            ("a/#", "a/b/c", &["b/c"]),
            ("a/#", "a", &[""]),
            ("+/b/#", "a/b/c", &["a", "c"]),
        ] {
            assert_eq!(wildcard_levels(filter, topic), values, "{filter} {topic}");
            assert_eq!(wildcards(filter), values.len());
        }
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("+"), Just("")];
        (proptest::collection::vec(level, 1..5), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn any_topic() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just(""), Just("c")], 1..6)
            .prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #[test]
        fn a_topic_that_both_select_is_an_overlap(one in any_filter(), other in any_filter(), topic in any_topic()) {
            if matches(&one, &topic) && matches(&other, &topic) {
                prop_assert!(overlap(&one, &other));
            }
        }

        #[test]
        fn every_topic_comes_once(filters in proptest::collection::vec(any_filter(), 0..8), topic in any_topic()) {
            let cover = cover(filters.iter().map(String::as_str));
            let times = cover.iter().filter(|filter| matches(filter, &topic)).count();
            prop_assert!(times <= 1, "{topic}: {cover:?}");
            if filters.iter().any(|filter| matches(filter, &topic)) {
                prop_assert_eq!(times, 1);
            }
        }
    }
}
