//! Loading, from a file and an environment made up for each test.

mod acl;
mod cluster;
mod errors;
mod example;
mod loading;
mod names;
mod routes;
mod schema;
mod secrets;
mod values;

use std::path::PathBuf;

use super::{Config, ConfigError, Environment};

/// The least that must be said, as variables.
const LEAST: [(&str, &str); 4] = [
    ("ILINK2MQTT_ILINK__APPKEY", "app-1"),
    ("ILINK2MQTT_ILINK__SECRETKEY", "hunter2-ilink"),
    ("ILINK2MQTT_ILINK__UID", "414"),
    ("ILINK2MQTT_CALLBACK__PUBLIC_URL", "https://bridge.example.org/a"),
];

/// A directory with a `config.toml` in it, which no test shares.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(toml: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.put("config.toml", toml);
        place
    }

    fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(Some(&self.file()), &variables.iter().copied().collect())
    }
}

/// Loads a file's text and the least that must be said.
fn load(toml: &str) -> Result<Config, ConfigError> {
    Place::new(toml).load(&LEAST)
}

/// Loads an empty file, the least that must be said, and these variables.
fn load_variables(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Place::new("").load(&[&LEAST[..], variables].concat())
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}
