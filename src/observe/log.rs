//! Where log lines go: to standard error, as text or as one JSON object a line, at a level that can be changed.
//!
//! Below WARN, `log.level` is for this program's own lines alone: the libraries' lines are about their internals, and
//! might contain a URL with a token. The MQTT library's lines are never shown. It logs whole packets that it does not
//! expect, and the link reports its own errors.
//!
//! Where the journal reads, each line begins with its priority, as `systemd` wants it (`sd-daemon(3)`), and a text line
//! has neither time nor colour: the journal has its own.
//!
//! A panic is logged like any other line, without its message, which may quote anything.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::{HashSet, VecDeque};
use std::fmt as std_fmt;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{self, FmtContext};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat};
use crate::os::lock;

/// Changes the level of a running program, and has its last lines.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: reload::Handle<Targets, Registry>,
    recent: Recent,
}

impl LogLevel {
    /// From now on, log from this level on. Without effect once the subscriber is gone.
    pub fn set(&self, level: LevelFilter) {
        let _ = self.handle.reload(filter(level));
    }

    /// The last lines.
    #[must_use]
    pub fn recent(&self) -> Recent {
        self.recent.clone()
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
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal() && !journal);
    let lines = match log.format {
        LogFormat::Text if journal => lines.event_format(Lines::new(fmt::format().without_time(), journal)).boxed(),
        LogFormat::Text => lines.event_format(Lines::new(fmt::format(), journal)).boxed(),
        LogFormat::Json => {
            let json = Lines { own: fmt::format().json().flatten_event(true), foreign: None, journal };
            lines.fmt_fields(JsonFields::new()).event_format(json).boxed()
        }
    };
    let recent = Recent::default();
    let writer = recent.clone();
    let kept = fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .event_format(Lines::new(fmt::format(), false));
    let lines = lines.and_then(kept).with_filter(filter);
    tracing_subscriber::registry().with(lines).try_init().map_err(|_| AlreadySetUp)?;
    Ok(LogLevel { handle, recent })
}

fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rumqttc", LevelFilter::OFF)
        .with_target(env!("CARGO_CRATE_NAME"), level)
}

/// How a line is written.
struct Lines<F> {
    /// The program's own.
    own: F,
    /// A library's, if they are written otherwise.
    foreign: Option<F>,
    journal: bool,
}

impl<F, T> Lines<fmt::format::Format<F, T>>
where
    fmt::format::Format<F, T>: Clone,
{
    /// The program's own lines say by themselves what they are about; a library's need its name.
    fn new(format: fmt::format::Format<F, T>, journal: bool) -> Self {
        Self { own: format.clone().with_target(false), foreign: Some(format), journal }
    }
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std_fmt::Result {
        let metadata = event.metadata();
        if self.journal {
            write!(writer, "<{}>", priority(*metadata.level()))?;
        }
        let is_own = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
        let format = self.foreign.as_ref().filter(|_| !is_own).unwrap_or(&self.own);
        format.format_event(context, writer, event)
    }
}

/// The journal's number for a level (`syslog(3)`).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether standard error is the journal: `systemd` names the stream it has set up (`systemd.exec(5)`), which a child whose
/// output goes elsewhere inherits too.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let (Ok(device), Ok(inode)) = (device.parse::<u64>(), inode.parse::<u64>()) else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|file| (file.st_dev, file.st_ino) == (device, inode))
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
    format!("a bug in the program, at {place}{}; please report it", message.unwrap_or_default())
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
        let mut last = lock(&self.0);
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
        let mut minute = lock(&self.0);
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
        let mut said = lock(&self.0);
        said.len() < Self::AT_MOST && said.insert(what)
    }
}

/// What is kept at most, in lines and in bytes.
const LINES: usize = 500;
const BYTES: usize = 128 * 1024;

/// The last lines; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Recent {
    /// The oldest first.
    #[must_use]
    pub fn lines(&self) -> String {
        let kept = lock(&self.0);
        kept.lines.iter().map(String::as_str).collect()
    }

    fn keep(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut kept = lock(&self.0);
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
    }
}

/// The subscriber writes each line at once.
impl io::Write for Recent {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.keep(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
