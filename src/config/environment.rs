//! The process environment as a plain value, so that loading is a function of its arguments.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

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
