//! `bridge/info` and `bridge/health`, read by programs: no field is ever removed or renamed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::report::{Part, Report, describe, time};
use crate::cloud::ClosedEndpoint;
use crate::delivery::refused::{Busy, Kept};
use crate::mqtt::Refused;
use crate::os::clock;
use crate::store::{Queue, Store};
use crate::{inbound, outbound};

/// How long the spool is waited for, for the age of what it holds.
pub(super) const DISK_PATIENCE: Duration = Duration::from_millis(500);

/// The state of every part, as `bridge/health` and `status` show it.
#[derive(Debug, Serialize)]
pub struct Health {
    pub(crate) time: String,
    pub(crate) cloud: Cloud,
    pub(crate) broker: Broker,
    pub(crate) token_expires_in_s: Option<u64>,
    pub(crate) callback: Callback,
    pub(crate) spool: Part,
    pub(crate) queues: Queues,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    /// By the routes' names.
    pub(crate) routes: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cloud {
    pub(crate) state: &'static str,
    pub(crate) cause: String,
    pub(crate) since: String,
    /// Endpoints whose calls wait while others are made.
    pub(crate) closed: Vec<ClosedHealth>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ClosedHealth {
    pub(crate) endpoint: &'static str,
    pub(crate) cause: String,
    pub(crate) since: String,
}

impl From<ClosedEndpoint> for ClosedHealth {
    fn from(ClosedEndpoint { endpoint, cause, since }: ClosedEndpoint) -> Self {
        Self { endpoint: endpoint.path(), cause, since: time(since) }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Broker {
    pub(crate) connected: bool,
    pub(crate) cause: String,
    pub(crate) since: String,
    pub(crate) subscriptions: String,
    /// What the broker does not take from us.
    pub(crate) refused: Vec<RefusedHealth>,
    /// What it does not take for now.
    pub(crate) busy: Vec<BusyHealth>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RefusedHealth {
    pub(crate) topic: String,
    pub(crate) cause: String,
    pub(crate) since: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct BusyHealth {
    /// Whose messages they are.
    pub(crate) what: &'static str,
    /// The cause for programs: `busy`, `refused_for_now` or `ends_connection`.
    pub(crate) kind: &'static str,
    pub(crate) cause: String,
    pub(crate) since: String,
    /// Senders, or topics of results, that are held up; messages that wait.
    pub(crate) lanes: usize,
    pub(crate) messages: usize,
}

impl BusyHealth {
    fn of((what, busy): (&&'static str, &Busy)) -> Self {
        let (kind, cause, since) = (busy.how.as_str(), busy.cause.clone(), time(busy.since));
        Self { what, kind, cause, since, lanes: busy.held_up.lanes, messages: busy.held_up.rows }
    }
}

impl From<Refused> for RefusedHealth {
    fn from(Refused { topic, cause, since }: Refused) -> Self {
        Self { topic, cause, since: time(since) }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Callback {
    pub(crate) last_get_at: Option<String>,
    pub(crate) last_push_at: Option<String>,
    pub(crate) rejected: BTreeMap<&'static str, u64>,
    /// Tries of pushes that were left unanswered, by why.
    pub(crate) unanswered: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Queues {
    pub(crate) inbound: QueueHealth,
    pub(crate) outbound: QueueHealth,
    pub(crate) set_aside: QueueHealth,
}

#[derive(Debug, Serialize)]
pub(crate) struct QueueHealth {
    pub(crate) depth: u64,
    pub(crate) oldest_s: Option<u64>,
    pub(crate) bytes: u64,
}

/// Takes the counters with this prefix out, which is cut off.
fn take(counters: &mut BTreeMap<&'static str, u64>, prefix: &str) -> BTreeMap<&'static str, u64> {
    let taken = counters.iter().filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, *count))).collect();
    counters.retain(|name, _| !name.starts_with(prefix));
    taken
}

impl Health {
    /// Looks at every part.
    pub async fn of(report: &Report) -> Self {
        let cloud = report.cloud.borrow().clone();
        let link = report.link.borrow().clone();
        let busy = report.busy.borrow().iter().map(BusyHealth::of).collect();
        let mut counters: BTreeMap<_, _> = report.counters.all().into_iter().collect();
        let rejected = take(&mut counters, "callback_rejected_");
        let unanswered = take(&mut counters, "pushes_unanswered_");
        let broker = &report.link_counters;
        counters.extend([
            ("broker_connects", broker.connects.load(Ordering::Relaxed)),
            ("broker_failures", broker.failures.load(Ordering::Relaxed)),
            ("broker_sessions_lost", broker.sessions_lost.load(Ordering::Relaxed)),
            ("commands_dropped", broker.commands_dropped.load(Ordering::Relaxed)),
            ("publishes_acked", broker.acked.load(Ordering::Relaxed)),
            ("publishes_for_now", broker.for_now.load(Ordering::Relaxed)),
            ("publishes_no_subscribers", broker.no_subscribers.load(Ordering::Relaxed)),
        ]);
        let spool = report.spool.counters();
        counters.extend([("spool_damaged_rows", spool.damaged_rows), ("set_aside_dropped", spool.set_aside_dropped)]);
        Self {
            time: clock::rfc3339(clock::wall_now_ms()),
            token_expires_in_s: cloud.token_expires_in().map(|left| left.as_secs()),
            cloud: Cloud {
                state: cloud.state.as_str(),
                cause: cloud.cause,
                since: time(cloud.since),
                closed: cloud.closed.into_iter().map(ClosedHealth::from).collect(),
            },
            broker: Broker {
                connected: link.connected,
                cause: link.cause.unwrap_or_default(),
                since: time(link.since),
                subscriptions: describe(&link.subscriptions, &report.base),
                refused: link.refused.into_iter().map(RefusedHealth::from).collect(),
                busy,
            },
            callback: Callback {
                last_get_at: report.handshakes.last_get_at().map(time),
                last_push_at: report.seen.push_ms().map(clock::rfc3339),
                rejected,
                unanswered,
            },
            spool: report.ready().spool,
            queues: Queues {
                inbound: depth(report, Queue::Inbound).await,
                outbound: depth(report, Queue::Outbound).await,
                set_aside: depth(report, Queue::SetAside).await,
            },
            counters,
            routes: report.routes.counts(),
        }
    }

    /// How many wait in each queue.
    pub(super) fn depths(&self) -> [u64; 3] {
        let Queues { inbound, outbound, set_aside } = &self.queues;
        [inbound.depth, outbound.depth, set_aside.depth]
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

async fn depth(report: &Report, queue: Queue) -> QueueHealth {
    let stats = report.spool.stats(queue);
    // Asked of the disk, which may hang; that must not hide all the rest.
    let oldest = match &report.queues {
        Some(queues) if stats.depth > 0 => timeout(DISK_PATIENCE, oldest(&**queues, queue)).await.ok().flatten(),
        _ => None,
    };
    QueueHealth { depth: stats.depth, oldest_s: oldest.map(|age| age.as_secs()), bytes: stats.bytes }
}

async fn oldest(spool: &dyn Store, queue: Queue) -> Option<Duration> {
    let row = &spool.oldest(queue).await.ok()??.data;
    match queue {
        Queue::Inbound => match inbound::record::Record::decode(row).ok()? {
            inbound::record::Record::Push { at, .. } | inbound::record::Record::PushAgain { at, .. } => Some(at.age()),
            inbound::record::Record::States { .. } | inbound::record::Record::StatesAgain { .. } => None,
        },
        Queue::Outbound => match outbound::record::Record::decode(row).ok()? {
            outbound::record::Record::Command(command) => Some(command.at.age()),
            outbound::record::Record::Result(result) => Some(result.at.age()),
        },
        Queue::SetAside => Some(Kept::decode(row).ok()?.age()),
    }
}

/// How the broker does not take something for now.
pub(super) fn in_words(kind: &str) -> &'static str {
    match kind {
        "busy" => "busy",
        "ends_connection" => "cut off",
        _ => "refused for now",
    }
}
