//! From a push to its row: it is tried until it is stored, or until nobody waits for that any more.

use std::sync::Arc;

use tokio::time::sleep;

use super::{Progress, Push, RETRY, Recognition, Store};
use crate::inbound::due::{self, NotTaken};
use crate::inbound::hands::Hand;
use crate::observe::counters::Unanswered;
use crate::store::{AppendError, Queue, SpoolError, Then, Tokens};

impl Store {
    /// Hands the push to the spool's writer, which stores it whether the peer waits or leaves.
    pub(super) fn hand_over(self: &Arc<Self>, push: Push) {
        let row = push.row.bytes.clone();
        let store = Arc::clone(self);
        let done: Then = Box::new(move |appended| {
            if let Some(push) = store.stored(push, &appended) {
                store.spawn(Arc::clone(&store).keep(push));
            }
        });
        if let Err(done) = self.spool.hand_over(Queue::Inbound, row.clone(), None, done) {
            // The writer's queue is full: wait for room in it.
            let spool = Arc::clone(&self.spool);
            self.spawn(async move { done(spool.append(Queue::Inbound, row, None).await) });
        }
    }

    /// Reports the outcome of an attempt to store the push. Returns the push if it must be tried again.
    fn stored(&self, push: Push, appended: &Result<u64, AppendError>) -> Option<Push> {
        match appended {
            Ok(seq) => {
                self.counters.pushes_stored.add();
                if let (Recognition::Memory(repeats), Some(ticket)) = (&self.recognition, push.ticket) {
                    repeats.stored(ticket, *seq);
                }
                let _ = self.stored.send(push.tell);
                None
            }
            Err(AppendError::Full) => Some(push.refused(Unanswered::Full)),
            Err(AppendError::Spool(SpoolError::Unwritable(_) | SpoolError::TooLarge(_))) => {
                Some(push.refused(Unanswered::Failed))
            }
            // The process is about to stop; nothing may be answered any more.
            Err(AppendError::Spool(SpoolError::Failed(_))) => {
                let _ = push.tell.send(Progress::Failed);
                None
            }
        }
    }

    /// Tries again to append a push that was refused, until it is stored or no try of it waits any more.
    async fn keep(self: Arc<Self>, mut push: Push) {
        loop {
            sleep(RETRY).await;
            if self.nobody_waits(&push) {
                return;
            }
            // Not given up during this attempt: the writer has the row, and may store it.
            let appended = self.spool.append(Queue::Inbound, push.row.bytes.clone(), None).await;
            match self.stored(push, &appended) {
                None => return,
                Some(again) => push = again,
            }
        }
    }

    /// Stores the push that is in hand; tries until that is done or no try of it waits any more.
    pub(super) async fn keep_once(self: Arc<Self>, tokens: Arc<dyn Tokens>, mut push: Push, hand: Arc<Hand>) {
        loop {
            let Hand { digest, term, tell, .. } = &*hand;
            let new = due::New { tokens: &tokens, tasks: &self.tasks, digest: *digest, term, row: &push.row, tell };
            let again = match new.take().await {
                Ok(found) => {
                    self.counters.pushes_repeated.add_if(found.is_repeat);
                    self.counters.pushes_stored.add_if(!found.is_repeat);
                    // If nobody waits for it any more, it goes with the hand.
                    let _ = hand.due.set(found);
                    hand.tell.send_replace(Progress::Stored);
                    return;
                }
                Err(NotTaken::Late) => Some(push.late()),
                Err(NotTaken::Refused(error)) => self.stored(push, &Err(error)),
            };
            let Some(again) = again else { return };
            push = again;
            sleep(RETRY).await;
            if self.hands.give_up(&hand) {
                return;
            }
        }
    }

    fn nobody_waits(&self, push: &Push) -> bool {
        match (&self.recognition, push.ticket) {
            (Recognition::Memory(repeats), Some(ticket)) => repeats.give_up(ticket, &push.tell),
            _ => push.tell.is_closed(),
        }
    }
}
