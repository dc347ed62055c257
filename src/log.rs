//! Where log lines go: standard error, as text or as one JSON object a line, at a level that can be changed.
//!
//! Only this program's own lines follow `log.level` below WARN: the libraries' are about their own insides, and might show
//! a URL that holds a token. The MQTT library's are never shown: it logs whole packets that it does not expect, and the link
//! explains by itself what went wrong.
//!
//! A panic is a line of the log like any other, without the text that was made for it: that may quote anything.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::HashSet;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rumqttc", LevelFilter::OFF)
        .with_target(env!("CARGO_CRATE_NAME"), level)
}

/// From now on, a panic anywhere in this process is one ERROR that says where, with the backtrace after it if
/// `RUST_BACKTRACE` asks for one.
pub fn panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = describe(info);
        if tracing::dispatcher::has_been_set() {
            tracing::error!("{text}");
        } else {
            eprintln!("ilink2mqtt: {text}");
        }
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
    }));
}

/// A panic's message is told only if it is a literal of the program's: a message made of values may hold a secret or what
/// somebody wrote.
fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let message = info.payload().downcast_ref::<&'static str>().map(|literal| format!(": {literal}"));
    format!("a fault in the program itself, at {place}{}; please report it", message.unwrap_or_default())
}

/// As much of a stranger's text, a topic say, as belongs into a line.
#[must_use]
pub fn clipped(text: &str) -> String {
    const SHOWN: usize = 200;
    text.chars().take(SHOWN).collect()
}

/// Lets one line a minute pass, for what strangers can cause as often as they like.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    const EVERY: Duration = Duration::from_mins(1);

    /// Whether it may be said again.
    pub fn may(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= Self::EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// Lets ten lines a minute pass, and counts those it holds back: for what is of interest each time, but not thousands of times.
#[derive(Debug, Default)]
pub struct Few(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    began: Option<Instant>,
    lines: u32,
    held_back: u64,
}

impl Few {
    const LINES: u32 = 10;
    const PERIOD: Duration = Duration::from_mins(1);

    /// Whether to log now; then, how many lines were held back since the last one.
    pub fn line(&self) -> Option<u64> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<u64> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.began.is_none_or(|began| now.duration_since(began) >= Self::PERIOD) {
            (minute.began, minute.lines) = (Some(now), 0);
        }
        if minute.lines == Self::LINES {
            minute.held_back += 1;
            return None;
        }
        minute.lines += 1;
        Some(std::mem::take(&mut minute.held_back))
    }
}

/// Lets one line pass for each thing, for a bounded number of things.
#[derive(Debug, Default)]
pub struct SaidOnce(Mutex<HashSet<String>>);

impl SaidOnce {
    const AT_MOST: usize = 100;

    /// Whether there is anything to say about `what`.
    pub fn is_new(&self, what: String) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < Self::AT_MOST && said.insert(what)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_level_is_the_programs_own_and_libraries_never_get_beyond_warn() {
        let chatty = filter(LevelFilter::TRACE);
        assert!(chatty.would_enable("ilink2mqtt::cloud::client", &Level::TRACE));
        assert!(chatty.would_enable("hyper", &Level::WARN) && !chatty.would_enable("hyper", &Level::INFO));
        assert!(!chatty.would_enable("rumqttc::v5::state", &Level::ERROR), "it logs whole packets");
        let quiet = filter(LevelFilter::ERROR);
        assert!(!quiet.would_enable("ilink2mqtt", &Level::WARN) && !quiet.would_enable("hyper", &Level::WARN));
    }

    #[test]
    fn ten_lines_a_minute_and_the_next_one_tells_of_the_rest() {
        let (few, start) = (Few::default(), Instant::now());
        let lines: Vec<_> = (0..1000).filter_map(|n| few.line_at(start + Duration::from_millis(n))).collect();
        assert_eq!(lines, [0; 10]);
        assert_eq!(few.line_at(start + Few::PERIOD), Some(990));
        assert_eq!(few.line_at(start + Few::PERIOD), Some(0));
    }

    #[test]
    fn what_is_said_seldom_is_said_once_a_minute() {
        let seldom = Seldom::default();
        assert_eq!([seldom.may(), seldom.may(), seldom.may()], [true, false, false]);
        *seldom.0.lock().unwrap() = Instant::now().checked_sub(Seldom::EVERY);
        assert!(seldom.may());
        let said = SaidOnce::default();
        assert_eq!((0..1000).filter(|n| said.is_new((n % 200).to_string())).count(), SaidOnce::AT_MOST);
    }
}
