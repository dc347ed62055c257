//! Where log lines go: standard error, as text or as one JSON object a line, at a level that can be changed.
//!
//! Only this program's own lines follow `log.level` below WARN: the libraries' are about their own insides, and might show
//! a URL that holds a token.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes the level of a running program.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// From now on, log from this level on. Without effect once the subscriber is gone.
    pub fn set(&self, level: LevelFilter) {
        let _ = self.0.reload(filter(level));
    }
}

/// The program logs already.
#[derive(Debug, thiserror::Error)]
#[error("logging has been set up before")]
pub struct AlreadySetUp;

/// Starts logging to standard error.
///
/// # Errors
///
/// If something else in this process did so before.
pub fn start(log: Log) -> Result<LogLevel, AlreadySetUp> {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().map_err(|_| AlreadySetUp)?;
    Ok(LogLevel(handle))
}

fn filter(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_CRATE_NAME"), level)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_level_is_the_programs_own_and_libraries_never_get_beyond_warn() {
        let chatty = filter(LevelFilter::TRACE);
        assert!(chatty.would_enable("ilink2mqtt::cloud::client", &Level::TRACE));
        assert!(chatty.would_enable("rumqttc", &Level::WARN) && !chatty.would_enable("rumqttc", &Level::INFO));
        let quiet = filter(LevelFilter::ERROR);
        assert!(!quiet.would_enable("ilink2mqtt", &Level::WARN) && !quiet.would_enable("rumqttc", &Level::WARN));
    }
}
