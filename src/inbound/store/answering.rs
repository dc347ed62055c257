//! The last step before an answer leaves, and what follows if it does not.

use std::sync::Arc;

use super::{Store, Ticket};
use crate::inbound::hands::Hand;
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
            Ticket::InHand(hand) => {
                hand.leaving();
                Answer::InHand(hand)
            }
        }))
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving(Option<Answer>);

enum Answer {
    Remembered(Arc<Repeats>, repeats::Ticket),
    InHand(Arc<Hand>),
}

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        match self.0.take() {
            Some(Answer::Remembered(repeats, ticket)) => repeats.answered(ticket),
            Some(Answer::InHand(hand)) => {
                if let Some(due) = hand.due.get() {
                    due.left();
                }
            }
            None => {}
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Answer::Remembered(repeats, ticket)) => repeats.not_answered(ticket),
            Some(Answer::InHand(hand)) => hand.stayed(),
            None => {}
        }
    }
}
