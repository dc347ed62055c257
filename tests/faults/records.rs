//! What was seen during a run: by the proxies, by who sends the load, by who applies the faults. Plain data.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Microseconds since the start of the run.
pub(crate) type Time = u64;

pub(crate) const SECOND: Time = 1_000_000;

/// A run of the bridge's process; in a cluster, a leadership.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Of a cluster; 0: there is one bridge.
    pub(crate) member: usize,
    pub(crate) started: Time,
    /// When it was asked to stop.
    pub(crate) asked: Option<Time>,
    pub(crate) ended: Option<Time>,
    /// Since when a sync may have failed, after which it notes nothing.
    pub(crate) failed: Option<Time>,
    pub(crate) killed: bool,
}

impl Life {
    /// Until when it noted what it was told: asked to stop, it waits three seconds for what is under way.
    pub(crate) fn noted_until(&self) -> Option<Time> {
        let drained = self.asked.map(|asked| asked + 3 * SECOND);
        self.ended.map(|ended| [drained, self.failed].into_iter().flatten().fold(ended, Time::min))
    }
}

/// A connection of the bridge to the broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    pub(crate) member: usize,
    pub(crate) opened: Time,
    pub(crate) closed: Option<Time>,
    /// What the CONNACK said; none: there was none.
    pub(crate) session_present: Option<bool>,
}

/// An acknowledgement or an answer on its way through a proxy.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reply {
    /// A PUBACK's reason, or iLink's code (−1: none that can be read).
    pub(crate) code: i64,
    /// Handed on, whole.
    pub(crate) handed_on: Option<Time>,
}

/// Where a publish of the bridge went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Event,
    Recv,
    Presence,
    Result,
    Reply,
    Ack,
}

/// A QoS 1 publish of the bridge.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) connection: usize,
    pub(crate) at: Time,
    pub(crate) place: Place,
    pub(crate) topic: String,
    /// The bridge's id for the push or the command.
    pub(crate) id: String,
    /// The number that the load gave it.
    pub(crate) label: String,
    pub(crate) late: bool,
    pub(crate) result: Option<Outcome>,
    pub(crate) acked: Option<Reply>,
}

impl Publish {
    /// The broker has taken it (0x10: and nobody listens).
    pub(crate) fn is_taken(&self) -> bool {
        self.acked.is_some_and(|reply| reply.code == 0 || reply.code == 0x10)
    }
}

/// What a result says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: String,
    pub(crate) code: Option<i64>,
    pub(crate) attempts: u64,
}

/// A command as the broker delivered it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) connection: usize,
    pub(crate) at: Time,
    pub(crate) pkid: u16,
    pub(crate) dup: bool,
    pub(crate) label: String,
    pub(crate) handed_on: Option<Time>,
    /// Acknowledged by the bridge.
    pub(crate) acked: Option<Time>,
}

/// A call of the bridge to iLink.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) member: usize,
    pub(crate) at: Time,
    pub(crate) path: String,
    /// Of the command; empty: a call of the session's own.
    pub(crate) label: String,
    pub(crate) handed_on: Option<Time>,
    pub(crate) answer: Option<Reply>,
}

/// One try of a push.
#[derive(Debug, Clone, Default)]
pub(crate) struct Try {
    /// At which member.
    pub(crate) member: usize,
    pub(crate) at: Time,
    pub(crate) ended: Time,
    /// Status and code, as its sender saw them.
    pub(crate) answer: Option<(u16, Option<i64>)>,
    /// The whole request reached the bridge, and then the bridge answered, or the proxy cut the connection.
    pub(crate) may_be_answered: bool,
}

/// A push and its tries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Push {
    pub(crate) label: String,
    pub(crate) lane: usize,
    pub(crate) tries: Vec<Try>,
}

impl Push {
    /// Some try was answered 0: the bridge has promised to deliver it.
    pub(crate) fn is_promised(&self) -> bool {
        self.tries.iter().any(|made| made.answer == Some((200, Some(0))))
    }
}

/// A command that was published to the broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Command {
    pub(crate) label: String,
    pub(crate) lane: usize,
    pub(crate) sent: Time,
    /// Acknowledged to its sender by the broker.
    pub(crate) taken: bool,
}

/// The end of a leadership that was made to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    pub(crate) member: usize,
    pub(crate) at: Time,
    pub(crate) how: &'static str,
}

/// A fault that was applied.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) began: Time,
    pub(crate) ended: Option<Time>,
    pub(crate) what: String,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) lives: Vec<Life>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) publishes: Vec<Publish>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) calls: Vec<Call>,
    pub(crate) pushes: Vec<Push>,
    pub(crate) commands: Vec<Command>,
    pub(crate) faults: Vec<Applied>,
    /// When the wall clock was set forward.
    pub(crate) clock_forward: Vec<Time>,
    /// Since when, and until when, the clocks of the members of a cluster told different times.
    pub(crate) clocks_apart: Vec<(Time, Time)>,
    /// There are several bridges.
    pub(crate) is_cluster: bool,
    pub(crate) losses: Vec<Loss>,
    /// Which member of a cluster was killed when.
    pub(crate) kills: Vec<(usize, Time)>,
    /// When the broker was killed, or the bridge's session ended from outside.
    pub(crate) broker_losses: Vec<Time>,
    /// From when to when something was done to the connection to iLink.
    pub(crate) api_troubles: Vec<(Time, Time)>,
    /// Labels of the commands that have a result.
    pub(crate) with_result: std::collections::HashSet<String>,
    /// Labels of what the spool holds at the end.
    pub(crate) spooled: Vec<String>,
    /// Ids that the subscriber on the broker got.
    pub(crate) received: std::collections::HashSet<String>,
    /// When the machine itself stood still: its disk, or its processors.
    pub(crate) hiccups: Vec<(Time, Time)>,
    /// What went wrong while the run went on.
    pub(crate) incidents: Vec<String>,
    /// Envelopes whose time was that of a stepped clock.
    pub(crate) stepped_stamps: u64,
}

impl Records {
    /// Commands that wait for their result, or will have none.
    pub(crate) fn without_result(&self) -> usize {
        self.commands.len().saturating_sub(self.with_result.len())
    }

    /// Who leads, since when.
    pub(crate) fn leader(&self) -> Option<&Life> {
        self.lives.last().filter(|life| life.ended.is_none())
    }
}

/// The records, shared by all who write them.
pub(crate) struct Recorder {
    began: Instant,
    records: Mutex<Records>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), records: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap()
    }

    pub(crate) fn incident(&self, what: &str) {
        let at = self.now();
        eprintln!("faults: {:.3} s: {what}", seconds(at));
        self.lock().incidents.push(format!("{:.3} s: {what}", seconds(at)));
    }
}

/// For people.
pub(crate) fn seconds(time: Time) -> f64 {
    std::time::Duration::from_micros(time).as_secs_f64()
}
