//! Leads while this bridge is to lead, and stands by while another member of its cluster does: starts and stops what leads, and
//! shows whoever asks what there is at the moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::core::Core;
use super::election::{Election, Seat};
use super::error::AppError;
use super::leader::{Leader, Over};
use super::supervisor::{Step, Supervisor};
use crate::cloud::Session;
use crate::config::Config;
use crate::operate::status::{Info, Report, Reports};
use crate::os::tasks::Shutdown;

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
        let standby = Arc::new(core.report(config, info.clone()));
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
                self.lead(core, seat).await.map_err(|error| error.to_string())?;
                if let Some(leader) = &self.leader {
                    leader.reload(&self.config, current);
                }
                Ok(())
            }
            Turn::Over(Over::Failed(failure)) => Err(failure),
            Turn::Over(Over::Lost(cause)) => {
                info!(cause, "this member does not lead any more; it stands by");
                self.show(core);
                if let Some(leader) = self.leader.take() {
                    drop(leader.abandon().await);
                }
                Ok(())
            }
        }
    }

    async fn lead(&mut self, core: &Core, seat: Seat) -> Result<(), AppError> {
        let leader = Leader::start(&self.config, core, seat, self.info.clone()).await?;
        self.reports.send_replace(Arc::clone(&leader.report));
        self.sessions.send_replace(Some(leader.session.clone()));
        self.leader = Some(leader);
        Ok(())
    }

    /// Shows that this bridge leads nothing.
    fn show(&self, core: &Core) {
        self.sessions.send_replace(None);
        self.reports.send_replace(Arc::new(core.report(&self.config, self.info.clone())));
    }

    /// Stops in order: no more commands; the loops drain, calls under way get 3 s; results drain; whoever only observes ends; the
    /// session; the link says `offline`; the callback closes last, so that until then pushes are made durable (when a part has
    /// failed it was cut first).
    pub(super) async fn stop(mut self, shutdown: &Shutdown, mut supervisor: Supervisor) {
        if let Some(leader) = &mut self.leader {
            leader.drain().await;
        }
        shutdown.observers.cancel();
        supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
        if let Some(leader) = self.leader.take() {
            drop(leader.leave().await);
        }
        shutdown.callback.cancel();
        supervisor.join(Step::Callback, Some(Duration::from_secs(8))).await;
    }
}
