//! Leads while this bridge is the leader, and stands by while another member of its cluster is. It starts and stops what leads,
//! and gives others access to whichever parts are running.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};

use super::core::Core;
use super::election::Election;
use super::error::AppError;
use super::leader::{Leader, Over};
use super::seat::Seat;
use super::supervisor::{Step, Supervisor};
use crate::cloud::Session;
use crate::config::Config;
use crate::operate::status::{Info, Report, Reports, Role};
use crate::os::tasks::Shutdown;

/// Before what etcd does not tell for now is asked for again.
const AGAIN: Duration = Duration::from_millis(300);

/// What leads, or waits to.
pub(super) struct Office {
    /// As the process started with.
    config: Config,
    info: watch::Receiver<Info>,
    election: Election,
    leader: Option<Leader>,
    reports: watch::Sender<Arc<Report>>,
    sessions: watch::Sender<Option<Session>>,
}

/// What happens next.
pub(super) enum Turn {
    /// This bridge leads from now on.
    Won(Seat),
    /// What leads must not go on.
    Over(Over),
}

impl Office {
    pub(super) fn new(config: &Config, core: &Core, info: watch::Receiver<Info>, election: Election) -> Self {
        let standby = standby(config, core, info.clone(), &election);
        let (reports, sessions) = (watch::Sender::new(standby), watch::Sender::new(None));
        Self { config: config.clone(), info, election, leader: None, reports, sessions }
    }

    pub(super) fn reports(&self) -> Reports {
        self.reports.subscribe()
    }

    pub(super) fn sessions(&self) -> watch::Receiver<Option<Session>> {
        self.sessions.subscribe()
    }

    /// What leads, if this bridge does.
    pub(super) fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// A bridge that is alone leads from its start. A member of a cluster stands by.
    ///
    /// # Errors
    ///
    /// As [`Leader::start`].
    pub(super) async fn begin(&mut self, core: &Core) -> Result<(), AppError> {
        match self.election.uncontested() {
            Some(seat) => self.lead(core, seat).await,
            None => Ok(()),
        }
    }

    /// Resolves when something is to be done by [`Self::take`]. Cancel-safe.
    pub(super) async fn next(&mut self) -> Turn {
        match &mut self.leader {
            Some(leader) => Turn::Over(leader.over().await),
            None => Turn::Won(self.election.seat().await),
        }
    }

    /// Does it. The configuration may have been reloaded since the process started.
    ///
    /// # Errors
    ///
    /// A part has failed: the process has to end.
    pub(super) async fn take(&mut self, core: &Core, turn: Turn, current: &Config) -> Result<(), String> {
        match turn {
            Turn::Won(seat) => {
                info!("this member leads now");
                let (store, lease) = (seat.store.clone(), seat.lease.clone());
                match self.lead_with(core, seat, current).await {
                    Err(error) if store.has_failed() || !lease.holds() => {
                        info!(%error, "this member does not lead any more; it stands by");
                        Ok(())
                    }
                    led => led.map_err(|error| error.to_string()),
                }
            }
            Turn::Over(Over::Failed(failure)) => Err(failure),
            Turn::Over(Over::Lost(cause)) => {
                info!(cause, "this member does not lead any more; it stands by");
                self.show(core);
                if let Some(leader) = self.leader.take() {
                    leader.abandon().await.give_back().await;
                }
                Ok(())
            }
        }
    }

    /// Hands the leadership over to another member.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) async fn step_down(&mut self, core: &Core) -> Result<(), &'static str> {
        if matches!(self.election, Election::Alone(_)) {
            return Err("this bridge is alone: there is no cluster");
        }
        if self.leader.is_none() {
            return Err("this member does not lead");
        }
        if !self.election.has_successor().await {
            return Err("no other member is there to take over");
        }
        self.election.stand_back();
        if let Some(mut leader) = self.leader.take() {
            info!("this member hands the leadership over");
            leader.hand_over();
            leader.drain().await;
            self.show(core);
            leader.leave().await.give_back().await;
        }
        Ok(())
    }

    /// Starts what a member of a cluster watches, whoever leads.
    pub(super) fn watch(&self, core: &Core, shutdown: &Shutdown, supervisor: &mut Supervisor) {
        let Election::Cluster(cluster) = &self.election else { return };
        let stop = || shutdown.observers.clone();
        supervisor.errand("the state of etcd", Step::Observers, cluster.tell_trouble(stop()));
        let following = cluster.follow_identity(Arc::clone(&core.identity), core.path_secrets.clone(), stop());
        supervisor.errand("the shared identity", Step::Observers, following);
    }

    /// With the identity as the leader before left it, and the configuration as it was reloaded last.
    async fn lead_with(&mut self, core: &Core, seat: Seat, current: &Config) -> Result<(), AppError> {
        while let Err(error) = core.read_identity_again().await {
            if !seat.lease.holds() {
                return Err(error);
            }
            debug!(%error, "the identity cannot be read yet");
            sleep(AGAIN).await;
        }
        self.lead(core, seat).await?;
        if let Some(leader) = &self.leader {
            leader.reload(&self.config, current, current.callback_url(&core.identity.path_secret())).await;
        }
        Ok(())
    }

    async fn lead(&mut self, core: &Core, seat: Seat) -> Result<(), AppError> {
        let member = self.election.membership(Role::Leader);
        let leader = Leader::start(&self.config, core, seat, self.info.clone(), member).await?;
        self.reports.send_replace(Arc::clone(&leader.report));
        self.sessions.send_replace(Some(leader.session.clone()));
        self.leader = Some(leader);
        Ok(())
    }

    /// Shows that this bridge leads nothing.
    fn show(&self, core: &Core) {
        self.sessions.send_replace(None);
        self.reports.send_replace(standby(&self.config, core, self.info.clone(), &self.election));
    }

    /// Stops in order: no more commands; the loops drain, calls under way get 3 s; results drain; whoever only observes ends; the
    /// session; the link says `offline`; the callback closes last, so that until then pushes are made durable (when a part has
    /// failed it was cut first).
    pub(super) async fn stop(mut self, shutdown: &Shutdown, mut supervisor: Supervisor) -> Election {
        if let Some(leader) = &mut self.leader {
            if self.election.has_successor().await {
                leader.hand_over();
            }
            leader.drain().await;
        }
        shutdown.observers.cancel();
        supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
        if let Some(leader) = self.leader.take() {
            leader.leave().await.give_back().await;
        }
        shutdown.callback.cancel();
        supervisor.join(Step::Callback, Some(Duration::from_secs(8))).await;
        self.election
    }
}

/// What is shown of a bridge that does not lead.
fn standby(config: &Config, core: &Core, info: watch::Receiver<Info>, election: &Election) -> Arc<Report> {
    Arc::new(Report { cluster: election.membership(Role::Standby), ..core.report(config, info) })
}
