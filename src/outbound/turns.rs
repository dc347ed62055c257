//! The order of those who are refused for now: each asks again when its turn comes, so that what came first is handed over first.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// All turns.
#[derive(Debug, Default)]
pub struct Turns {
    next: AtomicU64,
    /// The numbers of those who wait.
    waiting: watch::Sender<BTreeSet<u64>>,
}

/// The place of one of them in the order of arrival. Dropped, nobody waits for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    /// The place behind all others.
    pub(super) fn take(&self) -> Turn<'_> {
        Turn { turns: self, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Turn<'_> {
    /// Whoever comes later waits for this one.
    pub(super) fn hold(&self) {
        self.turns.waiting.send_if_modified(|waiting| {
            waiting.insert(self.number);
            false
        });
    }

    /// Nobody waits for this one any more.
    pub(super) fn pass(&self) {
        self.turns.waiting.send_if_modified(|waiting| waiting.remove(&self.number));
    }

    /// Resolves when nobody who came before waits. Until then, whoever comes later waits, too.
    pub(super) async fn comes(&self) {
        let is_first = |waiting: &BTreeSet<u64>| waiting.first().is_none_or(|first| *first >= self.number);
        if is_first(&self.turns.waiting.borrow()) {
            return;
        }
        self.hold();
        let mut waiting = self.turns.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(is_first).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pass();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_comes_later_waits_for_who_is_held_and_nobody_else_does() {
        let turns = Turns::default();
        let [first, second, third] = [turns.take(), turns.take(), turns.take()];
        assert!(third.comes().now_or_never().is_some(), "nobody waits");
        second.hold();
        assert!(first.comes().now_or_never().is_some());
        assert!(second.comes().now_or_never().is_some());
        let mut comes = Box::pin(third.comes());
        assert!(comes.as_mut().now_or_never().is_none());
        let fourth = turns.take();
        second.pass();
        assert!(fourth.comes().now_or_never().is_none(), "the third is before it");
        assert!(comes.as_mut().now_or_never().is_some());
        drop(comes);
        drop(third);
        assert!(fourth.comes().now_or_never().is_some());
    }
}
