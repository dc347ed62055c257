//! The tasks: the four loops that carry messages, each joined to what it needs; and what runs beside them, which says how they
//! are, notes in the spool what the next run must know (what iLink tells of presence, what the broker has of us), answers who
//! asks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::parts::{self, RouteParts};
use super::supervisor::{Step, Supervisor};
use super::{homeassistant, listeners};
use crate::cloud;
use crate::config::Config;
use crate::delivery::lanes::Patience;
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::inbound::record::Record;
use crate::inbound::relay::{Relay, RelaySettings};
use crate::mqtt::{self, LinkConfig, LinkState, Publisher, RouteFilters};
use crate::observe::log::{Few, Recent, SaidOnce, Seldom};
use crate::observe::progress::Progress;
use crate::operate::admin::{self, Admin};
use crate::operate::control;
use crate::operate::status::{self, Report};
use crate::operate::systemd::{self, Notifier};
use crate::os::tasks::Shutdown;
use crate::outbound::accept::Accept;
use crate::outbound::attempt::{Attempts, Unstored};
use crate::outbound::deliver::Deliver;
use crate::outbound::results::Results;
use crate::outbound::shares::Shares;
use crate::protocol::Uid;
use crate::store::{AppendError, MAX_COMMANDS, Queue, SpoolError, Store};

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
pub(super) fn start_loops(
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

/// What they look at.
pub(super) struct Observers<'a> {
    pub(super) around: &'a Around<'a>,
    pub(super) report: &'a Arc<Report>,
    pub(super) loops: &'a Loops,
    pub(super) settings: watch::Receiver<Arc<RelaySettings>>,
    /// The configuration as it was reloaded last.
    pub(super) current: watch::Receiver<Config>,
    pub(super) notifier: &'a Notifier,
    /// The last lines of the log.
    pub(super) recent: Recent,
}

impl Observers<'_> {
    /// Starts them all.
    pub(super) fn start(
        self,
        control: UnixListener,
        admin: Option<(TcpListener, SocketAddr)>,
        supervisor: &mut Supervisor,
    ) {
        self.tell(supervisor);
        self.keep_notes(supervisor);
        self.answer(supervisor, control, admin);
    }

    /// To the broker and the service manager.
    fn tell(&self, supervisor: &mut Supervisor) {
        let Self { report, loops, notifier, .. } = self;
        let telling = status::run(Arc::clone(report), loops.publisher.clone(), self.stop());
        supervisor.service("the report", Step::Observers, telling);
        let watching = systemd::watch((*notifier).clone(), Arc::clone(report), loops.progress.clone(), self.stop());
        supervisor.errand("the service manager's watchdog", Step::Observers, watching);
    }

    /// In the spool: presence that was asked for, and what the broker has of us.
    fn keep_notes(&self, supervisor: &mut Supervisor) {
        let Around { config, core, session, routes, shutdown } = *self.around;
        let Self { report, loops, .. } = self;
        let spool = || core.spool.clone();
        let presence = queue_presence(session.presence_states(), spool(), shutdown.loops.clone());
        supervisor.errand("the reading of presence", Step::Observers, presence);
        let name = session_name(config);
        let noting = remember_session(report.link.clone(), spool(), name, self.stop());
        supervisor.errand("the note of the session", Step::Observers, noting);
        let noting = routes.remember(report.link.clone(), self.stop());
        supervisor.errand("the note of the routes", Step::Observers, noting);
        let heard = homeassistant::Heard { births: loops.births.clone(), settings: self.settings.clone() };
        let publisher = loops.publisher.clone();
        let telling = homeassistant::run(config.discovery(), heard, publisher, spool(), self.stop());
        supervisor.service("what Home Assistant is told", Step::Observers, telling);
    }

    /// On the control socket and the admin listener.
    fn answer(&self, supervisor: &mut Supervisor, control: UnixListener, admin: Option<(TcpListener, SocketAddr)>) {
        let Around { config, core, session, .. } = *self.around;
        let (report, progress) = (Arc::clone(self.report), self.loops.progress.clone());
        let verbs =
            core.verbs(&self.current, session.clone(), Arc::clone(&report), progress.clone(), self.recent.clone());
        let serving = control::serve(control, Arc::new(verbs), self.stop());
        supervisor.service("the control socket", Step::Observers, serving);
        if let Some((listener, listen)) = admin {
            let (token, hosts) = (config.admin.token.clone(), config.admin.hosts.clone());
            let trusted_ingress = config.admin.trusted_ingress.clone();
            let admin = Admin { listen, token, hosts, trusted_ingress, report, loops: progress };
            let room = listeners::shares(config.outbound.concurrency).admin;
            let serving = admin::serve(listener, admin, room, self.stop());
            supervisor.service("the admin listener", Step::Observers, serving);
        }
    }

    /// They end after the loops.
    fn stop(&self) -> CancellationToken {
        self.around.shutdown.results.clone()
    }
}

/// The note by which the next run knows that the broker has a session of ours.
const SESSION_NOTE: &str = "mqtt/session";

/// The link's configuration, with whether an earlier run left a session at the broker.
pub(super) async fn link_config(
    config: &Config,
    core: &Core,
    routes: watch::Receiver<RouteFilters>,
) -> Result<LinkConfig, AppError> {
    let notes = core.spool.notes(SESSION_NOTE).await.map_err(|error| AppError::State(error.to_string()))?;
    let session = session_name(config);
    Ok(LinkConfig { expect_session: notes.iter().any(|(_, value)| *value == session), ..parts::link(config, routes) })
}

/// Names the session that a broker may hold for us.
fn session_name(config: &Config) -> Vec<u8> {
    let mqtt = &config.mqtt;
    let brokers = std::iter::once(&mqtt.broker).chain(&mqtt.other_brokers).map(url::Url::as_str);
    brokers.chain([mqtt.client_id.as_str()]).collect::<Vec<_>>().join(" ").into_bytes()
}

/// Notes, once connected, that the broker has a session of ours from here on.
async fn remember_session(
    mut link: watch::Receiver<LinkState>,
    spool: Arc<dyn Store>,
    name: Vec<u8>,
    stop: CancellationToken,
) {
    if let Some(Ok(_)) = stop.run_until_cancelled(link.wait_for(|link| link.connected)).await {
        spool.put_note(SESSION_NOTE, name);
    }
}

/// Queues what `ham_user/states` told between the pushes, so that neither overtakes the other.
async fn queue_presence(mut states: watch::Receiver<Vec<(Uid, bool)>>, spool: Arc<dyn Store>, stop: CancellationToken) {
    while let Some(Ok(())) = stop.run_until_cancelled(states.changed()).await {
        let states = states.borrow_and_update().clone();
        if states.is_empty() {
            continue;
        }
        let Ok(row) = (Record::States { states }).encode() else { continue };
        match spool.append(Queue::Inbound, row.into(), None).await {
            Ok(_) => {}
            Err(AppendError::Spool(SpoolError::Failed(_))) => return,
            Err(error) => {
                warn!(%error, "the presence that iLink told could not be queued; it is read again when the cloud comes back");
            }
        }
    }
}
