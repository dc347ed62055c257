//! What was read, key by key: for showing it, and for comparing it with what is read later.

use std::fmt::Write;

use secrecy::{ExposeSecret, SecretString};

use super::values::MASK;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody set it.
    Default,
    /// A file, a variable or a credential, as text.
    Set(String),
}

/// What a key is set to.
#[derive(Debug, Clone)]
pub(super) enum Effective {
    /// Nothing.
    Nothing,
    /// This, as TOML.
    Shown(String),
    /// A secret.
    Secret(SecretString),
}

impl PartialEq for Effective {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Shown(one), Self::Shown(other)) => one == other,
            (Self::Secret(one), Self::Secret(other)) => one.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

/// One key's part of the report.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Effective,
    pub(super) place: Place,
}

/// Keys whose changes take effect on SIGHUP.
const RELOADED: [&str; 7] = [
    "log.level",
    "ilink.subscribe.topics",
    "ilink.subscribe.presence",
    "inbound.allow_from",
    "callback.public_url",
    "callback.tls.cert",
    "callback.tls.key",
];

/// The effective configuration, section by section.
pub(super) fn describe(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut section = "";
    for entry in entries {
        let (in_section, key) = entry.key.split_once('.').unwrap_or(("", &entry.key));
        if in_section != section {
            let _ = write!(text, "\n[{in_section}]\n");
            section = in_section;
        }
        let value = match &entry.value {
            Effective::Nothing => {
                let _ = writeln!(text, "# {key} is not set");
                continue;
            }
            Effective::Shown(value) => value.clone(),
            Effective::Secret(_) => format!("\"{MASK}\""),
        };
        let _ = match &entry.place {
            Place::Default => writeln!(text, "{key} = {value}  # default"),
            Place::Set(place) => writeln!(text, "{key} = {value}  # {place}"),
        };
    }
    text
}

/// The keys that differ and that only a restart can change.
pub(super) fn restart_needed(old: &[Entry], new: &[Entry]) -> Vec<String> {
    let changed = |entry: &&Entry| new.iter().all(|other| other.key != entry.key || other.value != entry.value);
    let fixed = |entry: &&Entry| !RELOADED.contains(&entry.key.as_str());
    old.iter().filter(fixed).filter(changed).map(|entry| entry.key.clone()).collect()
}
