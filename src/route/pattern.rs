//! What both directions' rules have in common: their patterns, word tables and names.

use regex::{Captures, Regex, RegexBuilder};

use super::filters::wildcards;
use super::rule::Maps;
use super::template::Template;
use super::values::{Scope, Source, Tables};

/// The most memory that one pattern may take, in bytes; a thousand of them must fit a small board.
const PATTERN_SIZE: usize = 1 << 20;
/// The longest name, in characters.
const NAME_MOST: usize = 64;
/// Names of values that a pattern's groups may not take.
const RESERVED: [&str; 3] = ["payload", "from_uid", "time"];

/// A rule's pattern, compiled; the error says what is wrong.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    let regex = regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "match: it is too large a pattern".to_owned(),
        // Several lines that point at the place with ^; the last says what is wrong.
        error => format!("match: {}", error.to_string().trim_end().replace('\n', "\n    ")),
    })?;
    match names(&regex).into_iter().find(|name| RESERVED.contains(name)) {
        Some(name) => Err(format!("match: the group (?<{name}>…) has the name of another value")),
        None => Ok(regex),
    }
}

/// The names of a pattern's groups.
fn names(regex: &Regex) -> Vec<&str> {
    regex.capture_names().flatten().collect()
}

/// The pattern does not match a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoMatch;

/// The part of a rule that says which messages fire it and what their values are.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) filter: String,
    pub(super) pattern: Option<Regex>,
    pub(super) tables: Tables,
    sender: bool,
}

impl Selection {
    pub(super) fn new(filter: &str, pattern: Option<&str>, map: &Maps, sender: bool) -> Result<Self, String> {
        let pattern = pattern.map(compile).transpose()?;
        let mut selection = Self { filter: filter.to_owned(), pattern, tables: Tables::new(), sender };
        for (source, table) in map {
            let parsed = Source::parse(source, &selection.scope()).map_err(|error| format!("map.{source}: {error}"))?;
            selection.tables.insert(parsed, table.clone());
        }
        Ok(selection)
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            levels: wildcards(&self.filter),
            captures: self.pattern.as_ref().map(names).unwrap_or_default(),
            sender: self.sender,
        }
    }

    /// The template at `key`.
    pub(super) fn template(&self, key: &str, text: &str) -> Result<Template, String> {
        Template::parse(text, &self.scope()).map_err(|error| format!("{key}: {error}"))
    }

    /// What the pattern finds in a message, if there is one.
    pub(super) fn captures<'m>(&self, text: Option<&'m str>) -> Result<Option<Captures<'m>>, NoMatch> {
        match &self.pattern {
            None => Ok(None),
            Some(pattern) => text.and_then(|text| pattern.captures(text)).map(Some).ok_or(NoMatch),
        }
    }
}

/// A route's name is a topic level, a word in logs and a key in the health report.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.chars().count() <= NAME_MOST && name.chars().all(fits) {
        return Ok(());
    }
    Err(format!("name: it must be 1 to {NAME_MOST} letters, digits, '-', '_' or '.'"))
}
