//! The last step before an answer leaves, and what follows if it does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{HOLD, RETRY, Store, Ticket};
use crate::inbound::due::{self, Due};
use crate::inbound::repeats::{self, Repeats};
use crate::observe::counters::Unanswered;
use crate::protocol::Kind;
use crate::store::{SpoolError, Tokens};

impl Store {
    /// An answer to a try of this push, which came so long ago, is about to leave. `Leaving::left` tells that it did.
    ///
    /// # Errors
    /// If it must not leave: where several bridges take pushes, one of the others may have answered.
    pub async fn leaving(
        self: &Arc<Self>,
        ticket: Ticket,
        kind: Kind,
        waited: Duration,
    ) -> Result<Leaving, Unanswered> {
        match ticket {
            Ticket::Remembered(repeats, ticket) => {
                repeats.leaving(ticket);
                Ok(Leaving(Some(Answer::Remembered(repeats, ticket))))
            }
            Ticket::Due(tokens, due) => {
                let taken = due.get().map(|due| timeout(HOLD.saturating_sub(waited), self.take(tokens, *due)));
                let leaving = match taken {
                    Some(taken) => taken.await.ok().flatten(),
                    None => None,
                };
                leaving.ok_or_else(|| self.unanswered(Some(kind), Unanswered::Slow))
            }
        }
    }

    /// Takes the right to answer, unless another has it. If the peer leaves meanwhile, it is given back.
    async fn take(self: &Arc<Self>, tokens: Arc<dyn Tokens>, due: Due) -> Option<Leaving> {
        let (to, taken) = oneshot::channel();
        let store = Arc::clone(self);
        self.spawn(async move {
            let outcome = loop {
                match due::take(&*tokens, due).await {
                    Err(SpoolError::Unwritable(_)) if !to.is_closed() => sleep(RETRY).await,
                    outcome => break outcome,
                }
            };
            if outcome == Ok(true) {
                // If nobody waits for it any more, it is dropped.
                let _ = to.send(Leaving(Some(Answer::Taken(store, tokens, due))));
            }
        });
        taken.await.ok()
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving(Option<Answer>);

enum Answer {
    Remembered(Arc<Repeats>, repeats::Ticket),
    Taken(Arc<Store>, Arc<dyn Tokens>, Due),
}

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        if let Some(Answer::Remembered(repeats, ticket)) = self.0.take() {
            repeats.answered(ticket);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        match self.0.take() {
            None => {}
            Some(Answer::Remembered(repeats, ticket)) => repeats.not_answered(ticket),
            Some(Answer::Taken(store, tokens, due)) => {
                store.spawn(async move { due::put_back(&*tokens, due).await });
            }
        }
    }
}
