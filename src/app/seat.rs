//! What a bridge has while it leads: the whole store, and the right to act.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::os::lease::Lease;
use crate::store::Store;

/// How long what is lazy may take to be stored when a seat is given back, and then how long that may take.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);

/// What a bridge has while it leads.
pub(super) struct Seat {
    pub(super) store: Arc<dyn Store>,
    pub(super) lease: Lease,
    lost: BoxFuture<'static, String>,
    /// Gives the leadership back, if others may have it next.
    giving_back: Option<BoxFuture<'static, ()>>,
}

impl Seat {
    /// Of the only bridge of an account.
    pub(super) fn alone(store: Arc<dyn Store>) -> Self {
        Self { store, lease: Lease::always(), lost: Box::pin(std::future::pending()), giving_back: None }
    }

    /// Of a member of a cluster, until `lost` resolves; `giving_back` leaves it to others.
    pub(super) fn held(
        store: Arc<dyn Store>,
        lease: Lease,
        lost: BoxFuture<'static, String>,
        giving_back: BoxFuture<'static, ()>,
    ) -> Self {
        Self { store, lease, lost, giving_back: Some(giving_back) }
    }

    /// Resolves, with the cause, when this bridge must not lead any more. Cancel-safe.
    pub(super) async fn lost(&mut self) -> String {
        (&mut self.lost).await
    }

    /// As [`Self::lost`], or after `limit`: what is shared is not waited for without end. Alone, never.
    pub(super) async fn lost_within(&mut self, limit: Duration) -> String {
        if self.giving_back.is_none() {
            return std::future::pending().await;
        }
        let lost = timeout(limit, &mut self.lost).await;
        lost.unwrap_or_else(|_| format!("etcd does not take what is to be stored: not within {limit:?}"))
    }

    /// Gives it back, once nothing leads any more. What is lazy is stored before.
    pub(super) async fn give_back(self) {
        let Some(giving_back) = self.giving_back else { return };
        let _ = timeout(GIVEN_BACK_WITHIN, self.store.close()).await;
        let _ = timeout(GIVEN_BACK_WITHIN, giving_back).await;
    }
}
