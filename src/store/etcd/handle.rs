//! What a caller holds of the store: how it appends, whoever leads. What only the leader does with it is in `leading`.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::error::EtcdError;
use super::state::State;
use super::tokens::Asked;
use crate::os::lock;
use crate::store::request::{New, Op, Reply};
use crate::store::shared::Shared;
use crate::store::types::{
    AppendError, Counters, Key, Limits, Medium, NotStored, Queue, QueueStats, SpoolError, WhyNot,
};
use crate::store::{Answer, Append, Then};

/// How many may wait for an answer at once. More wait before they are queued, so that dropping their future still leaves nothing
/// behind.
pub(super) const WAITING_MOST: usize = 1024;

/// The largest row. etcd takes requests of 1.5 MiB by default, all that goes with the row included.
pub(super) const ROW_MOST: usize = 1_400_000;

/// How long closing waits for etcd.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// What goes to the keeper.
#[derive(Debug)]
pub(super) enum Request {
    Durable(Asked),
    /// Whatever is not stored within this time stays undone. The sender is dropped at the end.
    Close {
        ended: oneshot::Sender<()>,
        within: Duration,
    },
}

/// What a handle and its keeper share.
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Mutex<State>,
    /// There are new lazy changes.
    pub(super) lazily: Notify,
    pub(super) limits: Limits,
}

impl Common {
    pub(super) fn new(shared: Arc<Shared>, state: State, limits: Limits) -> Self {
        Self { shared, state: Mutex::new(state), lazily: Notify::new(), limits }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What else the holder of a handle may do.
pub(super) trait Bar: Send + Sync + 'static {
    /// Why nothing can be stored now, as far as the store itself does not know it.
    fn bar(&self) -> Option<NotStored>;
}

/// A handle; `R` is what else its holder may do.
pub(super) struct Handle<R> {
    /// Those who wait for an answer are bounded by `waiting`.
    pub(super) requests: mpsc::UnboundedSender<Request>,
    waiting: Arc<Semaphore>,
    pub(super) common: Arc<Common>,
    pub(super) rights: R,
}

impl<R> fmt::Debug for Handle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store on etcd")
    }
}

impl<R> Handle<R> {
    pub(super) fn new(requests: mpsc::UnboundedSender<Request>, common: Arc<Common>, rights: R) -> Self {
        Self { requests, waiting: Arc::new(Semaphore::new(WAITING_MOST)), common, rights }
    }

    /// Has something made durable.
    pub(super) async fn ask<T, E: From<SpoolError>, A: Into<Asked>>(
        &self,
        op: impl FnOnce(Reply<T, E>) -> A,
    ) -> Result<T, E> {
        let failure = |()| E::from(self.common.shared.failed());
        let permit = Arc::clone(&self.waiting).acquire_owned().await.map_err(|_| failure(()))?;
        let (sender, answer) = oneshot::channel();
        let op = op(Reply::new(sender, permit));
        self.requests.send(Request::Durable(op.into())).map_err(|_| failure(()))?;
        answer.await.unwrap_or_else(|_| Err(failure(())))
    }

    /// What is read needs no keeper, and yet ends with it.
    pub(super) fn is_open(&self) -> Result<(), SpoolError> {
        if self.requests.is_closed() || self.common.shared.failure.get().is_some() {
            return Err(self.common.shared.failed());
        }
        Ok(())
    }

    async fn end(&self, within: Duration) {
        let (ended, end) = oneshot::channel();
        if self.requests.send(Request::Close { ended, within }).is_ok() {
            // An error, because nothing is sent.
            let _ = end.await;
        }
        self.requests.closed().await;
    }

    /// As if the process had been killed.
    #[cfg(test)]
    pub(super) async fn kill(&self) {
        self.end(Duration::ZERO).await;
    }
}

/// Whether etcd takes data of this size.
pub(super) fn fits(data: &[u8]) -> Result<(), SpoolError> {
    if data.len() > ROW_MOST { Err(SpoolError::TooLarge(EtcdError::TooLarge.to_string())) } else { Ok(()) }
}

impl<R: Bar> Append for Handle<R> {
    fn append(&self, queue: Queue, data: Bytes, key: Option<Key>) -> Answer<'_, u64, AppendError> {
        async move {
            fits(&data)?;
            self.ask(|reply| Op::Append(New { queue, data, key }, reply)).await
        }
        .boxed()
    }

    fn hand_over(&self, queue: Queue, data: Bytes, key: Option<Key>, then: Then) -> Result<(), Then> {
        if let Err(error) = fits(&data) {
            then(Err(error.into()));
            return Ok(());
        }
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return Err(then) };
        let reply = Reply::then(then, permit);
        // If the keeper has gone, `then` goes with the request.
        let _ = self.requests.send(Request::Durable(Op::Append(New { queue, data, key }, reply).into()));
        Ok(())
    }

    fn announce(&self, _queue: Queue) {
        // Others read them, too: what is stored wakes by itself.
    }

    fn medium(&self) -> Medium {
        Medium::Etcd
    }

    fn passes(&self, cause: &str) -> bool {
        cause != EtcdError::NoSpace.to_string()
    }

    fn stats(&self, queue: Queue) -> QueueStats {
        let count = *self.common.state().counts().get(queue);
        QueueStats { depth: count.depth, bytes: count.bytes }
    }

    fn limit(&self, queue: Queue) -> u64 {
        *self.common.limits.get(queue)
    }

    fn counters(&self) -> Counters {
        self.common.shared.counters()
    }

    fn writable(&self) -> watch::Receiver<Result<(), NotStored>> {
        self.common.shared.writable.subscribe()
    }

    fn stores(&self) -> Result<(), NotStored> {
        match self.common.shared.failure.get() {
            Some(cause) => Err(NotStored { cause, why: WhyNot::Failed }),
            None => self.common.shared.writable.borrow().clone().and_then(|()| self.rights.bar().map_or(Ok(()), Err)),
        }
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        self.common.shared.failure.wait().boxed()
    }

    fn has_failed(&self) -> bool {
        self.common.shared.failure.get().is_some()
    }

    fn waits_for_the_disk(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.common.shared.excused)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.end(CLOSE_WAIT).boxed()
    }
}
