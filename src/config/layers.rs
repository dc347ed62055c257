//! The layers of a configuration: the file, and the environment over it, before any key has a meaning. Also [`Problem`]: what can
//! be wrong with a configuration, in words that say what to do and never with the value of a secret.
//!
//! The process environment is passed in as a plain value, so loading depends on its arguments alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

/// Where the file is looked for when nobody says.
const DEFAULT_PATHS: [&str; 2] = ["/etc/ilink2mqtt/config.toml", "./config.toml"];

/// Sections that no variable can set: names are case-sensitive, and routes are lists of tables.
const FILE_ONLY: [(&str, &str); 2] = [("names", "[names]"), ("route", "[[route.…]]")];

/// The section of a key, if no variable can set it.
fn file_only(key: &str) -> Option<&'static str> {
    FILE_ONLY.iter().find(|(section, _)| key.split('.').next() == Some(section)).map(|(_, shown)| *shown)
}

/// What was written, wherever.
pub(super) struct Layers {
    figment: Figment,
    file: Option<(String, Dict)>,
    /// Names of variables and the keys they stand for.
    variables: Vec<(String, String)>,
}

/// Where a value was written.
pub(super) enum Written {
    /// In the file, whose name this is.
    InFile(String),
    /// In a variable, whose name this is.
    InVariable(String),
}

impl Written {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::InFile(name) | Self::InVariable(name) => name,
        }
    }
}

impl Layers {
    /// Reads the file and the environment.
    pub(super) fn read(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let file = match path.map(Path::to_owned).or_else(|| environment.path(FILE)) {
            Some(path) => Some(read_file(&path)?),
            None => first_default()?,
        };
        Self::over(file, environment)
    }

    /// A text that is no file yet, and nothing over it.
    pub(super) fn of_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        Self::over(Some((name.to_owned(), parse(name, text)?)), &Environment::default())
    }

    fn over(file: Option<(String, Dict)>, environment: &Environment) -> Result<Self, ConfigError> {
        let mut variables = Vec::new();
        let mut values = Vec::new();
        for (name, key, value) in environment.keys() {
            let value = value.to_str().ok_or_else(|| Problem::File {
                path: name.to_owned(),
                cause: "the variable's value is not UTF-8".to_owned(),
            })?;
            variables.push((name.to_owned(), key.clone()));
            if file_only(&key).is_none() {
                values.push((key, value.to_owned()));
            }
        }
        let mut figment = Figment::new();
        if let Some((name, table)) = &file {
            let metadata = Metadata::from("file", Source::File(PathBuf::from(name)));
            figment = figment.merge(Layer { metadata, table: table.clone() });
        }
        for (key, value) in values {
            let table = figment::util::nest(&key, value.into()).into_dict().unwrap_or_default();
            figment = figment.merge(Layer { metadata: Metadata::named("environment"), table });
        }
        Ok(Self { figment, file, variables })
    }

    /// What is written for a key.
    pub(super) fn find(&self, key: &str) -> Option<(Value, Written)> {
        let value = self.figment.find_value(key).ok()?;
        let written = match self.figment.get_metadata(value.tag()).and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::File(name)) => Written::InFile(name.to_string_lossy().into_owned()),
            _ => Written::InVariable(variable(key)),
        };
        Some((value, written))
    }

    /// What is written for keys that do not exist, and in variables for what only the file sets.
    pub(super) fn unknown(&self, known: &BTreeSet<String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some((name, table)) = &self.file {
            let mut keys = Vec::new();
            collect_unknown("", table, known, &mut keys);
            problems.extend(keys.into_iter().map(|key| {
                let nearest = nearest(&key, known).map(str::to_owned);
                Problem::Unknown { key, place: name.clone(), nearest }
            }));
        }
        for (name, key) in &self.variables {
            if let Some(section) = file_only(key) {
                let message = format!("environment: {name}: {section} can only be set in the file");
                problems.push(Problem::Conflict { message });
                continue;
            }
            if known.contains(key) {
                continue;
            }
            let nearest = nearest(key, known).map(variable);
            problems.push(Problem::Unknown { key: name.clone(), place: "environment".to_owned(), nearest });
        }
        problems
    }
}

/// One provider: a table and where it is from.
struct Layer {
    metadata: Metadata,
    table: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.table.clone()))
    }
}

fn read_file(path: &Path) -> Result<(String, Dict), Problem> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::File { path: name.clone(), cause: cannot_read(&error) })?;
    let table = parse(&name, &text)?;
    Ok((name, table))
}

fn parse(name: &str, text: &str) -> Result<Dict, Problem> {
    // Not the error's own text: that quotes the line, which may hold a secret.
    toml::from_str::<Dict>(text).map_err(|error| {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map_or(0, |before| before.matches('\n').count());
        // It has no good words for a value that is missing altogether.
        let missing = text.lines().nth(line).is_some_and(|line| line.trim_end().ends_with('='));
        let what = match error.message() {
            _ if missing => "there is no value where one must be".to_owned(),
            "duplicate key" => twice(text, line, error.span().and_then(|span| text.get(span)).unwrap_or_default()),
            message => message.replace('\n', "; "),
        };
        let cause = format!("line {}: {what}", line + 1);
        Problem::File { path: name.to_owned(), cause }
    })
}

/// What is wrong in the line of this number, counted from 0, where `key` stands again.
fn twice(text: &str, line: usize, key: &str) -> String {
    let lines: Vec<_> = text.lines().take(line + 1).map(str::trim).collect();
    let is_header = |line: &str| line.starts_with('[');
    let first = match lines.split_last() {
        Some((last, before)) if is_header(last) => before.iter().position(|line| line == last),
        Some((_, before)) => {
            let section = before.iter().rposition(|line| is_header(line)).map_or(0, |header| header + 1);
            let sets = |line: &&str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
            before.iter().skip(section).position(sets).map(|line| section + line)
        }
        None => None,
    };
    let first = first.map(|line| format!(", first in line {}", line + 1)).unwrap_or_default();
    format!("{key} stands here a second time (duplicate key){first}: leave one of them")
}

pub(super) fn cannot_read(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("the file cannot be read: {error}: run this as root (sudo), or let this user read it")
        }
        _ => format!("the file cannot be read: {error}"),
    }
}

fn first_default() -> Result<Option<(String, Dict)>, Problem> {
    match DEFAULT_PATHS.iter().map(Path::new).find(|path| path.try_exists().unwrap_or(true)) {
        Some(path) => read_file(path).map(Some),
        None => Ok(None),
    }
}

fn collect_unknown(section: &str, table: &Dict, known: &BTreeSet<String>, unknown: &mut Vec<String>) {
    for (name, value) in table {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        if known.contains(&key) {
            continue;
        }
        let is_section = sections(known).any(|section| section == key);
        match value {
            Value::Dict(_, inner) if is_section => collect_unknown(&key, inner, known, unknown),
            _ => unknown.push(key),
        }
    }
}

fn sections(known: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    known.iter().flat_map(|key| key.match_indices('.').filter_map(|(dot, _)| key.get(..dot)))
}

/// What is less like it is not what was meant.
const LIKE: f64 = 0.5;

/// The key or section most like this one: as a whole, or by its last part (for a key in the wrong section).
fn nearest<'a>(key: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |other: &str| {
        let whole = strsim::normalized_damerau_levenshtein(key, other);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(&last(key), &last(other)))
    };
    let all = known.iter().map(String::as_str).chain(sections(known));
    all.filter(|other| likeness(other) >= LIKE).max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
}

/// Every variable of the bridge's own starts with this.
pub(super) const PREFIX: &str = "ILINK2MQTT_";
/// Where the file is; a variable with the prefix that is no key.
pub(super) const FILE: &str = "ILINK2MQTT_CONFIG";

/// Environment variables: the process's own, or made up by a test.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The variables of this process. One whose name is not UTF-8 is none of ours.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// The value of any variable, such as the service manager's; an empty one counts as not set.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.get(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// As [`Self::get`], as a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The variables that are keys: their names, the keys they stand for, and their values, empty ones included.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, String, &OsStr)> {
        self.0.iter().filter(|(name, _)| name.as_str() != FILE).filter_map(|(name, value)| {
            let key = name.strip_prefix(PREFIX)?.replace("__", ".").to_ascii_lowercase();
            Some((name.as_str(), key, value.as_os_str()))
        })
    }
}

/// The variable that stands for a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The configuration cannot be used: everything that is wrong with it, so that one reading is enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// What is wrong; never empty.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The file cannot be read, or is not TOML.
    File {
        /// Which.
        path: String,
        /// Why, with the line if there is one.
        cause: String,
    },
    /// A key that does not exist.
    Unknown {
        /// As it was written.
        key: String,
        /// The file or the variable.
        place: String,
        /// The nearest key that exists, as it would be written in that place.
        nearest: Option<String>,
    },
    /// A key that must be set and is not.
    Missing {
        /// Which.
        key: String,
        /// What belongs there.
        wanted: String,
    },
    /// A value that is not allowed.
    Invalid {
        /// Whose.
        key: String,
        /// The file or the variable.
        place: String,
        /// What was found, unless it is a secret.
        found: Option<String>,
        /// What is allowed.
        wanted: String,
    },
    /// Values that do not go together.
    Conflict {
        /// Which, and what to do.
        message: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, cause } => write!(f, "{path}: {cause}"),
            Self::Unknown { key, place, nearest } => {
                write!(f, "{place}: there is no key {key}")?;
                nearest.as_ref().map_or(Ok(()), |nearest| write!(f, "; did you mean {nearest}?"))
            }
            Self::Missing { key, wanted } => {
                write!(f, "{key} is not set: {wanted} (in the environment: {})", variable(key))
            }
            Self::Invalid { key, place, found: Some(found), wanted } => {
                write!(f, "{place}: {key} = {found} is not valid: {wanted}")
            }
            Self::Invalid { key, place, found: None, wanted } => {
                write!(f, "{place}: the value of {key} is not valid: {wanted}")
            }
            Self::Conflict { message } => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_each_others_inverse() {
        for key in ["state_dir", "ilink.secretkey_file", "ilink.tls.ca", "mqtt.base_topic"] {
            let environment: Environment = [(variable(key), "x")].into_iter().collect();
            assert_eq!(environment.keys().map(|(_, key, _)| key).collect::<Vec<_>>(), [key]);
        }
        assert_eq!(variable("ilink.tls.ca"), "ILINK2MQTT_ILINK__TLS__CA");
    }

    #[test]
    fn the_files_path_and_other_programs_variables_are_no_keys() {
        let environment: Environment = [(FILE, "/x"), ("HOME", "/root")].into_iter().collect();
        assert_eq!(environment.keys().count(), 0);
    }

    #[test]
    fn debug_shows_no_values() {
        let environment: Environment = [("ILINK2MQTT_ILINK__SECRETKEY", "hunter2hunter2")].into_iter().collect();
        assert!(!format!("{environment:?}").contains("hunter2"));
    }
}
