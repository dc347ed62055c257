//! The file and, over it, the environment: what was written, before anything is known about keys.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::environment::{Environment, FILE, variable};
use super::error::{ConfigError, Problem};

/// Where the file is looked for when nobody says.
const DEFAULT_PATHS: [&str; 2] = ["/etc/ilink2mqtt/config.toml", "./config.toml"];

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
            values.push((key, value.to_owned()));
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

    /// What is written for keys that do not exist.
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
        for (name, key) in self.variables.iter().filter(|(_, key)| !known.contains(key)) {
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
        let what = if missing { "there is no value where one must be" } else { error.message() };
        let cause = format!("line {}: {}", line + 1, what.replace('\n', "; "));
        Problem::File { path: name.to_owned(), cause }
    })
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

/// The key or section most like this one: as a whole, or by its last part (for a key in the wrong section).
fn nearest<'a>(key: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |other: &str| {
        let whole = strsim::normalized_damerau_levenshtein(key, other);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(&last(key), &last(other)))
    };
    let all = known.iter().map(String::as_str).chain(sections(known));
    all.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
}
