//! What only one bridge of an account may do at a time: the link to the broker, the session with iLink, the loops between them,
//! and what monitors those. All of it starts and stops together.
//!
//! A single bridge leads from start to stop. A member of a cluster leads while etcd says so ([`super::election`]).

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::timeout;

use super::core::Core;
use super::error::AppError;
use super::parts::{self, RouteParts};
use super::seat::Seat;
use super::supervisor::{Step, Supervisor};
use super::tasks::{self, Around};
use crate::cloud::{self, Session};
use crate::config::Config;
use crate::inbound::relay::RelaySettings;
use crate::mqtt::{self, LinkConfig};
use crate::operate::status::{Info, Membership, Report};
use crate::os::tasks::Steps;

/// How long a member of a cluster waits for its loops to drain. Without etcd's majority they never do.
const DRAINED_WITHIN: Duration = Duration::from_secs(8);
/// How long the last member of a cluster waits for the broker, where `online` may stand since another member led.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How long what leads is waited for once it must not lead any more. It can do nothing by then, and ends at once.
const DROPPED_WITHIN: Duration = Duration::from_secs(3);

/// All that leads.
pub(super) struct Leader {
    pub(super) report: Arc<Report>,
    pub(super) session: Session,
    seat: Seat,
    settings: watch::Sender<Arc<RelaySettings>>,
    routes: RouteParts,
    steps: Steps,
    supervisor: Supervisor,
}

/// Why it must not go on as it is.
pub(super) enum Over {
    /// Another member leads, or may begin to.
    Lost(String),
    /// A part has failed.
    Failed(String),
}

impl Leader {
    /// Starts all of it. iLink calls back while it registers: the callback is served already.
    ///
    /// # Errors
    ///
    /// What the configuration names cannot be used, or the store cannot be read.
    pub(super) async fn start(
        config: &Config,
        core: &Core,
        seat: Seat,
        info: watch::Receiver<Info>,
        cluster: Option<Membership>,
    ) -> Result<Self, AppError> {
        let (steps, mut supervisor) = (Steps::default(), Supervisor::default());
        let (store, lease) = (&seat.store, seat.lease.clone());
        let client = core.client(config)?.under(lease.clone());
        let routes = RouteParts::open(config, store).await?;
        let link_config = tasks::link_config(config, &**store, routes.filters()).await?;
        let link = mqtt::start(LinkConfig { lease, ..link_config }, steps.link.clone())
            .map_err(|error| AppError::Config(error.to_string()))?;
        let (session, session_task) = cloud::start(
            client,
            core.session_config(config),
            Arc::new(core.registry(config)),
            core.handshakes.clone(),
            steps.session.clone(),
        );
        supervisor.adopt("the session with iLink", Step::Session, session_task);
        let settings = watch::Sender::new(Arc::new(parts::relay_settings(config)));
        let around = Around { config, core, store, session: &session, routes: &routes, steps: &steps };
        let (state, counters) = (link.state.clone(), Arc::clone(&link.counters));
        let loops = tasks::start_loops(&around, link, settings.subscribe(), &mut supervisor);
        let report = Arc::new(Report {
            spool: store.clone(),
            queues: Some(store.clone()),
            desk: Some(Arc::clone(&loops.desk)),
            cloud: session.status(),
            link: state,
            link_counters: counters,
            routes: Arc::clone(&routes.states),
            loops: loops.progress.clone(),
            cluster,
            ..core.report(config, info)
        });
        tasks::start_observers(&around, &report, loops, settings.subscribe(), &mut supervisor);
        Ok(Self { report, session, seat, settings, routes, steps, supervisor })
    }

    /// Resolves when it must not go on as it is. Cancel-safe.
    pub(super) async fn over(&mut self) -> Over {
        // In this order: a part that fails because another member leads is no fault. Both are cancel-safe.
        tokio::select! {
            biased;
            cause = self.seat.lost() => Over::Lost(cause),
            failure = self.supervisor.failed() => Over::Failed(failure),
        }
    }

    /// Puts in force what of a reloaded configuration can change while running; `started` is the one it was started with.
    pub(super) async fn reload(&self, started: &Config, new: &Config, callback_url: SecretString) {
        self.settings.send_replace(Arc::new(parts::relay_settings(new)));
        // They were checked against the base topic that they were read with.
        if new.mqtt.base_topic == started.mqtt.base_topic {
            self.routes.reload(new);
        } else if !(new.routes.is_empty() && started.routes.is_empty()) || new.routes.names() != started.routes.names()
        {
            tracing::warn!(
                key = "route",
                "changed routes and names take effect with the changed mqtt.base_topic, at the next restart"
            );
        }
        self.session.reconfigure(new.ilink.topics.clone(), new.ilink.presence.clone(), callback_url).await;
    }

    /// The first half of a stop: no more commands; the loops drain, calls under way get 3 s; then results drain, and what only
    /// observes ends. May be dropped and begun again.
    ///
    /// # Errors
    ///
    /// Why it cannot be done: what leads is to be abandoned.
    pub(super) async fn drain(&mut self) -> Result<(), String> {
        let Self { seat, steps, supervisor, .. } = self;
        seat.store.patience().end();
        let draining = async {
            steps.commands.cancel();
            steps.loops.cancel();
            supervisor.join(Step::Loops, None).await;
            steps.results.cancel();
            supervisor.join(Step::Results, None).await;
        };
        // A loss is told once; whoever hears of it does not come back.
        tokio::select! {
            biased;
            cause = seat.lost_within(DRAINED_WITHIN) => Err(cause),
            () = draining => Ok(()),
        }
    }

    /// Waits a moment for the broker, so that it can be told `offline`.
    pub(super) async fn reach_broker(&self) {
        let _ = timeout(HEARD_WITHIN, self.report.link.clone().wait_for(|link| link.connected)).await;
    }

    /// The second half: the session ends, then the link, which says `offline` unless another member takes over at once.
    pub(super) async fn leave(mut self) -> Seat {
        self.supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
        self.steps.session.cancel();
        self.supervisor.join(Step::Session, None).await;
        self.steps.link.cancel();
        self.supervisor.join(Step::Link, None).await;
        self.seat
    }

    /// Stops what must not lead any more: nothing is published, called or stored from here on.
    pub(super) async fn abandon(mut self) -> Seat {
        self.seat.lease.end();
        self.seat.store.patience().end();
        let Steps { commands, loops, results, session, link } = &self.steps;
        for step in [link, session, commands, loops, results] {
            step.cancel();
        }
        let all = async {
            for step in [Step::Link, Step::Session, Step::Loops, Step::Results, Step::Observers] {
                self.supervisor.join(step, None).await;
            }
        };
        // What is left is aborted with its supervisor.
        let _ = timeout(DROPPED_WITHIN, all).await;
        self.seat
    }

    /// Says that another member takes over at once.
    pub(super) fn hand_over(&self) {
        self.seat.lease.hand_over();
    }
}

#[cfg(test)]
mod tests;
