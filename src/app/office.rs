//! Leads while this bridge is the leader, and stands by while another member of its cluster is. It starts and stops what leads,
//! and gives others access to whichever parts are running.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::core::Core;
use super::election::Election;
use super::error::AppError;
use super::leader::{HEARD_WITHIN, Leader, Over};
use super::parts;
use super::seat::Seat;
use super::supervisor::{Step, Supervisor};
use crate::cloud::Session;
use crate::config::Config;
use crate::mqtt::{self, LinkConfig, RouteFilters};
use crate::operate::status::{Info, Report, Role};
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

/// Whether what leads has drained; if not, why.
pub(super) type Drained = Result<(), String>;

/// What happens next.
pub(super) enum Turn {
    /// This bridge leads from now on.
    Won(Seat),
    /// What leads must not go on.
    Over(Over),
}

impl Office {
    /// From its beginning on, `reports` is what it shows.
    pub(super) fn new(
        config: &Config,
        info: watch::Receiver<Info>,
        election: Election,
        reports: watch::Sender<Arc<Report>>,
    ) -> Self {
        let sessions = watch::Sender::new(None);
        Self { config: config.clone(), info, election, leader: None, reports, sessions }
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
        if let Some(seat) = self.election.uncontested() {
            return self.lead(core, seat).await;
        }
        self.show(core);
        Ok(())
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

    /// Prepares to hand the leadership over to another member: what leads drains. Gives what came of that, for
    /// [`Self::hand_over`]. May be dropped: a stop goes on with it.
    ///
    /// # Errors
    ///
    /// Why this member does not hand it over.
    pub(super) async fn prepare_to_hand_over(&mut self) -> Result<Drained, &'static str> {
        if !self.election.is_contested() {
            return Err("this bridge is alone: there is no cluster");
        }
        let Some(leader) = &mut self.leader else { return Err("this member does not lead") };
        if !self.election.has_successor().await {
            return Err("no other member is there to take over");
        }
        info!("this member hands the leadership over");
        Ok(leader.drain().await)
    }

    /// Hands the leadership over, after [`Self::prepare_to_hand_over`].
    pub(super) async fn hand_over(&mut self, core: &Core, drained: Drained) {
        self.election.stand_back();
        self.show(core);
        if let Some(leader) = &self.leader {
            leader.hand_over();
        }
        self.end(drained).await;
    }

    /// Ends what leads, once it has drained.
    async fn end(&mut self, drained: Drained) {
        let Some(leader) = self.leader.take() else { return };
        let seat = match drained {
            Ok(()) => leader.leave().await,
            Err(cause) => {
                info!(cause, "what is under way cannot be finished here; whoever leads next goes on with it");
                leader.abandon().await
            }
        };
        seat.give_back().await;
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
        let cluster = self.election.membership(Role::Standby);
        self.reports.send_replace(Arc::new(Report { cluster, ..core.report(&self.config, self.info.clone()) }));
    }

    /// Stops in order: no more commands; the loops drain, calls under way get 3 s; results drain; whoever only observes ends; the
    /// session; the link says `offline`; the callback closes last, so that until then pushes are made durable (when a part has
    /// failed it was cut first).
    ///
    /// A member of a cluster leaves `online` standing for its successor, and somebody has to be the last to say `offline`. So each
    /// one first tells that it stops. Then who leads looks for a successor, as late as possible; and who stands by looks whether
    /// anybody is left. Whoever was taken for a successor while it stopped finds nobody left, and says it.
    pub(super) async fn stop(mut self, shutdown: &Shutdown, mut supervisor: Supervisor) -> Election {
        let (election, leader) = (&self.election, &mut self.leader);
        let draining = async {
            match leader {
                Some(leader) => leader.drain().await,
                None => Ok(()),
            }
        };
        let ((), drained) = tokio::join!(election.leave(), draining);
        shutdown.observers.cancel();
        supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
        match &self.leader {
            Some(leader) if self.election.has_successor().await => leader.hand_over(),
            Some(leader) if drained.is_ok() && self.election.is_contested() => leader.reach_broker().await,
            Some(_) => {}
            // Large, and rare.
            None => Box::pin(self.say_offline()).await,
        }
        self.end(drained).await;
        shutdown.callback.cancel();
        supervisor.join(Step::Callback, Some(Duration::from_secs(8))).await;
        self.election
    }

    /// Publishes `offline`, if nobody is left who could lead.
    async fn say_offline(&mut self) {
        let Some(seat) = self.election.last_seat().await else { return };
        let (stop, routes) = (CancellationToken::new(), watch::Sender::new(RouteFilters::default()));
        let link = LinkConfig {
            lease: seat.lease.clone(),
            filters: Vec::new(),
            birth: Vec::new(),
            ..parts::link(&self.config, routes.subscribe())
        };
        if let Ok(mut link) = mqtt::start(link, stop.clone()) {
            let _ = timeout(HEARD_WITHIN, link.state.wait_for(|link| link.connected)).await;
            stop.cancel();
            let _ = link.task.await;
        }
        seat.give_back().await;
    }
}
