//! Everything that takes part, each a process of its own.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::generator::{self, Load, Target};
use super::helper::Helper;
use super::sample::Sample;
use super::support::bridge::{Bridge, SECRET, UID};
use super::support::mosquitto::Mosquitto;
use super::support::sim::Sim;
use super::support::within;
use super::usage::Usage;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Promises nothing.
    Naive,
    /// Stores each push first, and promises no more.
    Least,
    Raw,
    Both,
}

/// The base topic of the bridges for one account.
pub(crate) const CLUSTER: &str = "cluster";

/// Something of each subject.
pub(crate) type Each<T> = [T; Subject::ALL.len()];

impl Subject {
    pub(crate) const ALL: [Self; 4] = [Self::Naive, Self::Least, Self::Raw, Self::Both];

    /// Its base topic.
    pub(crate) fn base(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Least => "least",
            Self::Raw => "raw",
            Self::Both => "both",
        }
    }
}

/// Ends with the value; its bridges before its broker.
pub(crate) struct World {
    pub(crate) naive: Helper,
    pub(crate) least: Helper,
    pub(crate) raw: Bridge,
    pub(crate) both: Bridge,
    pub(crate) subscriber: Helper,
    pub(crate) cloud: Helper,
    pub(crate) broker: Mosquitto,
    run: u32,
    _least_dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        let broker = Mosquitto::start("log_type error\nlog_type warning\nlog_type information\n");
        let cloud = Helper::start(&["cloud"]);
        let port = broker.port().to_string();
        let naive = Helper::start(&["naive", &port, &cloud.port.to_string()]);
        let least_dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let least = Helper::start(&["least", &port, &least_dir.path().to_string_lossy()]);
        let bases = Subject::ALL.map(Subject::base).into_iter().chain([CLUSTER]);
        let mut role = vec!["subscriber".to_owned(), port];
        role.extend(bases.map(|base| format!("{base}/recv/#")));
        let subscriber = Helper::start(&role);
        let mut raw = bridge(&broker, &cloud, Subject::Raw);
        let mut both = bridge(&broker, &cloud, Subject::Both);
        raw.start().await;
        both.start().await;
        Self { naive, least, raw, both, subscriber, cloud, broker, run: 0, _least_dir: least_dir }
    }

    /// A number for what is sent next.
    pub(crate) fn next_run(&mut self) -> u32 {
        self.run += 1;
        self.run
    }

    pub(crate) fn pid(&mut self, subject: Subject) -> u32 {
        match subject {
            Subject::Naive => self.naive.pid(),
            Subject::Least => self.least.pid(),
            Subject::Raw => self.raw.process().id(),
            Subject::Both => self.both.process().id(),
        }
    }

    pub(crate) fn target(&self, subject: Subject) -> Target {
        let port = match subject {
            Subject::Naive => self.naive.port,
            Subject::Least => self.least.port,
            Subject::Raw => self.raw.callback_port(),
            Subject::Both => self.both.callback_port(),
        };
        Target { ports: vec![port], path: format!("/{SECRET}"), to_uid: UID, answer: r#"{"code":0}"# }
    }

    /// Pushes, until all that was answered has arrived.
    pub(crate) async fn push(&mut self, subject: Subject, load: Load) -> Sample {
        let (run, pid) = (self.next_run(), self.pid(subject));
        self.subscriber.begin(run);
        let before = Usage::of(pid);
        let outcome = generator::drive(&self.target(subject), load, run).await;
        let arrived = self.subscriber.arrived(outcome.issued, &outcome.unanswered);
        self.settled(subject).await;
        Sample::of(&outcome, &arrived, Usage::of(pid).since(before))
    }

    /// Waits until the bridge has completed everything: each copy of each push has its PUBACK.
    pub(crate) async fn settled(&self, subject: Subject) {
        let bridge = match subject {
            Subject::Naive | Subject::Least => return,
            Subject::Raw => &self.raw,
            Subject::Both => &self.both,
        };
        within(Duration::from_mins(5), "the bridge to complete all pushes", async || {
            (state_of(bridge, "inbound")?.1 == 0).then_some(())
        })
        .await;
    }
}

/// A bridge between this broker and this cloud, not started.
pub(crate) fn bridge(broker: &Mosquitto, cloud: &Helper, subject: Subject) -> Bridge {
    let output = if subject == Subject::Both { "both" } else { "raw" };
    Bridge::new(broker, &Sim::absent(&[]))
        .with("ilink.api", &format!("http://127.0.0.1:{}", cloud.port))
        .with("callback.register", "never")
        .with("callback.token", "0123456789abcdef")
        .with("callback.max_body", "4MiB")
        .with("mqtt.client_id", &format!("load-{}", subject.base()))
        .with("mqtt.base_topic", subject.base())
        .with("mqtt.output", output)
        // A backlog takes its time, and is to be delivered raw.
        .with("inbound.raw_max_age", "6h")
        .with("spool.max_bytes", "8GiB")
        .with("log.level", "info")
}

/// A queue's next number and its depth, as its database says; none while that is locked.
pub(crate) fn state_of(bridge: &Bridge, queue: &str) -> Option<(u64, u64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let spool = Connection::open_with_flags(bridge.state_dir().join("spool.db"), flags).ok()?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64));
    spool.query_row("SELECT next, depth FROM state WHERE queue = ?1", [queue], read).ok()
}
