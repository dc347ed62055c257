//! The retained presence topics at the broker: cleared for who is configured no longer, restored to a broker that lost them.
//!
//! What a push says of presence is published in its turn by the relay; all of it is kept at the broker by the link's one
//! [holder](Publisher::set_state) of retained topics, so that nothing older overwrites it.

use std::collections::HashSet;
use std::future::pending;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use tracing::info;

use super::presence::PresenceBook;
use crate::local::{Base, Publication};
use crate::mqtt::Publisher;
use crate::os::clock;
use crate::protocol::Uid;

/// Keeps them in step with the book.
pub(super) struct Retained {
    /// Who is published as what.
    pub(super) book: PresenceBook,
    base: Base,
    publisher: Publisher,
    /// What is being cleared, and whether the broker has acknowledged it.
    clearing: FuturesUnordered<BoxFuture<'static, (Uid, bool)>>,
    being_cleared: HashSet<Uid>,
}

impl Retained {
    /// Restores all that earlier runs published.
    pub(super) fn new(book: PresenceBook, base: Base, publisher: Publisher) -> Self {
        for (uid, online) in book.all() {
            publisher.restore(Self::publication(&base, uid, online));
        }
        Self { book, base, publisher, clearing: FuturesUnordered::new(), being_cleared: HashSet::new() }
    }

    /// What the topic of `uid` says.
    pub(super) fn publication(base: &Base, uid: &Uid, online: bool) -> Publication {
        Publication::raw(base.presence(uid), if online { "online" } else { "offline" }).retained()
    }

    /// Clears the topics of uids that are not configured any more; `last` is the last row that was stored before.
    pub(super) fn configure(&mut self, configured: HashSet<Uid>, last: u64) {
        for uid in self.book.reconfigure(configured, last) {
            self.clear(uid);
        }
        // Configured again before they were cleared: what was published stands, until it is read anew.
        for (uid, online) in self.book.all().filter(|(uid, _)| self.being_cleared.contains(*uid)) {
            if !self.book.is_dropped(uid) {
                self.publisher.restore(Self::publication(&self.base, uid, online));
            }
        }
    }

    /// Clears the topics of those who are neither configured nor heard of for long, when it is time to.
    pub(super) fn prune(&mut self) {
        let pruned = self.book.prune(clock::boot_now());
        if !pruned.is_empty() {
            let count = pruned.len();
            info!(count, "cleared the presence topics of contacts not configured and not heard of for long");
        }
        for uid in pruned {
            self.clear(uid);
        }
    }

    fn clear(&mut self, uid: Uid) {
        if self.being_cleared.insert(uid.clone()) {
            let cleared = self.publisher.clear(self.base.presence(&uid));
            self.clearing.push(cleared.map(|cleared| (uid, cleared)).boxed());
        }
    }

    /// Notes the next topic that the broker has cleared; waits while there is none. What nobody heard before the process ends is
    /// cleared again by the next run.
    ///
    /// Cancel-safe.
    pub(super) async fn cleared(&mut self) {
        let Some((uid, cleared)) = self.clearing.next().await else { return pending().await };
        self.being_cleared.remove(&uid);
        let forgotten = cleared && self.book.forget_dropped(&uid);
        // A push from before it was dropped came in between.
        if !forgotten && self.book.is_dropped(&uid) {
            self.book.drop_again(&uid);
            self.clear(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;
    use crate::store::sqlite::Spool;

    #[tokio::test]
    async fn what_was_stored_before_a_contact_was_dropped_does_not_bring_its_presence_back() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let (ann, bob): (Uid, Uid) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let both = HashSet::from([ann.clone(), bob.clone()]);
        let mut book = PresenceBook::open(spool, both.clone()).await.unwrap();
        assert!(book.note(&ann, true, Some(1), 1));
        assert_eq!(book.reconfigure(HashSet::new(), 5), std::slice::from_ref(&ann));
        // One that waited comes before the broker has acknowledged the clearing, one afterwards.
        assert!(!book.note(&ann, false, Some(2), 4));
        assert!(book.forget_dropped(&ann));
        assert!(!book.note(&ann, false, Some(2), 5));
        // Nothing had been published of this one yet.
        assert!(!book.note(&bob, true, None, 5));
        assert_eq!(book.all().count(), 0);
        // Later ones are news; and whoever is configured again is as before.
        assert!(book.note(&bob, true, Some(2), 6));
        assert!(book.reconfigure(both, 7).is_empty());
        assert!(book.note(&ann, true, None, 3));
    }

    #[tokio::test]
    async fn a_clear_that_something_newer_overtook_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let ann: Uid = "ann".parse().unwrap();
        let mut book = PresenceBook::open(spool, HashSet::from([ann.clone()])).await.unwrap();
        assert!(book.note(&ann, true, Some(1), 1));
        assert_eq!(book.reconfigure(HashSet::new(), 1), std::slice::from_ref(&ann));
        // Published between the clearing and its acknowledgement: nothing may be forgotten yet.
        assert!(book.note(&ann, false, Some(2), 2));
        assert!(!book.forget_dropped(&ann) && book.is_dropped(&ann));
        book.drop_again(&ann);
        assert!(book.forget_dropped(&ann) && !book.is_dropped(&ann));
        assert_eq!(book.all().count(), 0);
    }
}
