//! The values that a message offers to templates, and their names in `${…}`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;

use regex::Captures;
use serde_json::Value as Json;

/// Word tables, checked.
pub(super) type Tables = BTreeMap<Source, BTreeMap<String, String>>;

/// A message read as JSON, once for all routes and only if one asks.
#[derive(Debug, Default)]
pub(super) struct Document(OnceCell<Option<Json>>);

impl Document {
    /// That of this message, which is always the same one; none if it is not JSON.
    pub(super) fn of(&self, payload: &[u8]) -> Option<&Json> {
        self.0.get_or_init(|| serde_json::from_slice(payload).ok()).as_ref()
    }
}

/// What a message offers.
pub(super) struct Values<'m> {
    payload: &'m [u8],
    document: &'m Document,
    levels: Vec<Cow<'m, str>>,
    from_uid: Option<&'m str>,
    time: Option<i64>,
    captures: Option<Captures<'m>>,
    tables: Option<&'m Tables>,
    help: Option<String>,
    number: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'v> {
    Bytes(&'v [u8]),
    Text(Cow<'v, str>),
    Json(&'v Json),
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'v> Value<'v> {
    /// As text; the error names its source.
    pub(super) fn text(&self, source: &Source) -> Result<Cow<'v, str>, String> {
        match self {
            Self::Bytes(bytes) => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| format!("${{{source}}} is not text (UTF-8)"))
            }
            Self::Text(text) => Ok(text.clone()),
            Self::Json(Json::String(text)) => Ok(Cow::Borrowed(text)),
            Self::Json(Json::Null) => Err(format!("${{{source}}} is null")),
            Self::Json(json) => Ok(Cow::Owned(json.to_string())),
        }
    }

    /// As a JSON value: what is JSON stays what it is, text becomes a string.
    pub(super) fn json(&self, source: &Source) -> Result<String, String> {
        match self {
            Self::Json(json) => Ok(json.to_string()),
            text => Ok(Json::String(text.text(source)?.into_owned()).to_string()),
        }
    }
}

impl<'m> Values<'m> {
    pub(super) fn new(
        payload: &'m [u8],
        document: &'m Document,
        levels: Vec<Cow<'m, str>>,
        from_uid: Option<&'m str>,
        time: Option<i64>,
    ) -> Self {
        Self { payload, document, levels, from_uid, time, captures: None, tables: None, help: None, number: None }
    }

    /// With what a rule's pattern found and its word tables.
    pub(super) fn of_rule(self, captures: Option<Captures<'m>>, tables: &'m Tables) -> Self {
        Self { captures, tables: Some(tables), ..self }
    }

    /// With what its sender may say.
    pub(super) fn with_help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    /// With the number that a rule reads.
    pub(super) fn with_number(self, number: Option<String>) -> Self {
        Self { number, ..self }
    }

    /// The value of a source, through its word table if it has one; the error says what is missing.
    pub(super) fn get(&self, source: &Source) -> Result<Value<'_>, String> {
        let missing = || format!("there is no ${{{source}}}");
        let value = match source {
            Source::Payload => Value::Bytes(self.payload),
            Source::Level(n) => {
                let level = n.checked_sub(1).and_then(|n| self.levels.get(n)).ok_or_else(missing)?;
                Value::Text(Cow::Borrowed(level))
            }
            Source::Capture(name) => {
                let found = self.captures.as_ref().and_then(|captures| captures.name(name)).ok_or_else(missing)?;
                Value::Text(Cow::Borrowed(found.as_str()))
            }
            Source::Json(pointer) => {
                let document = self.document.of(self.payload);
                let document = document.ok_or_else(|| format!("${{{source}}}: the message is not JSON"))?;
                Value::Json(document.pointer(pointer).ok_or_else(missing)?)
            }
            Source::FromUid => Value::Text(Cow::Borrowed(self.from_uid.ok_or_else(missing)?)),
            Source::Help => {
                let help = self.help.as_deref().ok_or("${help}: no route for this sender has a help")?;
                Value::Text(Cow::Borrowed(help))
            }
            Source::Number => Value::Text(Cow::Borrowed(self.number.as_deref().ok_or_else(missing)?)),
            Source::Time => Value::from(self.time.ok_or_else(missing)?.to_string()),
        };
        match self.tables.and_then(|tables| tables.get(source)) {
            None => Ok(value),
            Some(table) => {
                let word = value.text(source)?;
                let mapped = table.get(word.as_ref()).ok_or_else(|| format!("map.{source} does not have the word"))?;
                Ok(Value::Text(Cow::Borrowed(mapped)))
            }
        }
    }
}

/// What stands in `${…}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The message's bytes.
    Payload,
    /// What a wildcard of the filter stands for, from 1.
    Level(usize),
    /// A named group of the regular expression.
    Capture(String),
    /// A place in the message, which is JSON.
    Json(String),
    /// Who sent the message.
    FromUid,
    /// When, in seconds since the epoch.
    Time,
    /// What the sender may say.
    Help,
    /// The number that the rule reads.
    Number,
}

/// What a rule has to offer its templates, beside what every message has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offers {
    /// There is a sender.
    pub(super) sender: bool,
    /// It can tell what the sender may say.
    pub(super) help: bool,
    /// It reads a number.
    pub(super) number: bool,
}

/// What a rule's templates may use.
#[derive(Debug, Clone)]
pub(super) struct Scope<'a> {
    /// Wildcards of the filter.
    pub(super) levels: usize,
    /// Named groups of the regular expression.
    pub(super) captures: Vec<&'a str>,
    /// What else there is.
    pub(super) offers: Offers,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload => f.write_str("payload"),
            Self::Level(n) => write!(f, "{n}"),
            Self::Capture(name) => f.write_str(name),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::FromUid => f.write_str("from_uid"),
            Self::Time => f.write_str("time"),
            Self::Help => f.write_str("help"),
            Self::Number => f.write_str("value"),
        }
    }
}

impl Source {
    /// Reads what stands in `${…}` before any filter; the error says what is wrong.
    pub(super) fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, String> {
        let source = match text {
            "payload" => Self::Payload,
            "time" => Self::Time,
            "help" if scope.offers.help => Self::Help,
            "value" if scope.offers.number => Self::Number,
            "from_uid" if scope.offers.sender => Self::FromUid,
            "from_uid" => return Err("${from_uid} is known of messages from iLink only".to_owned()),
            _ => match (text.strip_prefix("json:"), text.parse::<usize>()) {
                (Some(pointer), _) if pointer.is_empty() || pointer.starts_with('/') => Self::Json(pointer.to_owned()),
                (Some(_), _) => {
                    return Err(format!("${{{text}}}: a JSON pointer begins with a slash, as in json:/a/b"));
                }
                (None, Ok(n)) if (1..=scope.levels).contains(&n) => Self::Level(n),
                (None, Ok(_)) => {
                    return Err(format!("${{{text}}}: the filter has {} wildcards, counted from 1", scope.levels));
                }
                (None, Err(_)) if scope.captures.contains(&text) => Self::Capture(text.to_owned()),
                (None, Err(_)) => return Err(unknown(text, scope)),
            },
        };
        Ok(source)
    }
}

fn unknown(text: &str, scope: &Scope<'_>) -> String {
    if text == "help" {
        return "${help} is for the reply of [[route.otherwise]]".to_owned();
    }
    if text == "value" {
        return "${value} is for to_ilink routes that have value, round, above or below".to_owned();
    }
    let mut known = vec!["payload", "time", "json:/…"];
    known.extend(scope.offers.sender.then_some("from_uid"));
    known.extend(scope.offers.help.then_some("help"));
    known.extend(scope.offers.number.then_some("value"));
    known.extend(scope.captures.iter().copied());
    let nearest = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(name, text), *name))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let capture = match (scope.captures.as_slice(), nearest) {
        (_, Some((_, name))) => format!("did you mean ${{{name}}}?"),
        ([], None) => format!("match has no group (?<{text}>…), which would give it"),
        (captures, None) => format!("the groups of match are {}", captures.join(", ")),
    };
    format!("there is no value ${{{text}}}; {capture}")
}
