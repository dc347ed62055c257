//! One lane: the rows that were sent, those that wait, and its state; and the rule by which a message is blamed for its
//! failures.
//!
//! A message is blamed only by comparison with others. A busy broker refuses every message, and one that crashes at every
//! message also crashes at good ones. So a failure counts against a message only if it was sent alone, and if other messages
//! were acknowledged since its last failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::Part;
use crate::mqtt::{Backoff, ForNow, Handling, NotNow};

/// What is remembered of a row until it is sent again.
pub trait Memo: Default {
    /// These parts need not be sent again. `late`: the raw message is too old.
    fn settle(&mut self, taken: Vec<Part>, late: bool);

    /// All parts must be sent again, because a row before this one is sent again.
    fn unsettle(&mut self);
}

/// The right to send a row, once.
#[derive(Debug)]
pub struct Ticket<K> {
    /// The row's lane.
    pub lane: Arc<K>,
    /// Its number.
    pub seq: u64,
    /// How the link handles its publishes. They are withdrawn if a row before it must be sent again.
    pub handling: Handling,
    /// Unique for each sending, also for the same row.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct Sent<M, D> {
    /// Rising in a lane.
    pub(super) number: u64,
    pub(super) seq: u64,
    pub(super) memo: M,
    /// Set once its outcome is known.
    pub(super) done: Option<D>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No row waits: new ones are sent at once.
    Open,
    /// It has waiting rows to send, and stands in the line of such lanes.
    Queued,
    /// Its rest is over, but rows in front of the refused one are still under way.
    Due,
    /// It rests after a refusal.
    Resting,
    /// Its first row is under way alone, after a rest.
    Probing,
}

#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) backoff: Backoff,
    pub(super) why: ForNow,
    /// What counts against its first row.
    pub(super) blame: Option<Blame>,
}

#[derive(Debug)]
pub(super) struct Lane<M, D> {
    pub(super) sent: VecDeque<Sent<M, D>>,
    /// Rows to send, or to send again. All of them come after those in `sent`.
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
        // If the connection ended while the row was in flight, it is sent alone, so that it does not hold up others.
        let fatal = self.trouble.as_ref().is_some_and(|trouble| trouble.why.how == NotNow::Fatal);
        Ticket { lane, seq, handling: self.handling.alone(fatal), number }
    }

    /// The place of a row in `sent`. None if it must be sent again anyway.
    pub(super) fn position<K>(&self, ticket: &Ticket<K>) -> Option<usize> {
        self.sent.binary_search_by_key(&ticket.number, |sent| sent.number).ok()
    }

    /// All rows in `sent` from `at` on must be sent again; the first one without the parts that were taken. Returns how many
    /// rows they are.
    pub(super) fn begin_anew(&mut self, at: usize, taken: Vec<Part>, late: bool) -> usize {
        let old = std::mem::replace(&mut self.handling, Handling::withdrawable());
        old.withdraw();
        if self.state != State::Probing
            && let Some(trouble) = &mut self.trouble
        {
            // Another row is the first one now.
            trouble.blame = None;
        }
        if let Some((_, memo)) = self.waiting.front_mut() {
            memo.unsettle();
        }
        let again = self.sent.len() - at;
        for (behind, sent) in self.sent.drain(at..).enumerate().rev() {
            let mut memo = sent.memo;
            // No row before the first one is sent again, so what was taken of it earlier still counts.
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

/// The least number of failures that count before a message is blamed: a broker that stops and starts may fail at the same
/// message a few times by chance.
const COMPARISONS: u32 = 5;

/// What counts against one message. Pure: the caller passes the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blame {
    /// When it first failed alone.
    since: Duration,
    /// How many other messages had been acknowledged when it last failed.
    others: u64,
    /// How many of its failures count: others had been acknowledged since the failure before.
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
