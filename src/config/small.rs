//! The sections of a few keys each: `[inbound]`, `[outbound]`, `[spool]`, `[admin]`, `[homeassistant]`, `[log]`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;

use crate::protocol::Uid;

/// What is done with pushes.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Older messages are not published raw; `None`: no limit.
    pub raw_max_age: Option<Duration>,
    /// Whose messages are published raw; empty: everybody's.
    pub allow_from: Vec<Uid>,
}

/// What is done with commands.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// How long a command without its own expiry waits.
    pub ttl: Duration,
    /// What is done after an ambiguous attempt.
    pub ambiguous: Ambiguous,
    /// How many lanes call at once; at least 1.
    pub concurrency: usize,
    /// Calls started in a second; `None`: no limit.
    pub rate_per_s: Option<NonZeroU32>,
    /// Largest content of a command, in bytes.
    pub max_content: usize,
}

/// What is done after an attempt of which nobody knows whether it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Try again: at least once.
    Retry,
    /// Report `uncertain`: at most once.
    Report,
}

/// The durable queues.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Bytes kept in each direction.
    pub max_bytes: u64,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address of the listener; `None`: off.
    pub listen: Option<SocketAddr>,
    /// Needed by everybody but `/healthz` off loopback; always there when `listen` is not loopback.
    pub token: Option<SecretString>,
    /// Host names accepted besides loopback's.
    pub hosts: Vec<String>,
    /// Whether the status page shows message contents.
    pub show_content: bool,
}

/// Home Assistant discovery: not in this version, except for where its topics are.
#[derive(Debug, Clone)]
pub struct HomeAssistant {
    /// First levels of Home Assistant's discovery topics, which are never a response topic.
    pub discovery_prefix: String,
}

/// What is logged.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// Least severe level that is logged.
    pub level: LevelFilter,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
