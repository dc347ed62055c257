//! What runs beside the loops: says how they are, notes what the next run must know, answers who asks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::loops::{Around, Loops};
use super::supervisor::{Step, Supervisor};
use super::{homeassistant, listeners, notes};
use crate::config::Config;
use crate::inbound::relay::RelaySettings;
use crate::observe::log::Recent;
use crate::operate::admin::{self, Admin};
use crate::operate::control;
use crate::operate::status::{self, Report};
use crate::operate::systemd::{self, Notifier};

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
        let presence = notes::queue_presence(session.presence_states(), spool(), shutdown.loops.clone());
        supervisor.errand("the reading of presence", Step::Observers, presence);
        let name = notes::session_name(config);
        let noting = notes::remember_session(report.link.clone(), spool(), name, self.stop());
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
