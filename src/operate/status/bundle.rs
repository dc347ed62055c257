//! The content of a bug report: texts that describe the bridge, without message content and secrets, and with pseudonyms for
//! ids.
//!
//! An id has the same pseudonym in all reports of a bridge, so it can be followed. It reveals nothing without the bridge's
//! state directory.

mod topics;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Overview;
use crate::config::Config;
use topics::Topics;

/// The metrics' file.
pub const METRICS: &str = "metrics.txt";

/// Files of the report, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bundle {
    files: BTreeMap<String, String>,
    /// What a running bridge tells of itself, without what was said.
    #[serde(skip)]
    overview: Option<Overview>,
}

impl Bundle {
    /// Adds a text.
    pub fn add(&mut self, name: &str, text: impl Into<String>) {
        self.files.insert(name.to_owned(), text.into());
    }

    /// All texts, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Those whose messages passed.
    #[must_use]
    pub fn met(&self) -> Vec<String> {
        let messages = self.overview.iter().flat_map(|overview| &overview.messages);
        messages.flat_map(|message| [&message.from, &message.to]).flatten().cloned().collect()
    }

    /// Adds what a running bridge tells of itself, without what was said.
    pub fn add_overview(&mut self, mut overview: Overview) {
        // Who sent it, and what.
        overview.set_aside.clear();
        for message in &mut overview.messages {
            message.content = None;
        }
        self.overview = Some(overview);
    }

    /// The same with every id replaced.
    #[must_use]
    pub fn with(mut self, pseudonyms: &Pseudonyms) -> Self {
        if let Some(mut overview) = self.overview.take() {
            pseudonyms.topics.in_overview(&mut overview, &|id| pseudonyms.of(id));
            self.add("status.txt", overview.text());
            self.add("status.json", overview.json());
        }
        let files = self.files.into_iter().map(|(name, text)| {
            let text = if name == METRICS { pseudonyms.in_metrics(&text) } else { pseudonyms.in_file(&text) };
            (name, text)
        });
        Self { files: files.collect(), overview: None }
    }
}

/// What stands for each id.
pub struct Pseudonyms {
    salt: SecretString,
    /// Finds ids that are known to be some: our own also as a part of what is made of it.
    known: Vec<Regex>,
    topics: Topics,
}

/// Fields whose value is an id.
const FIELDS: [&str; 5] = ["uid", "other_uid", "to_uid", "from_uid", "group_id"];
/// What stands behind such a word where the bridge speaks of it.
const PROSE: [&str; 14] =
    ["and", "are", "at", "belongs", "does", "exists", "has", "in", "is", "may", "of", "other", "than", "was"];
/// Where an id stands in a topic, a message or a field: after these words, up to what cannot be in one.
static PLACES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let fields = FIELDS.join("|");
    let id = r#"[^\s/"',;:)}\]+#]+"#;
    Regex::new(&format!(
        r#"(?P<before>\b(?:user|group|presence)/|\b(?:{fields})(?P<is>["']?[ =:]+["']?))(?P<id>{id})(?P<member>/{id})?"#
    ))
    .ok()
});
/// A subject has levels.
static SUBJECTS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?P<before>(?:\b(?:recv|send)/|")topic/)(?P<id>[^\s"',;)}\]]+)"#).ok());
/// A time: its digits are no id.
const TIME: &str = r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?";
/// Room for all names and ids that a configuration may have.
const LARGEST: usize = 256 << 20;
/// Lines of `status.txt` that count by reason. One reason is named uid.
const COUNTED: [&str; 2] = ["turned away", "unanswered"];

impl Pseudonyms {
    /// For a bridge with this secret and this uid (none if that is not known), which knows these ids.
    #[must_use]
    pub fn new(secret: &SecretString, own: Option<&str>, mut ids: Vec<String>) -> Self {
        ids.retain(|id| !id.is_empty());
        // The longest first: one may be part of another.
        ids.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        ids.dedup();
        let ids: Vec<_> = ids.iter().map(|id| regex::escape(id)).collect();
        let whole = |ids: &str, before: &str, after: &str| {
            let pattern = format!("(?P<time>{TIME})|(?P<before>^|[^{before}])(?P<id>{ids})(?P<after>$|[^{after}])");
            RegexBuilder::new(&pattern).size_limit(LARGEST).build().ok()
        };
        // The client id, the prefix in etcd and Home Assistant's topics are made of our uid.
        let own = own.filter(|own| !own.is_empty()).and_then(|own| whole(&regex::escape(own), r"\pL\pN", r"\pL\pN"));
        let others = Some(ids.join("|")).filter(|ids| !ids.is_empty()).and_then(|ids| whole(&ids, r"\w.-", r"\w-"));
        Self { salt: secret.clone(), known: own.into_iter().chain(others).collect(), topics: Topics::knowing([]) }
    }

    /// For all that a configuration names, and those who were met besides.
    #[must_use]
    pub fn for_config(secret: &SecretString, config: &Config, met: &[String]) -> Self {
        let uids = [&config.inbound.allow_from, &config.ilink.presence].into_iter().flatten().map(ToString::to_string);
        let subjects = config.ilink.topics.iter().map(|(subject, _)| subject.to_string());
        let contacts = &config.homeassistant.contacts;
        let people = contacts.iter().flat_map(|contact| [contact.id.as_str().to_owned(), contact.name.clone()]);
        let known = config.routes.names().iter();
        let named = known.flat_map(|(name, target)| [name.to_owned(), target.as_str().to_owned()]);
        let ours = [config.ilink.uid.to_string(), config.ilink.appkey.clone()].into_iter();
        let ids = ours.chain(named).chain(uids).chain(subjects).chain(people).chain(met.iter().cloned());
        let topics = Topics::knowing([config.mqtt.base_topic.as_str(), config.homeassistant.discovery_prefix.as_str()]);
        Self { topics, ..Self::new(secret, Some(config.ilink.uid.as_str()), ids.collect()) }
    }

    /// The pseudonym of one id.
    fn of(&self, id: &str) -> String {
        // One that was replaced already.
        if id.starts_with("id-") && id.len() == 13 {
            return id.to_owned();
        }
        let digest =
            Sha256::new().chain_update(self.salt.expose_secret()).chain_update([0]).chain_update(id).finalize();
        let number = digest.iter().take(5).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        format!("id-{number:010x}")
    }

    /// In a file: a JSON document stays one.
    fn in_file(&self, text: &str) -> String {
        if let Some(mut json) = object(text) {
            self.in_json("", &mut json);
            return format!("{json:#}");
        }
        text.split_inclusive('\n').map(|line| self.in_line(line)).collect()
    }

    fn in_line(&self, line: &str) -> String {
        let of = &|id: &str| self.of(id);
        if COUNTED.iter().any(|name| line.starts_with(name)) {
            return line.to_owned();
        }
        // systemd's journal has the time and the unit before it.
        let (before, rest) = line.split_at(line.find('{').unwrap_or(0));
        let Some(mut json) = object(rest) else { return self.in_text(&self.topics.in_log(line, of)) };
        self.in_json("", &mut json);
        format!("{}{json}\n", self.in_text(before))
    }

    /// In labels and comments: a metric's value is no id.
    fn in_metrics(&self, text: &str) -> String {
        let line = |line: &str| match line.rsplit_once(' ').filter(|_| !line.starts_with('#')) {
            Some((labelled, value)) => format!("{} {value}\n", self.in_text(labelled)),
            None => self.in_text(line) + "\n",
        };
        text.lines().map(line).collect()
    }

    /// In the strings of the value of `field`. A number is no id: they are all strings.
    fn in_json(&self, field: &str, value: &mut Value) {
        let of = &|id: &str| self.of(id);
        match value {
            Value::String(text) if FIELDS.contains(&field) && !text.is_empty() => *text = self.of(text),
            Value::String(text) if topics::FIELDS.contains(&field) => *text = self.topics.in_topic(text, of),
            Value::String(text) => *text = self.in_text(&self.topics.in_log(&self.topics.in_remedy(text, of), of)),
            Value::Array(values) => values.iter_mut().for_each(|value| self.in_json(field, value)),
            Value::Object(fields) => {
                for (field, mut value) in std::mem::take(fields) {
                    self.in_json(&field, &mut value);
                    fields.insert(self.in_text(&field), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn in_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for known in &self.known {
            // Twice, because neighbours share the character between them.
            for _ in 0..2 {
                let replaced = known.replace_all(&text, |found: &Captures<'_>| match found.name("id") {
                    Some(id) => format!("{}{}{}", &found["before"], self.of(id.as_str()), &found["after"]),
                    None => found["time"].to_owned(),
                });
                text = replaced.into_owned();
            }
        }
        if let Some(places) = PLACES.as_ref() {
            let replaced = places.replace_all(&text, |found: &Captures<'_>| {
                let in_words = found.name("is").is_some_and(|is| is.as_str() == " ");
                if in_words && PROSE.contains(&&found["id"]) {
                    return found[0].to_owned();
                }
                let member = found.name("member").map(|member| member.as_str().trim_start_matches('/'));
                let member = match member {
                    None => String::new(),
                    Some(kind @ ("text" | "file")) => format!("/{kind}"),
                    Some(uid) => format!("/{}", self.of(uid)),
                };
                format!("{}{}{member}", &found["before"], self.of(&found["id"]))
            });
            text = replaced.into_owned();
        }
        if let Some(subjects) = SUBJECTS.as_ref() {
            let replaced = subjects
                .replace_all(&text, |found: &Captures<'_>| format!("{}{}", &found["before"], self.of(&found["id"])));
            text = replaced.into_owned();
        }
        text
    }
}

fn object(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudonyms(ids: &[&str]) -> Pseudonyms {
        Pseudonyms::new(&"salt".to_owned().into(), None, ids.iter().map(|id| (*id).to_owned()).collect())
    }

    #[test]
    fn json_stays_json_and_a_number_in_it_a_number() {
        let pseudonyms = Pseudonyms::new(&"salt".to_owned().into(), Some("7"), vec!["json".to_owned(), "7".to_owned()]);
        let status = r#"{"callback": {"rejected": {"uid": 0, "size": 7}}, "from_uid": "77", "uid": "", "of": ["7", "to 7"],
            "members": [{"group_id": "g h"}], "json": true, "at": 1.50, "topic": "ilink/recv/user/77/text"}"#;
        let (ours, theirs) = (pseudonyms.of("7"), pseudonyms.of("77"));
        let wanted = serde_json::json!({
            "callback": {"rejected": {"uid": 0, "size": 7}}, "from_uid": theirs, "uid": "", "of": [ours, format!("to {ours}")],
            "members": [{"group_id": pseudonyms.of("g h")}], (pseudonyms.of("json")): true,
            "topic": format!("ilink/recv/user/{theirs}/text"),
        });
        let replaced = pseudonyms.in_file(status);
        assert!(replaced.contains("\"at\": 1.50"), "{replaced}");
        let mut replaced: Value = serde_json::from_str(&replaced).unwrap();
        replaced.as_object_mut().unwrap().remove("at");
        assert_eq!(replaced, wanted);
        let refused = r#"{"fields": {"topic": "a/zz \"zz\"", "remedy": "topic write a/zz \"zz\"; zz"},
            "message": "publishes to \"a/zz zz\""}"#;
        assert!(!pseudonyms.in_file(refused).contains("zz"));
        // A line of a log that is JSON, among others.
        let log = format!("{}\nuid=77\n", status.replace('\n', ""));
        let lines: Vec<_> = pseudonyms.in_file(&log).lines().map(str::to_owned).collect();
        assert!(object(&lines[0]).is_some() && !lines[0].contains("77"), "{lines:?}");
        assert_eq!(lines[1..], [format!("uid={theirs}")]);
        let journal = format!("2026-12-01T10:00:00+0000 host ilink2mqtt[77]: {}\n", refused.replace('\n', ""));
        let line = pseudonyms.in_file(&journal);
        assert!(line.starts_with("2026-12-01T10:00:00+0000 host ") && !line.contains("zz"), "{line}");
    }

    #[test]
    fn what_is_counted_under_the_name_of_a_field_is_no_id() {
        let pseudonyms = pseudonyms(&["3"]);
        let id = pseudonyms.of("3");
        let counted = "turned away     signature 1, uid 3\n";
        assert_eq!(pseudonyms.in_file(&format!("{counted}user 3\n")), format!("{counted}user {id}\n"));
        let metrics = "# HELP a of 3\na_total{reason=\"uid\"} 3\nb{to=\"3\"} 3\n";
        let wanted = format!("# HELP a of {id}\na_total{{reason=\"uid\"}} 3\nb{{to=\"{id}\"}} 3\n");
        assert_eq!(pseudonyms.in_metrics(metrics), wanted);
    }

    #[test]
    fn what_is_made_of_our_own_uid_does_not_show_it() {
        let pseudonyms = Pseudonyms::new(&"salt".to_owned().into(), Some("11"), vec!["11".to_owned(), "12".to_owned()]);
        let (own, other) = (pseudonyms.of("11"), pseudonyms.of("12"));
        for (text, replaced) in [
            ("client_id = \"ilink2mqtt-11\"  # default", format!("client_id = \"ilink2mqtt-{own}\"  # default")),
            ("prefix = \"/ilink2mqtt/11\"", format!("prefix = \"/ilink2mqtt/{own}\"")),
            ("/etc/11.d/11-key.pem", format!("/etc/{own}.d/{own}-key.pem")),
            ("homeassistant/event/ilink2mqtt_11/message", format!("homeassistant/event/ilink2mqtt_{own}/message")),
            ("11,11 uid-11", format!("{own},{own} uid-{own}")),
            // That of another stands there alone, and times stay times.
            ("a-12 12 2026-11-12", format!("a-12 {other} 2026-11-12")),
            ("11 2026-11-11T11:12:11.11Z 11", format!("{own} 2026-11-11T11:12:11.11Z {own}")),
            ("{\"since\":\"2026-11-30 11:05:12+0011\"", "{\"since\":\"2026-11-30 11:05:12+0011\"".to_owned()),
            ("111 messages, a11b, 1.5", "111 messages, a11b, 1.5".to_owned()),
        ] {
            assert_eq!(pseudonyms.in_text(text), replaced, "{text}");
        }
    }

    #[test]
    fn ids_are_replaced_wherever_they_stand_and_the_same_one_by_the_same() {
        let pseudonyms = pseudonyms(&["413", "4cdad356-85b4-008627", "home/lamp"]);
        let (ann, group, lamp) =
            (pseudonyms.of("413"), pseudonyms.of("4cdad356-85b4-008627"), pseudonyms.of("home/lamp"));
        for (text, replaced) in [
            ("uid 413, 413 and \"413\"", format!("uid {ann}, {ann} and \"{ann}\"")),
            ("ilink/recv/group/4cdad356-85b4-008627/413", format!("ilink/recv/group/{group}/{ann}")),
            ("topic=\"ilink/send/topic/home/lamp\"", format!("topic=\"ilink/send/topic/{lamp}\"")),
            ("4130 messages, 1413 bytes, at 12:41:3", "4130 messages, 1413 bytes, at 12:41:3".to_owned()),
        ] {
            assert_eq!(pseudonyms.in_text(text), replaced, "{text}");
        }
    }

    #[test]
    fn what_nobody_listed_is_found_by_its_place() {
        let pseudonyms = pseudonyms(&[]);
        for text in
            ["ilink/recv/user/77/text", "uid=77 refused", "{\"uid\": \"77\"}", "ilink/presence/77", "group/77/88"]
        {
            let replaced = pseudonyms.in_text(text);
            assert!(!replaced.contains("77") && !replaced.contains("88"), "{replaced}");
            assert_eq!(pseudonyms.in_text(&replaced), replaced, "replacing again changes nothing");
        }
        assert!(pseudonyms.in_text("ilink/recv/user/77/text").ends_with("/text"));
        for text in ["accepted a push for a uid other than ours", "the uid does not exist"] {
            assert_eq!(pseudonyms.in_text(text), text);
        }
    }

    #[test]
    fn another_bridge_has_other_pseudonyms() {
        let other = Pseudonyms::new(&"pepper".to_owned().into(), None, vec![]);
        assert_ne!(other.of("413"), pseudonyms(&[]).of("413"));
    }
}
