//! What runs beside the loops: says how they are, notes in the spool what the next run must know (what iLink tells of presence,
//! what the broker has of us), answers who asks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::loops::{Around, Loops};
use super::supervisor::{Step, Supervisor};
use super::{homeassistant, listeners, parts};
use crate::config::Config;
use crate::inbound::record::Record;
use crate::inbound::relay::RelaySettings;
use crate::mqtt::{LinkConfig, LinkState, RouteFilters};
use crate::observe::log::Recent;
use crate::operate::admin::{self, Admin};
use crate::operate::control;
use crate::operate::status::{self, Report};
use crate::operate::systemd::{self, Notifier};
use crate::protocol::Uid;
use crate::store::{Queue, SpoolError, Store};

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
            Err(SpoolError::Failed(_)) => return,
            Err(error) => {
                warn!(%error, "the presence that iLink told could not be queued; it is read again when the cloud comes back");
            }
        }
    }
}
