//! The handle with which the daemon publishes and acknowledges. It is cheap to clone and works across connections.
//!
//! Publications are handed over in order. The link holds each until its [`Completion`] tells the outcome; connections may come
//! and go in the meantime. Only the completion waits for the broker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::delivery::Delivery;
use super::incoming::AckToken;
use super::standing::{Lasts, Standing};
use super::state::LinkCounters;
use crate::local::Publication;

/// Publications that were handed over and not yet taken by the link's task: as many as a full window, so that it refills at
/// once. More would only hide a slow broker from the callers.
pub(super) const QUEUE: usize = 100;

/// Publishes and acknowledges.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::Sender<Handed>,
    acks: mpsc::UnboundedSender<AckToken>,
    standing: Arc<Standing>,
    counters: Arc<LinkCounters>,
}

/// The ends of a [`Publisher`] that the link's task holds.
pub(super) struct PublisherEnds {
    pub(super) jobs: mpsc::Receiver<Handed>,
    pub(super) acks: mpsc::UnboundedReceiver<AckToken>,
    pub(super) standing: Arc<Standing>,
}

/// A publication on its way to the link's task.
pub(super) struct Handed {
    pub(super) publication: Publication,
    pub(super) handling: Handling,
    pub(super) done: oneshot::Sender<Delivery>,
}

/// How the link is to handle a publication.
#[derive(Debug, Clone, Default)]
pub struct Handling {
    /// Set by the caller to withdraw it: if it is not in flight, it ends as [`Delivery::Withdrawn`]. None if it cannot be
    /// withdrawn.
    withdrawn: Option<Arc<AtomicBool>>,
    /// It is suspected of ending connections: nothing else may be in flight with it.
    pub alone: bool,
}

impl Handling {
    /// For publications that can be withdrawn. Those that are handed over with clones of the same value are withdrawn together.
    #[must_use]
    pub fn withdrawable() -> Self {
        Self { withdrawn: Some(Arc::default()), alone: false }
    }

    /// The same, sent alone.
    #[must_use]
    pub fn alone(&self, alone: bool) -> Self {
        Self { alone, ..self.clone() }
    }

    /// Withdraws what is not in flight yet.
    pub fn withdraw(&self) {
        if let Some(withdrawn) = &self.withdrawn {
            withdrawn.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.as_ref().is_some_and(|withdrawn| withdrawn.load(Ordering::Relaxed))
    }
}

/// Resolves to the outcome of the publication; to [`Delivery::Closed`] if the link stops first.
#[derive(Debug)]
pub struct Completion(oneshot::Receiver<Delivery>);

impl Future for Completion {
    type Output = Delivery;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Delivery> {
        Pin::new(&mut self.0).poll(cx).map(|delivery| delivery.unwrap_or(Delivery::Closed))
    }
}

impl Publisher {
    pub(super) fn new(standing: Standing, counters: Arc<LinkCounters>) -> (Self, PublisherEnds) {
        let (jobs, jobs_rx) = mpsc::channel(QUEUE);
        // Unbounded, so that acknowledging never blocks. It holds at most one entry per received message, and those are
        // bounded.
        let (acks, acks_rx) = mpsc::unbounded_channel();
        let standing = Arc::new(standing);
        let ends = PublisherEnds { jobs: jobs_rx, acks: acks_rx, standing: Arc::clone(&standing) };
        (Self { jobs, acks, standing, counters }, ends)
    }

    /// Hands over a publication; waits while the queue is full. Publications are sent in the order of the calls. A retained one
    /// replaces what [`Self::set_state`] set for its topic.
    ///
    /// Cancel-safe: if it is dropped before it returns, nothing was handed over.
    pub async fn publish(&self, publication: Publication) -> Completion {
        self.publish_as(publication, Handling::default()).await
    }

    /// As [`Self::publish`], with its handling.
    ///
    /// Cancel-safe in the same way.
    pub async fn publish_as(&self, publication: Publication, handling: Handling) -> Completion {
        let (done, completion) = oneshot::channel();
        // A link that has stopped drops the sender, which resolves the completion to Closed.
        let _ = self.jobs.send(Handed { publication, handling, done }).await;
        Completion(completion)
    }

    /// Sets the retained message that the broker should hold at a topic. The link sends it now and after every connect, and
    /// tries again while it is refused. Only the newest message of a topic is sent. Never blocks. Refusals are logged.
    pub fn set_state(&self, publication: Publication) {
        self.standing.set(publication, Lasts::Connection);
    }

    /// As [`Self::set_state`], for messages that do not change while the bridge is away: they are sent again only if the broker
    /// may have lost them.
    pub fn restore(&self, publication: Publication) {
        self.standing.set(publication, Lasts::Session);
    }

    /// Clears the retained message of a topic, however long that takes. Resolves to true once the broker has acknowledged that,
    /// and to false if something newer was published there, or the link has stopped.
    pub fn clear(&self, topic: String) -> impl Future<Output = bool> + Send + use<> {
        let cleared = self.standing.clear(topic);
        async move { cleared.await.unwrap_or(false) }
    }

    /// Acknowledges a received message. Never blocks. Does nothing if its connection has gone: the broker sends the message
    /// again.
    pub fn ack(&self, token: AckToken) {
        if self.acks.send(token).is_err() {
            LinkCounters::one(&self.counters.stale_acks);
        }
    }
}
