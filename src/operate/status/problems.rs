//! What is wrong and what to do about it, found by looking at every part.

use serde::Serialize;

use super::cluster::Role;
use super::condition::{Condition, Weight};
use super::health::{BusyHealth, Health, in_words};
use super::report::{Part, Ready};
use crate::cloud::CloudState;
use crate::mqtt::{LinkState, Subscriptions};
use crate::store::Medium;

/// From here on a queue is said to be nearly full, in per cent of its limit.
const NEARLY_FULL: u64 = 80;

/// Something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether messages wait or are lost because of it; if not, it is advice.
    pub grave: bool,
    /// The part it is about.
    pub part: String,
    /// The cause and the remedy.
    pub cause: String,
    /// Since when, if that is known: RFC 3339.
    pub since: Option<String>,
    /// What it is, for who puts it into words.
    #[serde(skip)]
    pub condition: Condition,
}

impl Problem {
    fn new(condition: Condition, part: impl Into<String>, cause: impl Into<String>, since: Option<&str>) -> Self {
        let grave = condition.weight() == Weight::Grave;
        Self { grave, part: part.into(), cause: cause.into(), since: since.map(str::to_owned), condition }
    }
}

/// Where problems are looked for.
pub(super) struct Looked<'a> {
    pub(super) ready: &'a Ready,
    pub(super) health: &'a Health,
    pub(super) link: &'a LinkState,
    /// What is wrong with the cluster.
    pub(super) cluster: Option<&'a str>,
    /// What is unwise in the configuration.
    pub(super) warnings: &'a [&'static str],
    /// The most bytes that a queue may hold.
    pub(super) queue_limit: u64,
}

impl Looked<'_> {
    /// What is wrong, the worst first.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let (ready, cloud, link) = (self.ready, &self.health.cloud, self.link);
        let waits = ready.role == Some(Role::Waiting);
        if waits {
            let Part { cause, since, .. } = &ready.spool;
            found.push(Problem::new(
                Condition::AwaitsEtcd,
                "cluster",
                cause.as_deref().unwrap_or("starting"),
                Some(since),
            ));
        } else if let Some(cause) = self.cluster {
            found.push(Problem::new(Condition::NoEtcd, "cluster", cause, None));
        }
        let leads = matches!(ready.role, None | Some(Role::Leader));
        let parts = [
            ("broker", &ready.broker, self.unconnected()),
            ("subscriptions", &ready.subscriptions, unsubscribed(link)),
            ("spool", &ready.spool, self.not_stored()),
        ];
        for (name, part, condition) in parts {
            // All but the spool is the leader's; who waits has said why it does not store.
            if waits || (!leads && name != "spool") {
                continue;
            }
            // Without a broker there is nothing to say of the subscriptions.
            if part.ready || (name == "subscriptions" && !ready.broker.ready) {
                continue;
            }
            let cause = part.cause.as_deref().unwrap_or("starting");
            found.push(Problem::new(condition, name, cause, Some(&part.since)));
        }
        let online = cloud.state == CloudState::Online.as_str();
        if leads && (!online || !cloud.cause.is_empty()) {
            let part = format!("iLink is {}", cloud.state);
            found.push(Problem::new(ilink(cloud.state), part, &*cloud.cause, Some(&cloud.since)));
        }
        if let Some(cause) = ready.callback.cause.as_deref().filter(|cause| leads && *cause != cloud.cause) {
            found.push(Problem::new(Condition::CallbackMissing, "callback", cause, Some(&ready.callback.since)));
        }
        for refused in &self.health.broker.refused {
            let part = format!("publishes to {}", refused.topic);
            found.push(Problem::new(Condition::PublishesRefused, part, &*refused.cause, Some(&refused.since)));
        }
        for busy in &self.health.broker.busy {
            let BusyHealth { what, kind, cause, since, messages, .. } = busy;
            let cause =
                format!("{cause}; {messages} wait and are tried again, none is lost; look into the broker's log");
            let condition = match *kind {
                "busy" => Condition::BrokerBusy,
                "ends_connection" => Condition::BrokerCutsOff,
                _ => Condition::BrokerRefusesForNow,
            };
            found.push(Problem::new(condition, format!("{what}, {}", in_words(kind)), cause, Some(since)));
        }
        if let Subscriptions::Unverified(_) = &link.subscriptions {
            let cause = self.health.broker.subscriptions.clone();
            found.push(Problem::new(Condition::Unverified, "subscriptions", cause, None));
        }
        found.extend(self.queue_problems());
        for warning in self.warnings {
            found.push(Problem::new(Condition::Configuration, "configuration", *warning, None));
        }
        // A stable sort: within both kinds the order above stays.
        found.sort_by_key(|problem| !problem.grave);
        found
    }

    fn queue_problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let queues = &self.health.queues;
        for (condition, name, queue, remedy) in [
            (
                Condition::InboundNearlyFull,
                "inbound queue",
                &queues.inbound,
                "when it is full, pushes are not answered and may be lost",
            ),
            (
                Condition::OutboundNearlyFull,
                "outbound queue",
                &queues.outbound,
                "when it is full, commands are refused as queue_full",
            ),
        ] {
            let percent = queue.bytes.saturating_mul(100) / self.queue_limit.max(1);
            if percent >= NEARLY_FULL {
                let limit = if self.ready.role.is_some() { Medium::Etcd } else { Medium::Disk }.limit_key();
                let cause = format!("{percent} % of {limit} are used; {remedy}");
                found.push(Problem::new(condition, name, cause, None));
            }
        }
        if let depth @ 1.. = queues.set_aside.depth {
            let cause = format!(
                "{depth} kept that the broker refused for good; `ilink2mqtt set-aside list` says why; when the cause is gone, \
                 `ilink2mqtt set-aside retry --all` sends them again"
            );
            found.push(Problem::new(Condition::SetAside, "set aside", cause, None));
        }
        found
    }

    /// Why nothing is stored.
    fn not_stored(&self) -> Condition {
        let queues = &self.health.queues;
        match self.ready.spool.kind {
            Some("full") if queues.outbound.bytes > queues.inbound.bytes => Condition::OutboundFull,
            Some("full") => Condition::InboundFull,
            Some("failed") => Condition::StoreFailed,
            _ => Condition::StoreRefuses,
        }
    }

    /// Why there is no connection to the broker.
    fn unconnected(&self) -> Condition {
        let link = self.link;
        if link.conflict.is_some() {
            Condition::BaseTopicTaken
        } else if link.turned_away {
            Condition::BrokerTurnsAway
        } else if self.health.counters.get("broker_failures") == Some(&0) {
            Condition::BrokerNotYet
        } else {
            Condition::BrokerUnreachable
        }
    }
}

/// Why commands do not arrive.
fn unsubscribed(link: &LinkState) -> Condition {
    match link.subscriptions {
        Subscriptions::Refused(_) | Subscriptions::SilentlyDenied => Condition::CommandsDenied,
        Subscriptions::Pending | Subscriptions::Granted | Subscriptions::Unverified(_) => Condition::CommandsNotYet,
    }
}

/// What is wrong at iLink, by the state's name.
fn ilink(state: &str) -> Condition {
    let state = CloudState::ALL.into_iter().find(|known| known.as_str() == state);
    match state.unwrap_or(CloudState::Degraded) {
        CloudState::Online => Condition::IlinkRemark,
        CloudState::Degraded => Condition::IlinkDegraded,
        CloudState::AuthError => Condition::IlinkRefuses,
        CloudState::Unregistered => Condition::IlinkUnregistered,
        CloudState::Offline => Condition::IlinkUnreachable,
    }
}
