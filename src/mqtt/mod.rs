//! The link to the local MQTT broker.
//!
//! It is the last step of the inbound direction (publish, wait for the PUBACK) and the first of the outbound one (a PUBLISH
//! arrives, others make it durable, then it is acknowledged). [`start`] spawns one task that holds the connection for the life
//! of the process. The daemon talks to it through the [`Publisher`], [`Commands`] and [`LinkState`] of a [`Link`].
//!
//! A publication belongs to the link from its hand-over until its outcome is known. After every error the link opens a new
//! connection and sends again what was in flight. Only the codecs of rumqttc are used: its event loop loses messages, matches
//! acknowledgements to the wrong ones, and writes packet by packet. The way of a message through the link is drawn in
//! `link.rs`; `wire.rs` reads and writes the bytes.
//!
//! The link does not know what its messages mean, stores nothing, and executes nothing.

mod account;
mod arrivals;
mod backoff;
mod config;
mod connection;
mod delivery;
mod denied;
mod dialer;
mod explanations;
mod handshake;
#[cfg(test)]
pub(crate) mod in_memory;
mod incoming;
mod link;
mod outbox;
mod packets;
mod probe;
mod publisher;
mod receiving;
mod refused;
mod rights;
mod sending;
mod standing;
mod state;
mod task;
mod timers;
mod v311;
mod v5;
mod validate;
mod wire;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use backoff::Backoff;
pub use config::{LinkConfig, Protocol, RouteFilters, StartError, Timing};
pub use delivery::{Delivery, ForNow, NotNow, Refusal};
pub use incoming::{AckToken, Arrived, Commands, Incoming, Settled};
pub use publisher::{Completion, Handling, Publisher};
pub use refused::Refused;
pub use rights::{Rights, RightsError, Verdict, Wanted, try_out};
pub use state::{LinkCounters, LinkState, Subscriptions};

use denied::Denied;
use dialer::Dialer;
use outbox::Outbox;
use refused::RefusedTopics;
use standing::Standing;
use task::Task;
use v5::V5;
use v311::V311;

use crate::observe::log::Seldom;

/// The daemon's ends of the link.
pub struct Link {
    /// Publishes and acknowledges.
    pub publisher: Publisher,
    /// The messages that arrive, without the link's own probes.
    pub commands: Commands,
    /// The present state of the link.
    pub state: watch::Receiver<LinkState>,
    /// Ends after `shutdown`. If there was a connection, `offline` was published first, and the connection closed.
    pub task: JoinHandle<()>,
    /// Since the start of the process.
    pub counters: Arc<LinkCounters>,
}

/// Starts the link on the current tokio runtime. It connects, and connects again, until `shutdown`.
///
/// # Errors
///
/// If the configuration can never work: a bad URL, or TLS files that cannot be read. A broker that cannot be reached is no
/// error here: see [`LinkState::cause`].
pub fn start(config: LinkConfig, shutdown: CancellationToken) -> Result<Link, StartError> {
    let protocol = config.protocol;
    let (task, publisher, commands) = prepare(config, shutdown)?;
    let (state, counters) = (task.state.subscribe(), Arc::clone(&task.counters));
    let task = match protocol {
        Protocol::V5 => tokio::spawn(task.run::<V5>()),
        Protocol::V311 => tokio::spawn(task.run::<V311>()),
    };
    Ok(Link { publisher, commands, state, task, counters })
}

/// The task before it runs, and the daemon's ends of it.
fn prepare(config: LinkConfig, shutdown: CancellationToken) -> Result<(Task, Publisher, Commands), StartError> {
    let counters = Arc::new(LinkCounters::default());
    let (publisher, ends) = Publisher::new(Standing::new(&config.timing), Arc::clone(&counters));
    config.birth.iter().for_each(|birth| publisher.set_state(birth.clone()));
    let (command_sender, commands) = incoming::channel();
    let task = Task {
        routes: config.routes.clone(),
        expects_session: config.expect_session,
        denied: Denied::new(config.timing.recheck_every),
        refused: RefusedTopics::new(config.base.clone()),
        dialer: Arc::new(Dialer::new(config)?),
        ends,
        commands: command_sender,
        state: watch::Sender::new(LinkState::default()),
        counters,
        shutdown,
        outbox: Outbox::default(),
        generation: 0,
        owns_base: false,
        undecodable: 0,
        drops: Seldom::default(),
    };
    Ok((task, publisher, commands))
}
