//! `[mqtt]`: the local broker and what is said to it.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::local::Base;
use crate::local::Output;

/// The local broker and what is said to it.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// `mqtt://` or `mqtts://`, host and port (always explicit), nothing else.
    pub broker: Url,
    /// Protocol version.
    pub protocol: MqttProtocol,
    /// Client id.
    pub client_id: String,
    /// User name at the broker.
    pub username: Option<String>,
    /// Password at the broker; never without a user name.
    pub password: Option<SecretString>,
    /// `mqtt.tls`.
    pub tls: MqttTls,
    /// First levels of every topic.
    pub base_topic: Base,
    /// Which form of a message is published.
    pub output: Output,
    /// Globs of the calls that may be made over MQTT.
    pub allow_calls: Vec<String>,
    /// Filters a response topic must match.
    pub response_topics: Vec<String>,
    /// How long the broker keeps commands for an absent bridge; whole seconds.
    pub session_expiry: Duration,
    /// MQTT 3.1.1 only: keep the session although the age of its commands is unknown.
    pub persistent_session: bool,
    /// Largest packet accepted from the broker, in bytes.
    pub max_packet: u32,
}

/// Files of the TLS connection to the broker (PEM).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MqttTls {
    /// Trusted roots instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate; never without its key.
    pub cert: Option<PathBuf>,
    /// Client key; never without its certificate.
    pub key: Option<PathBuf>,
}

/// MQTT's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttProtocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}
