//! One lane: what was sent, what waits, how it stands; and when a message is to blame for its own failures.
//!
//! Blame is found only by comparison with others. A broker that is busy refuses everybody, and one that dies at each message
//! dies at the innocent too. So a failure says something about a message only if it was sent alone, and if others were
//! acknowledged since it failed before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::Part;
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

/// Failures in comparison with others, at least, before a message is blamed: a broker that goes and comes may meet the same
/// message a few times by chance.
const COMPARISONS: u32 = 5;

/// What is held against one message. Pure: the caller brings the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blame {
    /// When it first failed alone.
    since: Duration,
    /// How many of others had been acknowledged when it last did.
    others: u64,
    /// How often it failed alone after others had been acknowledged since it had before.
    comparisons: u32,
}

impl Blame {
    /// It failed alone at `now`, for the first time; `others` were acknowledged so far.
    #[must_use]
    pub(super) fn first(now: Duration, others: u64) -> Self {
        Self { since: now, others, comparisons: 0 }
    }

    /// It failed alone once more.
    pub(super) fn again(&mut self, others: u64) {
        self.comparisons += u32::from(others > self.others);
        self.others = others;
    }

    /// Is it to blame, having failed each time since the first, over at least `long`?
    #[must_use]
    pub(super) fn is_proven(&self, now: Duration, long: Duration) -> bool {
        self.comparisons >= COMPARISONS && now.saturating_sub(self.since) >= long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    /// Fails alone once a minute; `acknowledged` says what others got between the failures.
    fn minutes(acknowledged: impl IntoIterator<Item = u64>) -> (Blame, Duration) {
        let (mut now, mut others) = (Duration::from_hours(1), 7);
        let mut blame = Blame::first(now, others);
        for more in acknowledged {
            now += Duration::from_mins(1);
            others += more;
            blame.again(others);
        }
        (blame, now)
    }

    #[test]
    fn who_fails_while_others_do_not_is_to_blame_after_ten_minutes() {
        let (blame, now) = minutes([1; 9]);
        assert!(!blame.is_proven(now, LONG));
        let (blame, now) = minutes([1; 10]);
        assert!(blame.is_proven(now, LONG));
    }

    #[test]
    fn a_broker_that_takes_nothing_blames_nobody_however_long() {
        let (blame, now) = minutes(std::iter::repeat_n(0, 10_000));
        assert!(!blame.is_proven(now, LONG));
    }

    #[test]
    fn a_moment_in_which_others_were_taken_proves_nothing() {
        let once = (0..100).map(|n| if n == 50 { 10_000 } else { 0 });
        let (blame, now) = minutes(once);
        assert!(!blame.is_proven(now, LONG));
    }

    #[test]
    fn rare_comparisons_count_too() {
        let (blame, now) = minutes((0..60).map(|n| u64::from(n % 10 == 0)));
        assert!(blame.is_proven(now, LONG));
    }

    #[test]
    fn many_failures_at_once_prove_nothing() {
        let mut blame = Blame::first(Duration::from_secs(1), 0);
        for others in 1..1000 {
            blame.again(others);
        }
        assert!(!blame.is_proven(Duration::from_mins(10), LONG));
    }
}
