//! The parts of the link that outlive a connection: its ends towards the daemon, its jobs, its state and counters.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::RouteFilters;
use super::delivery::{Delivery, Refusal};
use super::denied::Denied;
use super::dialer::Dialer;
use super::incoming::CommandSender;
use super::outbox::{Job, Origin, Outbox};
use super::publisher::PublisherEnds;
use super::refused::RefusedTopics;
use super::state::{LinkCounters, LinkState, Subscriptions};
use crate::observe::log::{Seldom, clipped};

/// The link's task.
pub(super) struct Task {
    pub(super) dialer: Arc<Dialer>,
    pub(super) ends: PublisherEnds,
    pub(super) commands: CommandSender,
    /// The filters of the routes.
    pub(super) routes: watch::Receiver<RouteFilters>,
    pub(super) state: watch::Sender<LinkState>,
    pub(super) counters: Arc<LinkCounters>,
    pub(super) shutdown: CancellationToken,
    pub(super) outbox: Outbox,
    pub(super) generation: u64,
    /// Whether the broker should still have our session.
    pub(super) expects_session: bool,
    /// Whether the last account check found the base topic to be ours. Then messages that waited in our session are meant for
    /// us, and are handed over without waiting for the next check.
    pub(super) owns_base: bool,
    /// How many connections in a row ended soon with a packet that cannot be decoded.
    pub(super) undecodable: u32,
    pub(super) denied: Denied,
    pub(super) refused: RefusedTopics,
    /// Limits how often the log says that commands are dropped.
    pub(super) drops: Seldom,
}

impl Task {
    /// Tells a caller the outcome of its publication.
    pub(super) fn complete(&mut self, job: Job, delivery: Delivery) {
        let Origin::Caller(done) = job.origin else { return };
        self.ends.standing.caller_ended(&job.publication, job.order, &delivery, Instant::now());
        let topic = &job.publication.topic;
        match &delivery {
            Delivery::Acked { .. } => self.topic_taken(topic),
            Delivery::Refused(refusal) if self.topic_refused(topic, refusal) => warn!(
                topic = clipped(topic),
                reason = refusal.reason,
                remedy = refusal.remedy,
                "the broker refused a publish for good; it is set aside (further ones like it are only counted)"
            ),
            _ => {}
        }
        LinkCounters::one(match &delivery {
            Delivery::Acked { no_subscribers } => {
                LinkCounters::add(&self.counters.no_subscribers, u64::from(*no_subscribers));
                &self.counters.acked
            }
            Delivery::Refused(_) => &self.counters.refused,
            Delivery::ForNow(_) => &self.counters.for_now,
            Delivery::Expired => &self.counters.expired,
            Delivery::Withdrawn | Delivery::Closed => &self.counters.withdrawn,
        });
        // The caller may not wait any more.
        let _ = done.send(delivery);
    }

    /// Notes a publish that was refused for good. Returns whether that is news.
    pub(super) fn topic_refused(&mut self, topic: &str, refusal: &Refusal) -> bool {
        let news = self.refused.refused(topic, refusal, Instant::now());
        if news {
            self.show_refused();
        }
        news
    }

    /// Notes a publish that was taken.
    pub(super) fn topic_taken(&mut self, topic: &str) {
        if let Some(kind) = self.refused.taken(topic, Instant::now()) {
            self.show_refused();
            info!("the broker takes publishes to {kind:?} again");
        }
    }

    fn show_refused(&self) {
        self.state.send_modify(|state| state.refused = self.refused.all());
    }

    pub(super) fn connected(&self) {
        info!(broker = self.dialer.broker().host_str(), "connected to the broker");
        self.state.send_modify(|state| {
            state.connected = true;
            state.since = SystemTime::now();
            state.conflict = None;
            state.cause = None;
        });
    }

    pub(super) fn subscriptions(&self, subscriptions: Subscriptions) {
        self.state.send_if_modified(|state| {
            let news = state.subscriptions != subscriptions;
            state.subscriptions = subscriptions;
            news
        });
    }
}
