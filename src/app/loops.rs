//! The four loops that carry messages, each joined to what it needs.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::core::Core;
use super::parts;
use super::parts::RouteParts;
use super::supervisor::{Step, Supervisor};
use crate::cloud;
use crate::config::Config;
use crate::delivery::busy::BusyBoard;
use crate::delivery::lanes::Patience;
use crate::delivery::set_aside::SetAside;
use crate::inbound::relay::{Relay, RelaySettings};
use crate::mqtt::{self, Publisher};
use crate::observe::log::{Few, SaidOnce, Seldom};
use crate::observe::progress::Progress;
use crate::os::shutdown::Shutdown;
use crate::outbound::accept::Accept;
use crate::outbound::attempt::{Attempts, Unstored};
use crate::outbound::deliver::Deliver;
use crate::outbound::results::Results;
use crate::outbound::shares::Shares;
use crate::store::{MAX_COMMANDS, Queue};

/// What the loops and the observers are joined to.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) core: &'a Core,
    pub(super) session: &'a cloud::Session,
    pub(super) routes: &'a RouteParts,
    pub(super) shutdown: &'a Shutdown,
}

/// What the loops leave behind for the others.
pub(super) struct Loops {
    pub(super) publisher: Publisher,
    /// Whether they are stuck, by name.
    pub(super) progress: Vec<(&'static str, Progress)>,
    /// Counts how often Home Assistant has started.
    pub(super) births: watch::Receiver<u64>,
}

/// Starts them all.
pub(super) fn start(
    around: &Around<'_>,
    link: mqtt::Link,
    settings: watch::Receiver<Arc<RelaySettings>>,
    supervisor: &mut Supervisor,
) -> Loops {
    let Around { config, core, session, routes, shutdown } = *around;
    let mqtt::Link { publisher, commands, state, task, .. } = link;
    let set_aside = SetAside::new(core.spool.clone(), Arc::clone(&core.counters));
    let [relay_progress, accept_progress, deliver_progress] =
        std::array::from_fn(|_| Progress::unless(core.spool.waits_for_the_disk()));
    let (accepted, accepted_rx) = mpsc::unbounded_channel();
    let (results, results_rx) = mpsc::unbounded_channel();
    let (births, births_rx) = watch::channel(0);
    let shares = Arc::new(Shares::of(MAX_COMMANDS, core.spool.limit(Queue::Outbound)));
    let relay = Relay {
        config: parts::relay_config(config),
        settings,
        routing: routes.routing(),
        spool: core.spool.clone(),
        repeats: core.repeats.clone(),
        publisher: publisher.clone(),
        link: state.clone(),
        set_aside: set_aside.clone(),
        busy: BusyBoard::new("messages from iLink", Arc::clone(&core.busy)),
        counters: Arc::clone(&core.counters),
        progress: relay_progress.clone(),
    };
    let accept = Accept {
        config: parts::accept_config(config),
        spool: core.spool.clone(),
        publisher: publisher.clone(),
        set_aside: set_aside.trying_once(),
        link: state,
        routing: routes.routing(),
        book: routes.book.clone(),
        births,
        accepted,
        results: results.clone(),
        shares: Arc::clone(&shares),
        counters: Arc::clone(&core.counters),
        progress: accept_progress.clone(),
        ignored: SaidOnce::default(),
        share_told: Seldom::default(),
    };
    let attempts = Arc::new(Attempts {
        spool: core.spool.clone(),
        session: session.clone(),
        ambiguous: parts::ambiguous(config),
        base: config.mqtt.base_topic.clone(),
        routing: routes.routing(),
        book: routes.book.clone(),
        counters: Arc::clone(&core.counters),
        failed: Few::default(),
        shares: Arc::clone(&shares),
        unstored: Unstored::default(),
    });
    let deliver =
        Deliver::new(parts::deliver_config(config), attempts, results, routes.routing(), deliver_progress.clone());
    let results = Results {
        base: config.mqtt.base_topic.clone(),
        spool: core.spool.clone(),
        publisher: publisher.clone(),
        set_aside,
        busy: BusyBoard::new("results", Arc::clone(&core.busy)),
        patience: Patience::default(),
        shares,
    };
    supervisor.adopt("the link to the broker", Step::Link, task);
    supervisor.part("the relay loop", Step::Loops, relay.run(shutdown.loops.clone()));
    supervisor.part("the command loop", Step::Loops, accept.run(commands, shutdown.commands.clone()));
    supervisor.part("the deliver loop", Step::Loops, deliver.run(accepted_rx, shutdown.loops.clone()));
    supervisor.part("the results loop", Step::Results, results.run(results_rx, shutdown.results.clone()));
    let progress = vec![("relay", relay_progress), ("commands", accept_progress), ("deliver", deliver_progress)];
    Loops { publisher, progress, births: births_rx }
}
