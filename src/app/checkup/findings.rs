//! What the steps share: their outcomes, and the identity of this bridge.

use secrecy::{ExposeSecret as _, SecretString};

use crate::cli::EXIT_UNAVAILABLE;
use crate::config::Config;
use crate::operate::control::Answer;

/// How well a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::app) enum Level {
    Ok,
    /// It may be all right, or be one day's trouble.
    Warn,
    /// The bridge cannot work like this.
    Fail,
}

/// What came of one step.
#[derive(Debug)]
pub(in crate::app) struct Finding {
    pub(super) level: Level,
    pub(super) step: &'static str,
    pub(super) text: String,
}

/// All of them, in order.
#[derive(Debug, Default)]
pub(in crate::app) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, level: Level, step: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level, step, text: text.into() });
    }

    pub(super) fn ok(&mut self, step: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, step, text);
    }

    pub(super) fn warn(&mut self, step: &'static str, text: impl Into<String>) {
        self.add(Level::Warn, step, text);
    }

    pub(super) fn fail(&mut self, step: &'static str, text: impl Into<String>) {
        self.add(Level::Fail, step, text);
    }

    /// One line for each, and the exit code.
    pub(in crate::app) fn answer(&self) -> Answer {
        let line = |Finding { level, step, text }: &Finding| {
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            // Some of it is the words of others.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("{level:<6}{step:<13}{text}")
        };
        let failed = self.0.iter().any(|finding| finding.level == Level::Fail);
        let lines: Vec<_> = self.0.iter().map(line).collect();
        Answer { exit: if failed { EXIT_UNAVAILABLE } else { 0 }, text: lines.join("\n") }
    }
}

/// Who we are at the callback.
pub(super) enum Us {
    /// A bridge runs on this state directory.
    Running {
        /// Its callback URL with the secret.
        url: SecretString,
    },
    /// None does; the callback URL that the next will register, if the state directory has its secret already.
    Stopped { url: Option<SecretString> },
    /// The state directory is not ours to look into.
    Unknown,
}

/// All addresses of the broker.
pub(super) fn brokers(config: &Config) -> impl Iterator<Item = &url::Url> {
    std::iter::once(&config.mqtt.broker).chain(&config.mqtt.other_brokers)
}

/// What nobody else uses by chance.
pub(super) fn random() -> String {
    let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    format!("self_test-{random:016x}")
}

/// The callback URL to ask iLink about.
pub(super) fn callback_url(config: &Config, us: &Us) -> SecretString {
    match us {
        Us::Running { url } | Us::Stopped { url: Some(url) } => url.expose_secret().to_owned().into(),
        Us::Stopped { url: None } | Us::Unknown => config.callback_url(&random().into()),
    }
}
