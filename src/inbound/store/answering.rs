//! The last step before an answer leaves, and what follows if it does not.

use std::sync::{Arc, OnceLock};

use super::{Store, Ticket};
use crate::inbound::due::Due;
use crate::inbound::repeats::{self, Repeats};

impl Store {
    /// An answer to a try of this push is about to leave. `Leaving::left` tells that it did.
    #[must_use]
    pub fn leaving(ticket: Ticket) -> Leaving {
        Leaving(Some(match ticket {
            Ticket::Remembered(repeats, ticket) => {
                repeats.leaving(ticket);
                Answer::Remembered(repeats, ticket)
            }
            Ticket::Due(due) => Answer::Due(due),
        }))
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving(Option<Answer>);

enum Answer {
    Remembered(Arc<Repeats>, repeats::Ticket),
    Due(Arc<OnceLock<Due>>),
}

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        match self.0.take() {
            Some(Answer::Remembered(repeats, ticket)) => repeats.answered(ticket),
            Some(Answer::Due(due)) => {
                if let Some(due) = due.get() {
                    due.left();
                }
            }
            None => {}
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // A push in hand is told by its own end.
        if let Some(Answer::Remembered(repeats, ticket)) = self.0.take() {
            repeats.not_answered(ticket);
        }
    }
}
