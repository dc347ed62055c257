//! `[names]`: names for users, groups and subjects, and the list of keys whose ids may be names.
//!
//! Names are read from the file only: names are case-sensitive, environment variables are not.

use std::fmt::Write;
use std::sync::Arc;

use figment::value::Value;

use super::layers::Problem;
use super::reader::{Failed, Reader};
use super::values::{Given, Setting, quoted};
use crate::local::{Contact, Nameable, Names};
use crate::protocol::{Qos, Receiver, Subject, Uid};

const ANOTHER: &str = "a name stands for an id, not for another name; an id that itself begins with @ is written @@…";
const ONE_SUBJECT: &str = "a name stands for one subject: it may not contain + or #";
const WANTED: &str = "a name is a uid, such as ann = \"413\", or { group = \"…\" }, or { subject = \"…\" }";

/// Reads all names.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Arc<Names>, Failed> {
    let Some((value, place)) = reader.section("names") else { return Ok(Arc::default()) };
    let invalid = |key: String, found: &Value, wanted: String| Problem::Invalid {
        key,
        place: place.clone(),
        found: Some(Given::Typed(found).show()),
        wanted,
    };
    let Some(entries) = value.as_dict() else {
        return Err(reader.fail(invalid(
            "names".to_owned(),
            &value,
            format!("it must be a table [names] in the file: {WANTED}"),
        )));
    };
    let (mut names, mut failed) = (Names::default(), None);
    for (name, value) in entries {
        let added = target(value).and_then(|target| names.add(name, target));
        if let Err(wanted) = added {
            failed = Some(reader.fail(invalid(format!("names.{}", bare(name)), value, wanted)));
        }
    }
    failed.map_or(Ok(Arc::new(names)), Err)
}

fn target(value: &Value) -> Result<Receiver, String> {
    let wanted = || WANTED.to_owned();
    let (kind, id) = match value.as_dict() {
        None => (None, value),
        Some(table) => {
            let mut keys = table.iter();
            let (Some((kind, id)), None) = (keys.next(), keys.next()) else { return Err(wanted()) };
            (Some(kind.as_str()), id)
        }
    };
    let written = Given::Typed(id).text_or_digits().filter(|id| !id.chars().any(char::is_control));
    let written = written.ok_or_else(wanted)?;
    let id = match written.strip_prefix('@') {
        None => written.as_str(),
        Some(escaped) if escaped.starts_with('@') => escaped,
        Some(_) => return Err(ANOTHER.to_owned()),
    };
    let target = match kind {
        None => id.parse().ok().map(Receiver::User),
        Some("group") => id.parse().ok().map(Receiver::Group),
        Some("subject") => match id.parse::<Subject>() {
            Ok(subject) if !subject.is_publishable() => return Err(ONE_SUBJECT.to_owned()),
            subject => subject.ok().map(Receiver::Subject),
        },
        Some(_) => None,
    };
    target.ok_or_else(wanted)
}

/// A key as TOML has it.
fn bare(name: &str) -> String {
    let is_bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// The names as they would be written.
pub(super) fn describe(names: &Names) -> String {
    let mut text = String::new();
    for (name, target) in names.iter() {
        if text.is_empty() {
            text.push_str("\n[names]\n");
        }
        let escape = if target.as_str().starts_with('@') { "@" } else { "" };
        let (name, id) = (bare(name), quoted(&format!("{escape}{}", target.as_str())));
        // Writing to a string does not fail.
        let _ = match target {
            Receiver::User(_) => writeln!(text, "{name} = {id}"),
            Receiver::Group(_) => writeln!(text, "{name} = {{ group = {id} }}"),
            Receiver::Subject(_) => writeln!(text, "{name} = {{ subject = {id} }}"),
        };
    }
    text
}

/// What is written for an id, which may be a name.
pub(super) trait WithIds: Sized {
    /// The same with the id in place of the name.
    fn with_ids(self, names: &Names) -> Result<Self, String>;
}

fn id<T: Nameable>(written: T, names: &Names) -> Result<T, String> {
    names.named(written.id()).unwrap_or(Ok(written))
}

impl WithIds for Uid {
    fn with_ids(self, names: &Names) -> Result<Self, String> {
        id(self, names)
    }
}

impl WithIds for (Subject, Qos) {
    fn with_ids(self, names: &Names) -> Result<Self, String> {
        Ok((id(self.0, names)?, self.1))
    }
}

impl WithIds for Contact {
    fn with_ids(self, names: &Names) -> Result<Self, String> {
        let id = match self.id {
            Receiver::User(uid) => Receiver::User(id(uid, names)?),
            Receiver::Group(group) => Receiver::Group(id(group, names)?),
            Receiver::Subject(subject) => Receiver::Subject(id(subject, names)?),
        };
        Ok(Self { id, ..self })
    }
}

impl<T: WithIds> WithIds for Vec<T> {
    fn with_ids(self, names: &Names) -> Result<Self, String> {
        self.into_iter().map(|one| one.with_ids(names)).collect()
    }
}

/// A list of ids, in which each may be a name; empty by default.
pub(super) fn list<T>(
    reader: &mut Reader<'_>,
    key: &'static str,
    names: Result<&Names, Failed>,
) -> Result<Vec<T>, Failed>
where
    Vec<T>: Setting + WithIds + Clone,
{
    // Without the names, what is wrong with them was told, and nothing can be said of the ids.
    let check = |written: &Vec<T>| names.map_or(Ok(()), |names| written.clone().with_ids(names).map(drop));
    let written = reader.or(key, "[]", check)?;
    written.with_ids(names?).map_err(|_| Failed)
}
