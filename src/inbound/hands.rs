//! The pushes that this member of a cluster has in hand: it stores them, and then answers. A further try of one shares its commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::due::{Due, Term};
use super::repeats::{Digest, Progress};
use crate::os::lock;

/// All of them, by the bytes of the push.
#[derive(Default)]
pub(super) struct Hands(Mutex<HashMap<Digest, Weak<Hand>>>);

/// A push in hand. Its tries share it, and who stores it.
pub struct Hand {
    pub(super) digest: Digest,
    pub(super) tell: watch::Sender<Progress>,
    /// What is due for it, once it is stored.
    pub(super) due: OnceLock<Due>,
    /// How many answers are on their way out, or have left.
    leaving: AtomicU32,
    pub(super) term: Term,
    all: Arc<Hands>,
}

impl Hands {
    /// The push of these bytes, how far it is, and whether it is a new one; for a try that waits since then.
    pub(super) fn take(
        self: &Arc<Self>,
        digest: Digest,
        since: Duration,
    ) -> (Arc<Hand>, watch::Receiver<Progress>, bool) {
        // Outlives the lock, which its end may want.
        let there: Option<Arc<Hand>>;
        let mut hands = lock(&self.0);
        there = hands.get(&digest).and_then(Weak::upgrade);
        if let Some(hand) = &there
            && hand.leaving.load(Ordering::Relaxed) == 0
        {
            hand.term.extend(since);
            return (Arc::clone(hand), hand.tell.subscribe(), false);
        }
        let (tell, progress) = watch::channel(Progress::Storing);
        let (due, leaving, all) = (OnceLock::new(), AtomicU32::new(0), Arc::clone(self));
        let hand = Arc::new(Hand { digest, tell, due, leaving, term: Term::of(since), all });
        hands.insert(digest, Arc::downgrade(&hand));
        (hand, progress, true)
    }

    /// Whether nobody waits for this push. Then nobody comes to wait for it either.
    pub(super) fn give_up(&self, hand: &Arc<Hand>) -> bool {
        let mut hands = lock(&self.0);
        let is_over = hand.tell.is_closed();
        if is_over {
            hands.retain(|_, other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(hand)));
        }
        is_over
    }
}

impl Hand {
    /// An answer is on its way out: the same bytes are a new message, unless it does not leave.
    pub(super) fn leaving(&self) {
        self.leaving.fetch_add(1, Ordering::Relaxed);
    }

    /// It did not leave.
    pub(super) fn stayed(&self) {
        self.leaving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut hands = lock(&self.all.0);
        if hands.get(&self.digest).is_some_and(|hand| std::ptr::eq(hand.as_ptr(), self)) {
            hands.remove(&self.digest);
        }
    }
}
