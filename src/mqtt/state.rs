//! What the link tells about itself: its state for readiness and status, its counters for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::refused::Refused;

/// The link as it stands; a new value at every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Whether messages can flow: connected, and no other account uses the base topic.
    pub connected: bool,
    /// Since when it has been (un)connected.
    pub since: SystemTime,
    /// Whether the broker still had our session at the last connect.
    pub session_present: bool,
    /// How often an earlier session was gone at a connect, with what it held.
    pub session_lost: u64,
    /// The connection (its generation) that began the session we are in; 0 for one of an earlier run.
    pub session_began: u64,
    /// Whether commands will arrive.
    pub subscriptions: Subscriptions,
    /// What the broker refuses to take from us; empty when all is well.
    pub refused: Vec<Refused>,
    /// The other uid that uses the base topic.
    pub conflict: Option<String>,
    /// Why it is not connected, in plain words with the remedy.
    pub cause: Option<String>,
    /// Counts connection attempts; acknowledgements do not outlive theirs.
    pub generation: u64,
}

/// Whether commands will arrive. A granted SUBACK alone does not say so: Mosquitto grants what its ACL then denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscriptions {
    /// Not known yet on this connection.
    Pending,
    /// Our own probe came back.
    Granted,
    /// The broker refused these filters.
    Refused(Vec<String>),
    /// Granted, but our own probe was not heard: the broker's ACL drops it. Where an ACL denies the publish silently
    /// (MQTT 3.1.1), this too.
    SilentlyDenied,
    /// The broker refused the probe, with this reason, so nothing is known.
    Unverified(String),
}

impl Default for LinkState {
    fn default() -> Self {
        Self {
            connected: false,
            since: SystemTime::now(),
            session_present: false,
            session_lost: 0,
            session_began: 0,
            subscriptions: Subscriptions::Pending,
            refused: Vec::new(),
            conflict: None,
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
    /// Publications that their owners wanted back before they were on the wire.
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
    /// QoS 1 messages left to a next connection because `commands` was full.
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
