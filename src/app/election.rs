//! Which bridge of an account leads: a single bridge always does; in a cluster, etcd decides.

use std::sync::Arc;

use super::cluster::Cluster;
use super::seat::Seat;
use crate::operate::status::{Membership, Role};
use crate::store::Store;

/// Decides who leads.
pub(super) enum Election {
    /// There is nobody else. The seat is taken once.
    Alone(Option<Arc<dyn Store>>),
    /// Among the members of a cluster.
    Cluster(Box<Cluster>),
}

impl Election {
    /// The seat of a bridge that nobody contests.
    pub(super) fn uncontested(&mut self) -> Option<Seat> {
        match self {
            Self::Alone(store) => store.take().map(Seat::alone),
            Self::Cluster(_) => None,
        }
    }

    /// Resolves when this bridge leads. Cancel-safe.
    pub(super) async fn seat(&mut self) -> Seat {
        match self {
            Self::Alone(store) => match store.take() {
                Some(store) => Seat::alone(store),
                None => std::future::pending().await,
            },
            Self::Cluster(cluster) => cluster.seat().await,
        }
    }

    /// Whether there may be other members.
    pub(super) fn is_contested(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// This member in this role.
    pub(super) fn membership(&self, role: Role) -> Option<Membership> {
        match self {
            Self::Alone(_) => None,
            Self::Cluster(cluster) => Some(cluster.membership(role)),
        }
    }

    /// Whether another member could take over now.
    pub(super) async fn has_successor(&self) -> bool {
        match self {
            Self::Alone(_) => false,
            Self::Cluster(cluster) => cluster.has_successor().await,
        }
    }

    /// Tells the others that this member stops.
    pub(super) async fn leave(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.leave().await;
        }
    }

    /// The seat, if this member stops as the last one.
    pub(super) async fn last_seat(&mut self) -> Option<Seat> {
        match self {
            Self::Alone(_) => None,
            Self::Cluster(cluster) => cluster.last_seat().await,
        }
    }

    /// Leaves the leadership to the others for a while.
    pub(super) fn stand_back(&mut self) {
        if let Self::Cluster(cluster) = self {
            cluster.stand_back();
        }
    }

    /// Leaves the cluster, once nothing is stored any more.
    pub(super) async fn end(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.close().await;
        }
    }
}
