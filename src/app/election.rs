//! Which bridge of an account leads: with one bridge, that one, always.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::os::lease::Lease;
use crate::store::Store;

/// Decides who leads.
pub(super) enum Election {
    /// There is nobody else. The seat is taken once.
    Alone(Option<Arc<dyn Store>>),
}

impl Election {
    /// The seat of a bridge that nobody contests.
    pub(super) fn uncontested(&mut self) -> Option<Seat> {
        match self {
            Self::Alone(store) => store.take().map(Seat::alone),
        }
    }

    /// Resolves when this bridge leads. Cancel-safe.
    pub(super) async fn seat(&mut self) -> Seat {
        match self.uncontested() {
            Some(seat) => seat,
            None => std::future::pending().await,
        }
    }
}

/// What a bridge has while it leads.
pub(super) struct Seat {
    pub(super) store: Arc<dyn Store>,
    pub(super) lease: Lease,
    lost: BoxFuture<'static, String>,
}

impl Seat {
    /// Of the only bridge of an account.
    fn alone(store: Arc<dyn Store>) -> Self {
        Self { store, lease: Lease::always(), lost: Box::pin(std::future::pending()) }
    }

    /// Resolves, with the cause, when this bridge must not lead any more. Cancel-safe.
    pub(super) async fn lost(&mut self) -> String {
        (&mut self.lost).await
    }
}
