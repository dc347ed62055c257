//! The configuration: TOML file, environment and credentials become one checked value, [`Config`].
//!
//! `main` loads it, `app` hands its plain values to the parts, which do not know this module. Every key has one getter call
//! in one section's file: with it come the key's type, range, default and place in [`Config::describe`], and what has no such
//! call is an unknown key. Nothing is ever written, and no secret is ever shown.

mod callback;
mod environment;
mod error;
mod ilink;
mod mqtt;
mod small;
mod values;

use std::path::{Path, PathBuf};

pub use callback::{Callback, CallbackTls, Register, Repeats};
pub use environment::Environment;
pub use error::{ConfigError, Problem};
pub use ilink::Ilink;
pub use mqtt::{Mqtt, MqttProtocol, MqttTls};
pub use small::{Admin, Ambiguous, HomeAssistant, Inbound, Log, LogFormat, Outbound, SpoolLimits};
pub use values::MaskedUrl;

/// The effective configuration, valid as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where identity, token, spool and control socket are.
    pub state_dir: PathBuf,
    /// The account at iLink.
    pub ilink: Ilink,
    /// The listener that iLink pushes to.
    pub callback: Callback,
    /// What is done with pushes.
    pub inbound: Inbound,
    /// The local broker.
    pub mqtt: Mqtt,
    /// What is done with commands.
    pub outbound: Outbound,
    /// The durable queues.
    pub spool: SpoolLimits,
    /// The admin listener.
    pub admin: Admin,
    /// Home Assistant discovery.
    pub homeassistant: HomeAssistant,
    /// What is logged.
    pub log: Log,
    warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration: the file at `path`, else the one that `ILINK2MQTT_CONFIG` names, else the first of the
    /// default paths that exists, else none; then what the environment says otherwise.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let _ = (path, environment);
        Err(Problem::Conflict { message: "the configuration cannot be loaded yet".to_owned() }.into())
    }

    /// What is allowed but unwise: one line each, to be logged as WARN at start.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The effective configuration as TOML-like text, with where each value came from and secrets masked.
    #[must_use]
    pub fn describe(&self) -> String {
        String::new()
    }
}
