//! A member's view of its cluster: who leads, who stands by, how etcd is. The leader retains it on `bridge/cluster`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::local::{Base, Publication};
use crate::mqtt::Publisher;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(5);

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It alone publishes and calls.
    Leader,
    /// It takes pushes in, and is ready to take over.
    Standby,
    /// It has not begun: it waits for etcd.
    Waiting,
}

impl Role {
    /// Its name in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
        }
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// `cluster.member`.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Since when it is a member: RFC 3339.
    pub since: String,
}

/// How many members of etcd answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EtcdHealth {
    /// So many do.
    pub healthy: usize,
    /// Of so many in `cluster.endpoints`.
    pub of: usize,
}

/// The cluster as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterHealth {
    /// Who leads, if anybody does.
    pub leader: Option<String>,
    /// All members that are connected to etcd; none if etcd does not say.
    pub members: Vec<Member>,
    /// How etcd is.
    pub etcd: EtcdHealth,
    /// What is wrong with it, with the remedy: for `status` and the page only.
    #[serde(skip)]
    pub trouble: Option<String>,
}

impl ClusterHealth {
    /// The last member has stopped: nobody leads, and none of so many members of etcd answers anybody.
    #[must_use]
    pub fn nobody(of: usize) -> Self {
        Self { leader: None, members: Vec::new(), etcd: EtcdHealth { healthy: 0, of }, trouble: None }
    }

    /// The JSON of `bridge/cluster`.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Looks at the cluster.
pub(super) type Look = Arc<dyn Fn() -> BoxFuture<'static, ClusterHealth> + Send + Sync>;

/// This member, and how to look at the others.
#[derive(Clone)]
pub struct Membership {
    /// `cluster.member`.
    pub me: String,
    /// What this member does.
    pub role: Role,
    /// Why it has not begun, while it waits.
    pub awaits: watch::Receiver<String>,
    /// Asks etcd: a member that stands by does so only when somebody wants to know.
    pub look: Look,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("me", &self.me).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Keeps the retained `bridge/cluster` up to date, until `stop`: on the member that leads.
pub async fn tell_cluster(member: Membership, base: Base, publisher: Publisher, stop: CancellationToken) {
    let mut told = Vec::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A tick only waits.
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let Some(health) = stop.run_until_cancelled((member.look)()).await else { return };
        if health.members.is_empty() {
            // etcd did not say: what was told last stands.
            continue;
        }
        let health = health.json();
        if told != health {
            told.clone_from(&health);
            publisher.set_state(Publication::json(base.bridge("cluster"), health).retained());
        }
    }
}
