//! Decides which rows may be sent to the broker. A *lane* is the sequence of rows that must keep their order, as all messages
//! of one sender, however often the broker refuses one of them for now.
//!
//! ```text
//!            ┌── flows: many rows under way ◄──────────────┐ taken
//!  row ──►  lane                                           │
//!            └── refused for now: rests ──► probe: its first row alone ──► refused: rests longer
//! ```
//!
//! When a row is refused for now, it and all rows behind it in its lane are sent again, whatever their outcome was: so the last
//! copies of all rows arrive in the order of the lane. Rows are completed in that order, too. Other lanes go on. Of rows that
//! wait only the number is kept in memory.
//!
//! Pure bookkeeping: the caller brings the time, reads the rows and publishes them.

mod lane;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::Part;
use super::lanes::lane::Blame;
use crate::mqtt::{Backoff, ForNow};
use lane::{Lane, State, Trouble};
pub use lane::{Memo, Ticket};

/// How long a lane rests after a refusal, and when a row is blamed.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The rest after the first refusal. Doubles with each further one.
    pub rest_min: Duration,
    /// The longest rest.
    pub rest_max: Duration,
    /// A row is not blamed before it has failed for so long; see `Blame`.
    pub blame_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            rest_min: Duration::from_secs(1),
            rest_max: Duration::from_mins(1),
            blame_after: Duration::from_mins(10),
        }
    }
}

/// The outcome of a row that was sent.
#[derive(Debug)]
pub enum Outcome<D> {
    /// It needs not be sent again.
    Done {
        /// What [`Lanes::finished`] returns with the row.
        done: D,
        /// Whether the broker took any part of it: this counts in the comparison with rows that fail.
        acked: bool,
    },
    /// It must be sent again, at once.
    Again {
        /// Without these parts.
        taken: Vec<Part>,
        /// Its raw message is too old.
        late: bool,
    },
    /// It was refused for now.
    ForNow {
        /// It is sent again without these parts.
        taken: Vec<Part>,
        /// Why.
        why: ForNow,
    },
}

/// What the caller has to do about a row that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its lane will send it again.
    InHand,
    /// Set it aside: it is to blame for its failures, and was taken out of its lane.
    Condemned,
}

/// What waits because the broker refused something for now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldUp {
    /// Lanes that are held up.
    pub lanes: usize,
    /// Rows that wait: in these lanes, and in lanes that were held up and still catch up.
    pub rows: usize,
}

/// All lanes. `K` names a lane. `M` is remembered of a row until it is sent again, `D` from its outcome until it is completed.
#[derive(Debug)]
pub struct Lanes<K, M: Memo, D> {
    patience: Patience,
    by_key: HashMap<Arc<K>, Lane<M, D>>,
    /// The lanes with waiting rows to send, in turn. Lanes whose state is no longer `Queued` are skipped.
    line: VecDeque<Arc<K>>,
    /// The lanes that rest, by the end of the rest and the number of their first row.
    resting: BTreeMap<(Duration, u64), Arc<K>>,
    finished: VecDeque<(u64, D)>,
    under_way: usize,
    held_up: HeldUp,
    acked: u64,
    next_number: u64,
}

impl<K: Eq + Hash + Clone, M: Memo, D> Lanes<K, M, D> {
    /// No lanes yet.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            by_key: HashMap::new(),
            line: VecDeque::new(),
            resting: BTreeMap::new(),
            finished: VecDeque::new(),
            under_way: 0,
            held_up: HeldUp::default(),
            acked: 0,
            next_number: 0,
        }
    }

    /// Adds a new row at the end of its lane. Returns a ticket if it may be sent now; otherwise it waits for [`Self::next`].
    pub fn arrive(&mut self, key: &K, seq: u64) -> Option<Ticket<K>> {
        let key = match self.by_key.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(key.clone()),
        };
        let lane = self.by_key.entry(Arc::clone(&key)).or_insert_with(Lane::new);
        if lane.state != State::Open {
            lane.waiting.push_back((seq, M::default()));
            self.held_up.rows += 1;
            return None;
        }
        self.under_way += 1;
        self.next_number += 1;
        Some(lane.send(key, self.next_number, seq, M::default()))
    }

    /// The next waiting row to send; none if none may be sent now.
    pub fn next(&mut self, now: Duration) -> Option<Ticket<K>> {
        while let Some(entry) = self.resting.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.queue(&key);
        }
        while let Some(key) = self.line.pop_front() {
            let Some(lane) = self.by_key.get_mut(&key).filter(|lane| lane.state == State::Queued) else { continue };
            let Some((seq, memo)) = lane.waiting.pop_front() else { continue };
            lane.state = match (lane.trouble.is_some(), lane.waiting.is_empty()) {
                (true, _) => State::Probing,
                (false, true) => State::Open,
                (false, false) => State::Queued,
            };
            if lane.state == State::Queued {
                self.line.push_back(Arc::clone(&key));
            }
            self.under_way += 1;
            self.held_up.rows -= 1;
            self.next_number += 1;
            return Some(lane.send(key, self.next_number, seq, memo));
        }
        None
    }

    /// What is remembered of a row that is being sent.
    pub fn memo(&mut self, ticket: &Ticket<K>) -> Option<&mut M> {
        let lane = self.by_key.get_mut(&ticket.lane)?;
        let at = lane.position(ticket)?;
        lane.sent.get_mut(at).map(|sent| &mut sent.memo)
    }

    /// Notes the outcome of a row. It does not count if the row must be sent again anyway.
    pub fn settled(&mut self, ticket: &Ticket<K>, outcome: Outcome<D>, now: Duration) -> Verdict {
        let Some(lane) = self.by_key.get_mut(&ticket.lane) else { return Verdict::InHand };
        let Some(at) = lane.position(ticket) else { return Verdict::InHand };
        let (taken, too_late, why) = match outcome {
            Outcome::Done { done, acked } => {
                self.acked += u64::from(acked);
                if let Some(sent) = lane.sent.get_mut(at) {
                    sent.done = Some(done);
                }
                self.finish(&ticket.lane);
                return Verdict::InHand;
            }
            Outcome::Again { taken, late: too_late } => (taken, too_late, None),
            Outcome::ForNow { taken, why } => (taken, false, Some(why)),
        };
        let alone = lane.state == State::Probing;
        let again = lane.begin_anew(at, taken, too_late);
        self.under_way -= again;
        self.held_up.rows += again;
        match (lane.state, why) {
            // It rests already, because of a row behind this one.
            (State::Resting, _) => Verdict::InHand,
            (State::Due, _) | (_, None) => {
                self.queue(&ticket.lane);
                Verdict::InHand
            }
            (_, Some(why)) => self.rest(&ticket.lane, why, alone, now),
        }
    }

    /// The first row of a lane was refused for now: the lane rests.
    fn rest(&mut self, key: &Arc<K>, why: ForNow, alone: bool, now: Duration) -> Verdict {
        let Some(lane) = self.by_key.get_mut(key) else { return Verdict::InHand };
        if lane.trouble.is_none() {
            self.held_up.lanes += 1;
        }
        let backoff = Backoff::between(self.patience.rest_min, self.patience.rest_max);
        let new = || Box::new(Trouble { backoff, why: why.clone(), blame: None });
        let trouble = lane.trouble.get_or_insert_with(new);
        trouble.why = why;
        if alone {
            match &mut trouble.blame {
                Some(blame) => blame.again(self.acked),
                None => trouble.blame = Some(Blame::first(now, self.acked)),
            }
        }
        if trouble.blame.as_ref().is_some_and(|blame| blame.is_proven(now, self.patience.blame_after)) {
            trouble.blame = None;
            lane.waiting.pop_front();
            self.held_up.rows -= 1;
            self.queue(key);
            return Verdict::Condemned;
        }
        let until = now + trouble.backoff.next();
        lane.state = State::Resting;
        if let Some((seq, _)) = lane.waiting.front() {
            self.resting.insert((until, *seq), Arc::clone(key));
        }
        Verdict::InHand
    }

    /// The waiting rows of a lane, if there are any, may be sent.
    fn queue(&mut self, key: &Arc<K>) {
        let Some(lane) = self.by_key.get_mut(key) else { return };
        if lane.waiting.is_empty() {
            if lane.trouble.take().is_some() {
                self.held_up.lanes -= 1;
            }
            lane.state = State::Open;
            if lane.sent.is_empty() {
                self.by_key.remove(key);
            }
        } else if lane.trouble.is_some() && !lane.sent.is_empty() {
            lane.state = State::Due;
        } else {
            lane.state = State::Queued;
            self.line.push_back(Arc::clone(key));
        }
    }

    /// Takes out the rows that are done and have no unfinished row before them.
    fn finish(&mut self, key: &Arc<K>) {
        let Some(lane) = self.by_key.get_mut(key) else { return };
        while let Some(first) = lane.sent.pop_front() {
            let Some(done) = first.done else {
                lane.sent.push_front(first);
                break;
            };
            self.under_way -= 1;
            self.finished.push_back((first.seq, done));
        }
        if !lane.sent.is_empty() {
            return;
        }
        match lane.state {
            State::Probing => {
                lane.trouble = None;
                self.held_up.lanes -= 1;
                self.queue(key);
            }
            State::Due => self.queue(key),
            State::Open => {
                self.by_key.remove(key);
            }
            State::Queued | State::Resting => {}
        }
    }

    /// A row cannot be sent, because it is not in the spool any more.
    pub fn lost(&mut self, ticket: &Ticket<K>) {
        let Some(lane) = self.by_key.get_mut(&ticket.lane) else { return };
        if let Some(at) = lane.position(ticket) {
            lane.sent.remove(at);
            self.under_way -= 1;
            self.finish(&ticket.lane);
        }
    }

    /// The next finished row, in the order of its lane.
    pub fn finished(&mut self) -> Option<(u64, D)> {
        self.finished.pop_front()
    }

    /// When the next lane's rest ends.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        self.resting.keys().next().map(|(until, _)| *until)
    }

    /// Rows that were sent and are not finished.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// What waits because of refusals for now.
    #[must_use]
    pub fn held_up(&self) -> HeldUp {
        self.held_up
    }
}

#[cfg(test)]
mod tests;
