//! Reads keys one by one. It collects every problem, and records what was read, to show it and to compare it at the next
//! reload.
//!
//! A section reads all its keys before it fails on any of them. So all problems are reported at once, and every known key has
//! been read by the time the unknown ones are looked for.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

use figment::value::Value;
use secrecy::{ExposeSecret, SecretString};

use super::layers::{ConfigError, Environment, Layers, Problem, Written, cannot_read};
use super::values::{Given, MASK, Setting, any};

/// Where a service manager puts secrets for us.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// A value could not be had; why is with the reader.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed;

/// What the empty string means in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    IsNothing,
    IsAValue,
}

/// Reads keys one by one.
pub(super) struct Reader<'e> {
    layers: Layers,
    environment: &'e Environment,
    known: BTreeSet<String>,
    problems: Vec<Problem>,
    entries: Vec<Entry>,
}

impl<'e> Reader<'e> {
    pub(super) fn new(path: Option<&Path>, environment: &'e Environment) -> Result<Self, ConfigError> {
        Ok(Self::over(Layers::read(path, environment)?, environment))
    }

    pub(super) fn over(layers: Layers, environment: &'e Environment) -> Self {
        Self { layers, environment, known: BTreeSet::new(), problems: Vec::new(), entries: Vec::new() }
    }

    /// A key with a default, written as in a variable.
    pub(super) fn or<T: Setting>(
        &mut self,
        key: &'static str,
        default: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, Failed> {
        match self.written(key, Empty::IsAValue, &check)? {
            Some(value) => Ok(value),
            None => self.read(key, &Given::Untyped(default), Place::Default, &check),
        }
    }

    /// A key that may be left out, or set to the empty string, which is the same.
    pub(super) fn optional<T: Setting>(
        &mut self,
        key: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<Option<T>, Failed> {
        let value = self.written(key, Empty::IsNothing, &check)?;
        if value.is_none() {
            self.entries.push(Entry { key: key.to_owned(), value: Effective::Nothing, place: Place::Default });
        }
        Ok(value)
    }

    /// A key with a default that the empty string switches off.
    pub(super) fn or_off<T: Setting>(&mut self, key: &'static str, default: &str) -> Result<Option<T>, Failed> {
        if self.layers.find(key).is_some() {
            return self.optional(key, any);
        }
        self.or(key, default, any).map(Some)
    }

    /// A key that must be set.
    pub(super) fn required<T: Setting>(
        &mut self,
        key: &'static str,
        wanted: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, Failed> {
        let value = self.written(key, Empty::IsNothing, &check)?;
        value.ok_or_else(|| self.missing(key, wanted))
    }

    /// Notes that a key must be set.
    pub(super) fn missing(&mut self, key: &str, wanted: &str) -> Failed {
        self.fail(Problem::Missing { key: key.to_owned(), wanted: wanted.to_owned() })
    }

    /// A file that must be readable if it is named.
    pub(super) fn file(&mut self, key: &'static str) -> Result<Option<PathBuf>, Failed> {
        self.optional(key, |path: &PathBuf| File::open(path).map(drop).map_err(|error| cannot_read(&error)))
    }

    /// A secret: at its key, in the file that its `_file` twin names, or in the credentials directory.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Option<SecretString>, Failed> {
        let twin = format!("{key}_file");
        let found = self.find_secret(key, &twin)?;
        let value = match &found {
            None => Effective::Nothing,
            Some((secret, place)) => {
                if let Err(wanted) = check(secret.expose_secret()) {
                    let (key, place) = (key.to_owned(), place.clone());
                    return Err(self.fail(Problem::Invalid { key, place, found: None, wanted }));
                }
                Effective::Secret(secret.clone())
            }
        };
        let place = found.as_ref().map_or(Place::Default, |(_, place)| Place::Set(place.clone()));
        self.entries.push(Entry { key: key.to_owned(), value, place });
        Ok(found.map(|(secret, _)| secret))
    }

    fn find_secret(&mut self, key: &str, twin: &str) -> Result<Option<(SecretString, String)>, Failed> {
        let (direct, in_file) = (self.take(key, Empty::IsNothing), self.take(twin, Empty::IsNothing));
        let invalid = |key: &str, place: &Written, found, wanted: &str| Problem::Invalid {
            key: key.to_owned(),
            place: place.name().to_owned(),
            found,
            wanted: wanted.to_owned(),
        };
        match (direct, in_file) {
            (Some((_, direct)), Some((_, in_file))) => Err(self.conflict(format!(
                "{key} ({}) and {twin} ({}) are both set: set one of them",
                direct.name(),
                in_file.name()
            ))),
            (Some((value, place)), None) => match value.as_str() {
                Some(secret) => Ok(Some((secret.into(), place.name().to_owned()))),
                None => Err(self.fail(invalid(key, &place, None, "it must be a string, in quotes"))),
            },
            (None, Some((value, place))) => match value.as_str() {
                // A file that root alone may read is handed to the service by the service manager.
                Some(path) if File::open(path).is_err() => match self.credential(key) {
                    Some(path) => self.secret_file(key, &path, CREDENTIALS).map(Some),
                    None => self.secret_file(twin, Path::new(path), place.name()).map(Some),
                },
                Some(path) => self.secret_file(twin, Path::new(path), place.name()).map(Some),
                None => Err(self.fail(invalid(twin, &place, None, "it must be a path"))),
            },
            (None, None) => match self.credential(key) {
                Some(path) => self.secret_file(key, &path, CREDENTIALS).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The file that the service manager made for this key. An empty line in it stands for a secret that is not there.
    fn credential(&self, key: &str) -> Option<PathBuf> {
        let path = self.environment.path(CREDENTIALS)?.join(key);
        match std::fs::read(&path) {
            Ok(content) => (!content.trim_ascii().is_empty()).then_some(path),
            Err(error) => (error.kind() != std::io::ErrorKind::NotFound).then_some(path),
        }
    }

    /// The content of a file but for the newline at its end.
    fn secret_file(&mut self, key: &str, path: &Path, place: &str) -> Result<(SecretString, String), Failed> {
        let cause = match std::fs::read_to_string(path) {
            Ok(text) => match text.trim_end_matches(['\n', '\r']) {
                "" => "the file is empty".to_owned(),
                lines if lines.contains('\n') => {
                    "the file has more than one line: it must hold the secret and nothing else".to_owned()
                }
                secret => return Ok((secret.into(), path.display().to_string())),
            },
            Err(error) => cannot_read(&error),
        };
        let found = Some(path.display().to_string());
        Err(self.fail(Problem::Invalid { key: key.to_owned(), place: place.to_owned(), found, wanted: cause }))
    }

    /// A section whose keys are not known beforehand, with the place where it is written.
    pub(super) fn section(&mut self, key: &'static str) -> Option<(Value, String)> {
        self.take(key, Empty::IsAValue).map(|(value, place)| (value, place.name().to_owned()))
    }

    /// Notes that values do not go together.
    pub(super) fn conflict(&mut self, message: String) -> Failed {
        self.fail(Problem::Conflict { message })
    }

    /// Where a key is set, as the beginning of what is said of it.
    pub(super) fn place(&self, key: &str) -> String {
        self.layers.find(key).map(|(_, place)| format!("{}: ", place.name())).unwrap_or_default()
    }

    /// All that was read, once every key has been asked for.
    pub(super) fn finish(self) -> Result<Vec<Entry>, ConfigError> {
        let mut problems = self.layers.unknown(&self.known);
        problems.extend(self.problems);
        if problems.is_empty() { Ok(self.entries) } else { Err(ConfigError { problems }) }
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    /// What is written for a key. An empty variable stands for nothing, whatever the file says.
    fn take(&mut self, key: &str, empty: Empty) -> Option<(Value, Written)> {
        self.known.insert(key.to_owned());
        self.layers.find(key).filter(|(value, place)| {
            let nothing = empty == Empty::IsNothing || matches!(place, Written::InVariable(_));
            !(nothing && value.as_str() == Some(""))
        })
    }

    fn written<T: Setting>(
        &mut self,
        key: &str,
        empty: Empty,
        check: &impl Fn(&T) -> Result<(), String>,
    ) -> Result<Option<T>, Failed> {
        let Some((value, place)) = self.take(key, empty) else { return Ok(None) };
        let given = match (&place, &value) {
            (Written::InVariable(_), Value::String(_, text)) => Given::Untyped(text),
            _ => Given::Typed(&value),
        };
        self.read(key, &given, Place::Set(place.name().to_owned()), check).map(Some)
    }

    fn read<T: Setting>(
        &mut self,
        key: &str,
        given: &Given<'_>,
        place: Place,
        check: &impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, Failed> {
        let checked = T::read(given).and_then(|value| check(&value).map(|()| value));
        match checked {
            Ok(value) => {
                let shown = Effective::Shown(value.show());
                self.entries.push(Entry { key: key.to_owned(), value: shown, place });
                Ok(value)
            }
            Err(wanted) => {
                let hidden = given.text().is_some_and(T::may_hold_secret);
                let found = (!hidden).then(|| given.show());
                let place = match place {
                    Place::Default => "default".to_owned(),
                    Place::Set(place) => place,
                };
                Err(self.fail(Problem::Invalid { key: key.to_owned(), place, found, wanted }))
            }
        }
    }

    /// Notes what is wrong.
    pub(super) fn fail(&mut self, problem: Problem) -> Failed {
        self.problems.push(problem);
        Failed
    }
}

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
