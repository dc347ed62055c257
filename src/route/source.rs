//! Where the value in `${…}` comes from.

use std::fmt;

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
}

/// What a rule's templates may use.
#[derive(Debug, Clone)]
pub(super) struct Scope<'a> {
    /// Wildcards of the filter.
    pub(super) levels: usize,
    /// Named groups of the regular expression.
    pub(super) captures: Vec<&'a str>,
    /// Whether there is a sender.
    pub(super) sender: bool,
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
        }
    }
}

impl Source {
    /// Reads what stands in `${…}` before any filter; the error says what is wrong.
    pub(super) fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, String> {
        let source = match text {
            "payload" => Self::Payload,
            "time" => Self::Time,
            "from_uid" if scope.sender => Self::FromUid,
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
    let mut known = vec!["payload", "time", "json:/…"];
    known.extend(scope.sender.then_some("from_uid"));
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
