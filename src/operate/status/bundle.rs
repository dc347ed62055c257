//! The content of a bug report: texts that describe the bridge, without message content and secrets, and with pseudonyms for
//! ids.
//!
//! An id has the same pseudonym in all reports of a bridge, so it can be followed. It reveals nothing without the bridge's
//! state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Overview;

/// Files of the report, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bundle {
    files: BTreeMap<String, String>,
    /// Whose messages passed.
    #[serde(skip)]
    met: Vec<String>,
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

    /// Ids that the overview has met.
    #[must_use]
    pub fn met(&self) -> &[String] {
        &self.met
    }

    /// Adds what a running bridge tells of itself, without what was said.
    pub fn add_overview(&mut self, mut overview: Overview) {
        // Who sent it, and what.
        overview.set_aside.clear();
        for message in &mut overview.messages {
            message.content = None;
            self.met.extend([message.from.clone(), message.to.clone()].into_iter().flatten());
        }
        self.add("status.txt", overview.text());
        self.add("status.json", overview.json());
    }

    /// The same with every id replaced.
    #[must_use]
    pub fn with(self, pseudonyms: &Pseudonyms) -> Self {
        let files = self.files.into_iter().map(|(name, text)| (name, pseudonyms.in_text(&text))).collect();
        Self { files, met: Vec::new() }
    }
}

/// What stands for each id.
pub struct Pseudonyms {
    salt: SecretString,
    /// Ids that are known to be some, the longest first: one may be part of another.
    known: Vec<Regex>,
}

/// Where an id stands in a topic, a message or a field: after these words, up to what cannot be in one.
static PLACES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?P<before>\b(?:user|group|presence)/|\b(?:uid|other_uid|to_uid|from_uid|group_id)["']?[ =:]+["']?)(?P<id>[^\s/"',;:)}\]+#]+)(?P<member>/[^\s/"',;:)}\]+#]+)?"#)
        .ok()
});
/// A subject has levels.
static SUBJECTS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?P<before>(?:\b(?:recv|send)/|")topic/)(?P<id>[^\s"',;)}\]]+)"#).ok());

impl Pseudonyms {
    /// For a bridge with this secret, which knows these ids.
    #[must_use]
    pub fn new(secret: &SecretString, ids: impl IntoIterator<Item = String>) -> Self {
        let mut ids: BTreeSet<String> = ids.into_iter().collect();
        ids.remove("");
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_by_key(|id| std::cmp::Reverse(id.len()));
        let whole = |id: &String| {
            let id = regex::escape(id);
            Regex::new(&format!(r"(?P<before>^|[^\w.-])(?P<id>{id})(?P<after>$|[^\w-])")).ok()
        };
        Self { salt: secret.clone(), known: ids.iter().filter_map(whole).collect() }
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

    fn in_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for known in &self.known {
            // Twice, because neighbours share the character between them.
            for _ in 0..2 {
                let replaced = known.replace_all(&text, |found: &Captures<'_>| {
                    format!("{}{}{}", &found["before"], self.of(&found["id"]), &found["after"])
                });
                text = replaced.into_owned();
            }
        }
        if let Some(places) = PLACES.as_ref() {
            let replaced = places.replace_all(&text, |found: &Captures<'_>| {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudonyms(ids: &[&str]) -> Pseudonyms {
        Pseudonyms::new(&"salt".to_owned().into(), ids.iter().map(|id| (*id).to_owned()))
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
    }

    #[test]
    fn another_bridge_has_other_pseudonyms() {
        let other = Pseudonyms::new(&"pepper".to_owned().into(), []);
        assert_ne!(other.of("413"), pseudonyms(&[]).of("413"));
    }
}
