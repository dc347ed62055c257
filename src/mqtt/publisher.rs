//! The handle by which the daemon publishes and acknowledges. It is cheap to clone and outlives connections.
//!
//! A publication is handed over in order and stays the link's until its [`Completion`] says what became of it; meanwhile
//! connections may come and go. Nothing here waits for the broker but the completion.

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

/// Publications handed over and not yet taken by the link task: a full in-flight window more, so that the window refills
/// without waiting for the producers; more would only hide a slow broker from them.
pub(super) const QUEUE: usize = 100;

/// Publishes and acknowledges.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::Sender<Handed>,
    acks: mpsc::UnboundedSender<AckToken>,
    standing: Arc<Standing>,
    counters: Arc<LinkCounters>,
}

/// The link task's ends of a [`Publisher`].
pub(super) struct PublisherEnds {
    pub(super) jobs: mpsc::Receiver<Handed>,
    pub(super) acks: mpsc::UnboundedReceiver<AckToken>,
    pub(super) standing: Arc<Standing>,
}

/// A publication on its way to the link task.
pub(super) struct Handed {
    pub(super) publication: Publication,
    pub(super) handling: Handling,
    pub(super) done: oneshot::Sender<Delivery>,
}

/// How a publication is handled by the link.
#[derive(Debug, Clone, Default)]
pub struct Handling {
    /// Set by whoever wants it back: if it is not on the wire, it ends as [`Delivery::Withdrawn`]. Nobody's, if it is none.
    withdrawn: Option<Arc<AtomicBool>>,
    /// It is suspected of ending connections: nothing else is in flight beside it.
    pub alone: bool,
}

impl Handling {
    /// Of what may be withdrawn, together with all clones of this.
    #[must_use]
    pub fn withdrawable() -> Self {
        Self { withdrawn: Some(Arc::default()), alone: false }
    }

    /// The same, sent alone.
    #[must_use]
    pub fn alone(&self, alone: bool) -> Self {
        Self { alone, ..self.clone() }
    }

    /// Wants back what is not on the wire yet.
    pub fn withdraw(&self) {
        if let Some(withdrawn) = &self.withdrawn {
            withdrawn.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.as_ref().is_some_and(|withdrawn| withdrawn.load(Ordering::Relaxed))
    }
}

/// Resolves to what became of the publication; [`Delivery::Closed`] when the link stopped.
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
        // Unbounded, so that acknowledging never blocks; it holds at most one entry per message handed out, and those are bounded.
        let (acks, acks_rx) = mpsc::unbounded_channel();
        let standing = Arc::new(standing);
        let ends = PublisherEnds { jobs: jobs_rx, acks: acks_rx, standing: Arc::clone(&standing) };
        (Self { jobs, acks, standing, counters }, ends)
    }

    /// Hands over a publication, after waiting for room in the queue. The order of calls is the order on the wire. A retained
    /// one is what stands at its topic from then on.
    ///
    /// Cancel-safe: dropped before it returns, nothing was handed over.
    pub async fn publish(&self, publication: Publication) -> Completion {
        self.publish_as(publication, Handling::default()).await
    }

    /// As [`Self::publish`], and how it is to be handled.
    ///
    /// Cancel-safe, as that.
    pub async fn publish_as(&self, publication: Publication, handling: Handling) -> Completion {
        let (done, completion) = oneshot::channel();
        // A link that has stopped drops the sender, which resolves the completion to Closed.
        let _ = self.jobs.send(Handed { publication, handling, done }).await;
        Completion(completion)
    }

    /// Sets what the broker should hold at a retained topic: sent now, and again after every connect, always the newest only,
    /// and again and again while it is refused. Never blocks and is never queued. Refusals are logged.
    pub fn set_state(&self, publication: Publication) {
        self.standing.set(publication, Lasts::Connection);
    }

    /// As [`Self::set_state`], for what does not change while the bridge is away: sent again only to a broker that may have
    /// lost it.
    pub fn restore(&self, publication: Publication) {
        self.standing.set(publication, Lasts::Session);
    }

    /// Takes back what stands at a retained topic, however long that takes: true once the broker has acknowledged it, false if
    /// something newer was published there instead, or the link has stopped.
    pub fn clear(&self, topic: String) -> impl Future<Output = bool> + Send + use<> {
        let cleared = self.standing.clear(topic);
        async move { cleared.await.unwrap_or(false) }
    }

    /// Acknowledges a received message. Never blocks; does nothing if its connection has gone (the broker sends it again).
    pub fn ack(&self, token: AckToken) {
        if self.acks.send(token).is_err() {
            LinkCounters::one(&self.counters.stale_acks);
        }
    }
}
