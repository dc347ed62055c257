//! Which rows may go to the broker: in lanes, each in its order, however often the broker refuses one for now.
//!
//! ```text
//!            ┌── flows: many rows under way ◄──────────────┐ taken
//!  row ──►  lane                                           │
//!            └── refused for now: rests ──► probe: its first row alone ──► refused: rests longer
//! ```
//!
//! When a row is refused for now, it and all behind it in its lane are sent again, whatever became of them meanwhile: so the
//! last copy of each stands in the order of the lane. Rows are finished in that order, too. Other lanes go on. What waits is
//! known by number only.
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

/// How long a lane waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Rested after the first refusal; doubles with each one that follows.
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

/// What became of a row that was sent.
#[derive(Debug)]
pub enum Outcome<D> {
    /// It is done with: what the caller wants to know when it is finished, and whether the broker took any of it.
    Done {
        /// For [`Lanes::finished`].
        done: D,
        /// Counts for the comparison with others.
        acked: bool,
    },
    /// It is to be sent again, at once.
    Again {
        /// But for these parts.
        taken: Vec<Part>,
        /// It is too late for its raw message.
        late: bool,
    },
    /// It was refused for now.
    ForNow {
        /// But for these parts.
        taken: Vec<Part>,
        /// Why.
        why: ForNow,
    },
}

/// What is to be done about a row that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its lane sees to it.
    InHand,
    /// It is to blame for its failures, and out of its lane: set it aside.
    Condemned,
}

/// What waits for a broker that refused something for now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldUp {
    /// Lanes that are held up.
    pub lanes: usize,
    /// Rows that wait: theirs, and what is left of lanes that are not held up any more.
    pub rows: usize,
}

/// All lanes. `K` names one; `M` is remembered of a row that is to be sent again, `D` until a row is finished.
#[derive(Debug)]
pub struct Lanes<K, M: Memo, D> {
    patience: Patience,
    by_key: HashMap<Arc<K>, Lane<M, D>>,
    /// Lanes with rows to send, in turn. A lane may have left the line in the meantime: its state tells.
    line: VecDeque<Arc<K>>,
    /// Lanes that rest, by when and by the number of their first row.
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

    /// A new row, behind all others of its lane. If it may be sent now, here is its ticket; else its turn comes.
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

    /// The next of the rows that waited; none if there is none to send now.
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

    /// What is known of a row that is being sent.
    pub fn memo(&mut self, ticket: &Ticket<K>) -> Option<&mut M> {
        let lane = self.by_key.get_mut(&ticket.lane)?;
        let at = lane.position(ticket)?;
        lane.sent.get_mut(at).map(|sent| &mut sent.memo)
    }

    /// What became of a row. Nothing happens if it is to be sent again anyway.
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
            // It rests already, because of one behind this.
            (State::Resting, _) => Verdict::InHand,
            (State::Due, _) | (_, None) => {
                self.queue(&ticket.lane);
                Verdict::InHand
            }
            (_, Some(why)) => self.rest(&ticket.lane, why, alone, now),
        }
    }

    /// Its first row was refused for now.
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

    /// What waits in a lane may be sent, if anything does.
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

    /// Takes out what is done with and has nothing before it.
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

    /// A row cannot be sent any more: it is gone.
    pub fn lost(&mut self, ticket: &Ticket<K>) {
        let Some(lane) = self.by_key.get_mut(&ticket.lane) else { return };
        if let Some(at) = lane.position(ticket) {
            lane.sent.remove(at);
            self.under_way -= 1;
            self.finish(&ticket.lane);
        }
    }

    /// The next row that is done with, in the order of its lane.
    pub fn finished(&mut self) -> Option<(u64, D)> {
        self.finished.pop_front()
    }

    /// When the next lane has rested.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        self.resting.keys().next().map(|(until, _)| *until)
    }

    /// Rows that were sent and are not finished.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// What is held up by refusals for now.
    #[must_use]
    pub fn held_up(&self) -> HeldUp {
        self.held_up
    }
}

#[cfg(test)]
mod tests;
