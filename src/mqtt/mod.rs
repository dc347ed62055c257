//! The link to the local MQTT broker.
//!
//! Place in the flow: the last step inbound (publish, PUBACK) and the first outbound (PUBLISH arrives, is made durable by
//! others, is acknowledged). [`start`] spawns one task that owns the connection for the life of the process; the daemon
//! talks to it through the [`Publisher`], [`Commands`] and [`LinkState`] of a [`Link`].
//!
//! The link owns every publication until the broker acknowledged it, and starts afresh after every error. Of rumqttc only the
//! codecs are used: its event loop loses messages, credits acknowledgements to the wrong ones, and writes packet by packet. The
//! loop and its diagram are in `link.rs`, a connection's bytes in `wire.rs`.
//!
//! It does not know what its messages mean, stores nothing, and executes nothing.

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
mod tls;
mod v311;
mod v5;
mod validate;
mod wire;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use backoff::Backoff;
pub use config::{LinkConfig, Protocol, RouteFilters, StartError, Timing, TlsOptions};
pub use delivery::{Delivery, ForNow, NotNow, Refusal};
pub use incoming::{AckToken, Arrived, Commands, Incoming, Settled};
pub use publisher::{Completion, Handling, Publisher};
pub use refused::Refused;
pub use rights::{Rights, RightsError, Verdict, Wanted, try_out};
pub use state::{LinkCounters, LinkState, Subscriptions};
pub use tls::client_config;

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
    /// What arrives on the subscribed filters, but for the link's own probes.
    pub commands: Commands,
    /// How the link stands.
    pub state: watch::Receiver<LinkState>,
    /// Ends after `shutdown`, with `offline` published and the connection closed if there was one.
    pub task: JoinHandle<()>,
    /// Since the start of the process.
    pub counters: Arc<LinkCounters>,
}

/// Starts the link on the current tokio runtime. It connects, and connects again, until `shutdown`.
///
/// # Errors
///
/// If the configuration can never work: a bad URL, TLS files that cannot be read. A broker that cannot be reached is no
/// such error; see [`LinkState::cause`].
pub fn start(config: LinkConfig, shutdown: CancellationToken) -> Result<Link, StartError> {
    let counters = Arc::new(LinkCounters::default());
    let (publisher, ends) = Publisher::new(Standing::new(&config.timing), Arc::clone(&counters));
    config.birth.iter().for_each(|birth| publisher.set_state(birth.clone()));
    let (command_sender, commands) = incoming::channel();
    let (state_sender, state) = watch::channel(LinkState::default());
    let (protocol, expects_session) = (config.protocol, config.expect_session);
    let denied = Denied::new(config.timing.recheck_every);
    let refused = RefusedTopics::new(config.base.clone());
    let routes = config.routes.clone();
    let dialer = Arc::new(Dialer::new(config)?);
    let task = Task {
        routes,
        dialer,
        ends,
        commands: command_sender,
        state: state_sender,
        counters: Arc::clone(&counters),
        shutdown,
        outbox: Outbox::default(),
        generation: 0,
        expects_session,
        owns_base: false,
        undecodable: 0,
        denied,
        refused,
        drops: Seldom::default(),
    };
    let task = match protocol {
        Protocol::V5 => tokio::spawn(task.run::<V5>()),
        Protocol::V311 => tokio::spawn(task.run::<V311>()),
    };
    Ok(Link { publisher, commands, state, task, counters })
}
