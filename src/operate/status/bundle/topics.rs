//! Topics in a bug report. They may be made of ids and of content, by devices and by routes; so every level gets a pseudonym, but
//! for the words that the bridge itself uses.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::operate::status::Overview;
use crate::protocol::{Call, Kind};

/// Levels of our own topics and of Home Assistant's, and of filters.
const WORDS: &str = "ilink homeassistant recv send call result ack by bridge presence picture event route user group topic text file state info \
                     health cloud cluster self_test sensor binary_sensor image notify config status + #";
/// Where a topic stands in a line of the log: quoted, or in an ACL's line, which ends the text.
static LOGGED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let quoted = r#"(?P<before>\b(?:topic|response_topic|command)=|\bpublishes to )"(?P<topic>(?:[^"\\\n]|\\.)*)""#;
    Regex::new(&format!(r#"{quoted}|topic write (?P<granted>(?:[^"\\\n]|\\.)*)"#)).ok()
});
/// Fields of JSON whose value is one.
pub(super) const FIELDS: [&str; 3] = ["topic", "response_topic", "command"];
/// In a text of its own, an ACL's line.
const GRANTED: &str = "topic write ";
/// What a problem with a publish is about.
const PUBLISHES: &str = "publishes to ";

/// Gives the pseudonym of an id.
type Of<'a> = &'a dyn Fn(&str) -> String;

/// What is known of topics.
pub(super) struct Topics {
    /// Levels that stay as they are.
    words: HashSet<String>,
}

impl Topics {
    /// Besides our own words, the levels of these stay.
    pub(super) fn knowing<'a>(topics: impl IntoIterator<Item = &'a str>) -> Self {
        let ours = WORDS.split(' ').chain(Call::NAMES.iter().flat_map(|name| name.split('/')));
        let ours = ours.chain(Kind::ALL.iter().map(|kind| kind.as_str())).chain([""]);
        let words = ours.chain(topics.into_iter().flat_map(|topic| topic.split('/'))).map(str::to_owned).collect();
        Self { words }
    }

    /// A topic; a subject in ours is one id.
    pub(super) fn in_topic(&self, topic: &str, of: Of<'_>) -> String {
        let subjects = ["recv/topic/", "send/topic/"];
        match subjects.into_iter().find_map(|tree| Some((topic.split_once(tree)?, tree))) {
            Some(((before, subject), tree)) => format!("{}{tree}{}", self.in_levels(before, of), of(subject)),
            None => self.in_levels(topic, of),
        }
    }

    fn in_levels(&self, topic: &str, of: Of<'_>) -> String {
        let level = |level: &str| if self.words.contains(level) { level.to_owned() } else { of(level) };
        topic.split('/').map(level).collect::<Vec<_>>().join("/")
    }

    /// The topics in a line of the log.
    pub(super) fn in_log(&self, line: &str, of: Of<'_>) -> String {
        let Some(logged) = LOGGED.as_ref() else { return line.to_owned() };
        let replaced = logged.replace_all(line, |found: &Captures<'_>| match found.name("granted") {
            Some(granted) => format!("{GRANTED}{}", self.in_topic(granted.as_str(), of)),
            None => format!("{}\"{}\"", &found["before"], self.in_topic(&found["topic"], of)),
        });
        replaced.into_owned()
    }

    /// The topic in a remedy, which ends with it.
    pub(super) fn in_remedy(&self, text: &str, of: Of<'_>) -> String {
        match text.split_once(GRANTED) {
            Some((before, topic)) => format!("{before}{GRANTED}{}", self.in_topic(topic, of)),
            None => text.to_owned(),
        }
    }

    /// The topics in what a running bridge tells of itself.
    pub(super) fn in_overview(&self, overview: &mut Overview, of: Of<'_>) {
        for refused in &mut overview.health.broker.refused {
            refused.topic = self.in_topic(&refused.topic, of);
            refused.cause = self.in_remedy(&refused.cause, of);
        }
        for problem in &mut overview.problems {
            if let Some(topic) = problem.part.strip_prefix(PUBLISHES) {
                problem.part = format!("{PUBLISHES}{}", self.in_topic(topic, of));
            }
            problem.cause = self.in_remedy(&problem.cause, of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another word for each id.
    fn of(id: &str) -> String {
        match id {
            known if known.starts_with("id-") => known.to_owned(),
            _ => format!("id-{:x}", id.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte))),
        }
    }

    fn topics() -> Topics {
        Topics::knowing(["home/ilink"])
    }

    #[test]
    fn of_a_topic_only_our_own_words_stay() {
        for (topic, replaced) in [
            ("home/ilink/recv/user/413/text", format!("home/ilink/recv/user/{}/text", of("413"))),
            ("home/ilink/send/topic/a/lamp", format!("home/ilink/send/topic/{}", of("a/lamp"))),
            ("ilink/by/a client/call/send_msg/text", format!("ilink/by/{}/call/send_msg/text", of("a client"))),
            ("image/picture_413/config", format!("image/{}/config", of("picture_413"))),
            ("shout/413/the door: open", format!("{}/{}/{}", of("shout"), of("413"), of("the door: open"))),
        ] {
            assert_eq!(topics().in_topic(topic, &of), replaced);
            assert_eq!(topics().in_topic(&replaced, &of), replaced, "replacing again changes nothing");
        }
    }

    #[test]
    fn the_log_shows_no_topic_however_it_is_written() {
        for line in [
            r#"WARN refused topic="a/zz \"zz\", zz" remedy="the broker's ACL needs: topic write a/zz \"zz\"; zz""#,
            r#"WARN ignored command="ilink/send/user/zz/text" response_topic="zz/zz zz" why="it's not \"that\"""#,
            r#"INFO the broker takes publishes to "a/zz zz" again"#,
        ] {
            let shown = topics().in_log(line, &of);
            assert!(!shown.contains("zz") && shown.contains("id-"), "{shown}");
        }
        let granted = "topic write ilink/call/self_test/+";
        assert_eq!(topics().in_remedy(granted, &of), granted, "the bridge's own");
        assert_eq!(
            topics().in_remedy("topic write a/b \"; c", &of),
            format!("topic write {}/{}", of("a"), of("b \"; c"))
        );
    }
}
