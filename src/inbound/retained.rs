//! The retained presence topics at the broker: cleared for who is configured no longer, restored to a broker that lost them.

use std::collections::HashSet;
use std::future::pending;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::presence::PresenceBook;
use crate::local::{Base, Publication};
use crate::mqtt::{Delivery, LinkState, Publisher};
use crate::protocol::Uid;

/// Keeps them in step with the book.
pub(super) struct Retained {
    /// Who is published as what.
    pub(super) book: PresenceBook,
    base: Base,
    publisher: Publisher,
    /// What is being cleared, and whether the broker has heard it.
    clearing: FuturesUnordered<BoxFuture<'static, (Uid, bool)>>,
    /// The session ([`LinkState::session_began`]) whose broker has them.
    session: u64,
}

impl Retained {
    pub(super) fn new(book: PresenceBook, base: Base, publisher: Publisher) -> Self {
        Self { book, base, publisher, clearing: FuturesUnordered::new(), session: 0 }
    }

    /// What the topic of `uid` says.
    pub(super) fn publication(base: &Base, uid: &Uid, online: bool) -> Publication {
        Publication::raw(base.presence(uid), if online { "online" } else { "offline" }).retained()
    }

    /// Clears the topics of uids that are not configured any more, until `stop`.
    pub(super) async fn configure(&mut self, configured: HashSet<Uid>, stop: &CancellationToken) {
        for uid in self.book.reconfigure(configured) {
            let empty = Publication { topic: self.base.presence(&uid), retain: true, ..Publication::default() };
            let Some(completion) = stop.run_until_cancelled(self.publisher.publish(empty)).await else { return };
            let cleared = completion.map(|delivery| (uid, matches!(delivery, Delivery::Acked { .. })));
            self.clearing.push(cleared.boxed());
        }
    }

    /// Notes the next topic that the broker has cleared; waits while there is none. One that it refused, or that nobody heard
    /// before the process ends, is cleared again by the next run.
    ///
    /// Cancel-safe.
    pub(super) async fn cleared(&mut self) {
        match self.clearing.next().await {
            Some((uid, true)) => self.book.forget_dropped(&uid),
            Some((_, false)) => {}
            None => pending().await,
        }
    }

    /// A broker that does not know our session may have lost its retained messages with it.
    pub(super) async fn restore(&mut self, link: &LinkState, stop: &CancellationToken) {
        if !link.connected || link.session_began == self.session {
            return;
        }
        self.session = link.session_began;
        for (uid, online) in self.book.all() {
            let publication = Self::publication(&self.base, uid, online);
            // Whether it is taken is of no interest: a connection lost before sends it again.
            if stop.run_until_cancelled(self.publisher.publish(publication)).await.is_none() {
                return;
            }
        }
    }
}
