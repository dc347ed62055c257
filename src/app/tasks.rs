//! The tasks of a leader: the four loops that carry messages, each with what it needs; the tasks beside them, which report
//! health and note in the spool what the next run must know (presence, and what the broker retains of us); and the task that
//! answers requests.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::homeassistant;
use super::listeners::{self, AnsweringOn};
use super::parts::{self, RouteParts};
use super::supervisor::{Step, Supervisor};
use crate::cloud;
use crate::config::Config;
use crate::delivery::lanes::Patience;
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::inbound::record::Record;
use crate::inbound::relay::{Relay, RelaySettings};
use crate::mqtt::{self, LinkConfig, LinkState, Publisher, RouteFilters};
use crate::observe::log::{Few, SaidOnce, Seldom};
use crate::observe::progress::Progress;
use crate::operate::admin::{self, Admin};
use crate::operate::control::{self, Begun, Verbs};
use crate::operate::set_aside::Desk;
use crate::operate::status::{self, Report, Reports};
use crate::operate::systemd::{self, Notifier};
use crate::os::tasks::Steps;
use crate::outbound::accept::Accept;
use crate::outbound::attempt::{Attempts, Unstored};
use crate::outbound::deliver::Deliver;
use crate::outbound::intake::{Intake, Turns};
use crate::outbound::replies::Replies;
use crate::outbound::results::Results;
use crate::outbound::shares::Shares;
use crate::protocol::Uid;
use crate::store::{AppendError, MAX_COMMANDS, Queue, SpoolError, Store};

/// What the leading loops and their observers are joined to.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) config: &'a Config,
    pub(super) core: &'a Core,
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) session: &'a cloud::Session,
    pub(super) routes: &'a RouteParts,
    pub(super) steps: &'a Steps,
}

/// What the loops leave behind for the others.
pub(super) struct Loops {
    pub(super) publisher: Publisher,
    /// What is set aside.
    pub(super) desk: Arc<Desk>,
    /// Counts how often Home Assistant has started.
    pub(super) births: watch::Receiver<u64>,
    /// Whether they are stuck, by name.
    pub(super) progress: Vec<(&'static str, Progress)>,
}

/// Starts the loops that carry messages.
pub(super) fn start_loops(
    around: &Around<'_>,
    link: mqtt::Link,
    settings: watch::Receiver<Arc<RelaySettings>>,
    supervisor: &mut Supervisor,
) -> Loops {
    let Around { config, core, store, session, routes, steps } = *around;
    let mqtt::Link { publisher, commands, state, task, .. } = link;
    let set_aside = SetAside::new(store.clone(), Arc::clone(&core.counters));
    let [relay_progress, accept_progress, deliver_progress] =
        std::array::from_fn(|_| Progress::unless(store.waits_for_the_disk()));
    let (accepted, accepted_rx) = mpsc::unbounded_channel();
    let (results, results_rx) = mpsc::unbounded_channel();
    let (births, births_rx) = watch::channel(0);
    let desk = Arc::new(Desk::new(store.clone(), Arc::clone(&core.counters), Some(results.clone())));
    let shares = Arc::new(Shares::of(MAX_COMMANDS, store.limit(Queue::Outbound)));
    let intake = Arc::new(Intake {
        base: config.mqtt.base_topic.clone(),
        spool: store.clone(),
        shares: Arc::clone(&shares),
        counters: Arc::clone(&core.counters),
        told: Seldom::default(),
        turns: Turns::default(),
    });
    let replies = Replies {
        intake: Arc::clone(&intake),
        ttl: config.outbound.ttl,
        max_content: config.outbound.max_content,
        accepted: accepted.clone(),
        results: results.clone(),
        publisher: publisher.clone(),
    };
    let relay = Relay {
        config: parts::relay_config(config),
        settings,
        routing: routes.routing(),
        spool: store.clone(),
        repeats: core.repeats(),
        publisher: publisher.clone(),
        link: state.clone(),
        set_aside: set_aside.clone(),
        busy: BusyBoard::new("messages from iLink", Arc::clone(&core.busy)),
        answers: Some(Arc::new(replies)),
        counters: Arc::clone(&core.counters),
        progress: relay_progress.clone(),
    };
    let accept = Accept {
        config: parts::accept_config(config),
        spool: store.clone(),
        publisher: publisher.clone(),
        set_aside: set_aside.trying_once(),
        link: state,
        routing: routes.routing(),
        book: routes.book.clone(),
        births,
        accepted,
        results: results.clone(),
        intake,
        counters: Arc::clone(&core.counters),
        progress: accept_progress.clone(),
        ignored: SaidOnce::default(),
    };
    let attempts = Arc::new(Attempts {
        spool: store.clone(),
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
        spool: store.clone(),
        publisher: publisher.clone(),
        set_aside,
        busy: BusyBoard::new("results", Arc::clone(&core.busy)),
        patience: Patience::default(),
        shares,
    };
    supervisor.adopt("the link to the broker", Step::Link, task);
    supervisor.part("the relay loop", Step::Loops, relay.run(steps.loops.clone()));
    supervisor.part("the command loop", Step::Loops, accept.run(commands, steps.commands.clone()));
    supervisor.part("the deliver loop", Step::Loops, deliver.run(accepted_rx, steps.loops.clone()));
    supervisor.part("the results loop", Step::Results, results.run(results_rx, steps.results.clone()));
    let progress = vec![("relay", relay_progress), ("commands", accept_progress), ("deliver", deliver_progress)];
    Loops { publisher, desk, births: births_rx, progress }
}

/// Starts what looks at the loops: it tells the broker how the bridge is, and notes in the spool what the next run must know.
pub(super) fn start_observers(
    around: &Around<'_>,
    report: &Arc<Report>,
    loops: Loops,
    settings: watch::Receiver<Arc<RelaySettings>>,
    supervisor: &mut Supervisor,
) {
    let Around { config, store, session, routes, steps, .. } = *around;
    // They end after the loops.
    let (stop, Loops { publisher, births, .. }) = (|| steps.results.clone(), loops);
    let telling = status::run(Arc::clone(report), store.clone(), publisher.clone(), stop());
    supervisor.service("the report", Step::Observers, telling);
    if let Some(member) = report.cluster.clone() {
        let telling = status::tell_cluster(member, report.base.clone(), publisher.clone(), stop());
        supervisor.errand("what is told of the cluster", Step::Observers, telling);
    }
    let presence = queue_presence(session.presence_states(), store.clone(), steps.loops.clone());
    supervisor.errand("the reading of presence", Step::Observers, presence);
    let noting = remember_session(report.link.clone(), store.clone(), session_name(config), stop());
    supervisor.errand("the note of the session", Step::Observers, noting);
    supervisor.errand("the note of the routes", Step::Observers, routes.remember(report.link.clone(), stop()));
    let heard = homeassistant::Heard { births, settings };
    let telling = homeassistant::run(config.discovery(), heard, publisher, store.clone(), stop());
    supervisor.service("what Home Assistant is told", Step::Observers, telling);
}

/// What answers who asks, whoever leads.
pub(super) struct Answering<'a> {
    pub(super) config: &'a Config,
    pub(super) begun: Arc<OnceLock<Begun>>,
    pub(super) reports: Reports,
    pub(super) notifier: &'a Notifier,
    pub(super) stop: &'a CancellationToken,
    /// Until it has started.
    pub(super) sockets: Option<AnsweringOn>,
}

impl Answering<'_> {
    /// Answers on the control socket and the admin listener, and keeps the service manager informed, if it does not yet.
    pub(super) fn start(&mut self, supervisor: &mut Supervisor) {
        let Some((control, admin)) = self.sockets.take() else { return };
        let Self { config, notifier, stop, .. } = *self;
        let (reports, begun) = (self.reports.clone(), Arc::clone(&self.begun));
        let watching = systemd::watch(notifier.clone(), reports.clone(), stop.clone());
        supervisor.errand("the service manager's watchdog", Step::Observers, watching);
        let verbs = Arc::new(Verbs { reports: reports.clone(), begun });
        let serving = control::serve(control, verbs, stop.clone());
        supervisor.service("the control socket", Step::Observers, serving);
        if let Some((listener, listen)) = admin {
            let (token, hosts) = (config.admin.token.clone(), config.admin.hosts.clone());
            let trusted_ingress = config.admin.trusted_ingress.clone();
            let admin = Admin { listen, token, hosts, trusted_ingress, reports };
            let room = listeners::shares(config.outbound.concurrency).admin;
            let serving = admin::serve(listener, admin, room, stop.clone());
            supervisor.service("the admin listener", Step::Observers, serving);
        }
    }
}

/// The note by which the next run knows that the broker has a session of ours.
const SESSION_NOTE: &str = "mqtt/session";

/// The link's configuration, with whether an earlier run left a session at the broker.
pub(super) async fn link_config(
    config: &Config,
    store: &dyn Store,
    routes: watch::Receiver<RouteFilters>,
) -> Result<LinkConfig, AppError> {
    let notes = store.notes(SESSION_NOTE).await.map_err(|error| AppError::State(error.to_string()))?;
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
        let row = (Record::States { states }).encode();
        match spool.append(Queue::Inbound, row.into(), None).await {
            Ok(_) => {}
            Err(AppendError::Spool(SpoolError::Failed(_))) => return,
            Err(error) => {
                warn!(%error, "could not queue the presence that iLink reported; it is read again when the cloud comes back");
            }
        }
    }
}
