//! What the link reports: its state for readiness and status, and its counters for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::refused::Refused;

/// The state of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Whether messages can pass: the link is connected and subscribed, and no other account uses the base topic.
    pub connected: bool,
    /// Since when it has been (un)connected.
    pub since: SystemTime,
    /// The generation of the connection that began the present session; 0 if an earlier run began it.
    pub session_began: u64,
    /// Whether commands will arrive.
    pub subscriptions: Subscriptions,
    /// The publishes that the broker refuses; empty when all is well.
    pub refused: Vec<Refused>,
    /// The uid of another account that uses the base topic.
    pub conflict: Option<String>,
    /// Whether the broker answered last time and did not let us in.
    pub turned_away: bool,
    /// Why the link is not connected: the explanation with the remedy.
    pub cause: Option<String>,
    /// The number of the connection attempt. An acknowledgement is valid only for its own.
    pub generation: u64,
}

/// Whether commands will arrive. A granted SUBACK is not enough: Mosquitto grants filters whose messages its ACL then drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscriptions {
    /// Not known yet on this connection.
    Pending,
    /// Our own probe came back.
    Granted,
    /// The broker refused these filters.
    Refused(Vec<String>),
    /// Granted, but our own probe did not come back: the broker's ACL drops it. In MQTT 3.1.1 also if the ACL denies its
    /// publish, because the broker does not tell.
    SilentlyDenied,
    /// Not known, because the broker refused the probe, for this reason.
    Unverified(String),
}

impl Default for LinkState {
    fn default() -> Self {
        Self {
            connected: false,
            since: SystemTime::now(),
            session_began: 0,
            subscriptions: Subscriptions::Pending,
            refused: Vec::new(),
            conflict: None,
            turned_away: false,
            cause: Some("not connected to the broker yet".to_owned()),
            generation: 0,
        }
    }
}

/// Counted since the start of the process.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// PUBLISH packets sent, repeats included.
    pub published: AtomicU64,
    /// Publications that the broker acknowledged.
    pub acked: AtomicU64,
    /// Of these, how many had no subscriber.
    pub no_subscribers: AtomicU64,
    /// Publications refused for good.
    pub refused: AtomicU64,
    /// Publications not taken for now: the broker said so, or ended the connection at them.
    pub for_now: AtomicU64,
    /// Publications whose deadline passed first.
    pub expired: AtomicU64,
    /// Publications that their callers withdrew before they were sent.
    pub withdrawn: AtomicU64,
    /// Publications in flight when a connection was lost, to be sent again.
    pub requeued: AtomicU64,
    /// Connections that were accepted by a broker.
    pub connects: AtomicU64,
    /// Connections lost, and attempts failed.
    pub failures: AtomicU64,
    /// Sessions that were gone at a connect.
    pub sessions_lost: AtomicU64,
    /// Messages received for `commands`.
    pub commands: AtomicU64,
    /// QoS 0 messages dropped because `commands` was full.
    pub commands_dropped: AtomicU64,
    /// QoS 1 messages left to the next connection because `commands` was full.
    pub commands_overlooked: AtomicU64,
    /// Acknowledgements that came after their connection had gone.
    pub stale_acks: AtomicU64,
}

impl LinkCounters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn one(counter: &AtomicU64) {
        Self::add(counter, 1);
    }
}
