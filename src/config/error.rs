//! What can be wrong with a configuration, in words that say what to do. Never with the value of a secret.

use std::fmt;

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
                write!(f, "{key} is not set: {wanted} (in the environment: {})", super::environment::variable(key))
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
