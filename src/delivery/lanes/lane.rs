//! One lane: what was sent, what waits, and how it stands.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::delivery::Part;
use crate::delivery::blame::Blame;
use crate::mqtt::{Backoff, ForNow, Handling, NotNow};

/// What is to be known of a row when it is sent again.
pub trait Memo: Default {
    /// These parts need not be sent again with the row; `late`: it is too late for its raw message.
    fn settle(&mut self, taken: Vec<Part>, late: bool);

    /// All parts must be sent again: what stands before the row was.
    fn unsettle(&mut self);
}

/// The right to send a row, once.
#[derive(Debug)]
pub struct Ticket<K> {
    /// The row's lane.
    pub lane: Arc<K>,
    /// Its number.
    pub seq: u64,
    /// How its publishes are to be handled; withdrawn when the lane begins anew before it.
    pub handling: Handling,
    /// No two are sent under one number, not even the same row twice.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct Sent<M, D> {
    /// Rising in a lane.
    pub(super) number: u64,
    pub(super) seq: u64,
    pub(super) memo: M,
    /// Once it is done with.
    pub(super) done: Option<D>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Rows go out as they come; none waits.
    Open,
    /// In the line of those who have rows to send.
    Queued,
    /// Its rest is over, but rows that were sent before it are not settled.
    Due,
    Resting,
    /// Its first row is under way alone.
    Probing,
}

#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) backoff: Backoff,
    pub(super) why: ForNow,
    /// Of the first row.
    pub(super) blame: Option<Blame>,
}

#[derive(Debug)]
pub(super) struct Lane<M, D> {
    pub(super) sent: VecDeque<Sent<M, D>>,
    /// Not sent, or to be sent again: all behind `sent`.
    pub(super) waiting: VecDeque<(u64, M)>,
    pub(super) state: State,
    handling: Handling,
    pub(super) trouble: Option<Box<Trouble>>,
}

impl<M: Memo, D> Lane<M, D> {
    pub(super) fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            state: State::Open,
            handling: Handling::withdrawable(),
            trouble: None,
        }
    }

    pub(super) fn send<K>(&mut self, lane: Arc<K>, number: u64, seq: u64, memo: M) -> Ticket<K> {
        self.sent.push_back(Sent { number, seq, memo, done: None });
        // What a connection ended at goes alone from then on, so that it takes no other with it.
        let fatal = self.trouble.as_ref().is_some_and(|trouble| trouble.why.how == NotNow::Fatal);
        Ticket { lane, seq, handling: self.handling.alone(fatal), number }
    }

    /// None if it is to be sent again anyway.
    pub(super) fn position<K>(&self, ticket: &Ticket<K>) -> Option<usize> {
        self.sent.binary_search_by_key(&ticket.number, |sent| sent.number).ok()
    }

    /// What was sent from `at` on is to be sent again, the first of it without what was taken of it. Returns how many rows that is.
    pub(super) fn begin_anew(&mut self, at: usize, taken: Vec<Part>, late: bool) -> usize {
        let old = std::mem::replace(&mut self.handling, Handling::withdrawable());
        old.withdraw();
        if self.state != State::Probing
            && let Some(trouble) = &mut self.trouble
        {
            // Another row comes first now.
            trouble.blame = None;
        }
        if let Some((_, memo)) = self.waiting.front_mut() {
            memo.unsettle();
        }
        let again = self.sent.len() - at;
        for (behind, sent) in self.sent.drain(at..).enumerate().rev() {
            let mut memo = sent.memo;
            // What was taken of the first when it was sent before still counts: nothing before it is sent again.
            if behind > 0 {
                memo.unsettle();
            }
            self.waiting.push_front((sent.seq, memo));
        }
        if let Some((_, memo)) = self.waiting.front_mut() {
            memo.settle(taken, late);
        }
        again
    }
}
