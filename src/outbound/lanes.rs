//! Decides which command is next. There is one *lane* for each receiver, whose commands keep their order. Clients take turns,
//! and so do the lanes of each client.
//!
//! Commands to one uid, group or subject go out one after the other. A flood of commands, to one receiver or to thousands, does
//! not delay other clients: after each call the client goes to the end of the line of clients, and the lane to the end of the
//! client's own line. If several clients send to one receiver, their commands keep the order of arrival, with one exception:
//! after `GIVE_WAY` commands of one client in a row, a command of another client is next, if one waits. The order within each
//! client stays.
//!
//! If the first command of a lane must wait, after a failed attempt, other lanes go on. Expired commands are handed out when
//! they expire, wherever they are in their lane. Only numbers are kept here, a few dozen bytes for each command.
//!
//! Pure: the caller passes the time of the boot-time clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// The most commands of one client to one receiver in a row while another client's command waits: more than ordinary clients
/// have waiting, and few enough not to delay the other.
const GIVE_WAY: u32 = 8;

/// Milliseconds of the boot-time clock.
type Millis = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In its client's line of ready lanes, with this turn.
    Ready(u64),
    /// Its head is under way.
    Busy,
    /// Its head waits until this time.
    Waiting(Millis),
}

#[derive(Debug)]
struct Entry<C> {
    seq: u64,
    deadline: Millis,
    client: C,
}

#[derive(Debug)]
struct Lane<C> {
    /// The command that is under way, or will be next.
    head: Entry<C>,
    /// The others, in the order of arrival.
    rest: VecDeque<Entry<C>>,
    state: State,
    /// How many commands of the head's client were finished in a row before it.
    run: u32,
}

impl<C: Copy + Eq> Lane<C> {
    /// Makes the next command the head, and returns the last head. None if there is no next command.
    fn advance(&mut self) -> Option<Entry<C>> {
        let client = self.head.client;
        let mut next = 0;
        if self.run >= GIVE_WAY {
            let of_another = self.rest.iter().position(|entry| entry.client != client);
            // If all of them are of one client, the next search can wait.
            self.run = 0;
            next = of_another.unwrap_or(0);
        }
        let next = self.rest.remove(next)?;
        if next.client != client {
            self.run = 0;
        }
        Some(std::mem::replace(&mut self.head, next))
    }
}

/// A client with commands in any lane.
#[derive(Debug, Default)]
struct Client {
    commands: usize,
    /// Its turn in the line of clients, while it has ready lanes.
    turn: Option<u64>,
}

/// All lanes. `C` names a client, `K` a receiver.
#[derive(Debug, Default)]
pub struct Lanes<C, K> {
    queues: HashMap<Arc<K>, Lane<C>>,
    clients: HashMap<C, Client>,
    /// Clients with ready lanes, by turn.
    line: BTreeMap<u64, C>,
    /// Ready lanes, by client and turn, so that a lane can leave the line from any place.
    ready: BTreeMap<(C, u64), Arc<K>>,
    next_turn: u64,
    /// Waiting lanes, by time and the number of their head.
    waiting: BTreeMap<(Millis, u64), Arc<K>>,
    /// Every command, by deadline and number.
    deadlines: BTreeMap<(Millis, u64), Arc<K>>,
}

impl<C: Copy + Ord + Hash, K: Eq + Hash> Lanes<C, K> {
    /// Adds command number `seq` of a client. The numbers must rise.
    pub fn push(&mut self, client: C, key: K, seq: u64, deadline: Duration) {
        let deadline = millis(deadline);
        self.clients.entry(client).or_default().commands += 1;
        let key = match self.queues.get_key_value(&key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(key),
        };
        self.deadlines.insert((deadline, seq), Arc::clone(&key));
        let entry = Entry { seq, deadline, client };
        if let Some(lane) = self.queues.get_mut(&key) {
            lane.rest.push_back(entry);
            return;
        }
        let lane = Lane { head: entry, rest: VecDeque::new(), state: State::Busy, run: 0 };
        self.queues.insert(Arc::clone(&key), lane);
        self.make_ready(&key);
    }

    /// Whether a command may be attempted now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.line.is_empty()
    }

    /// The next command to attempt, if one is ready. Its lane is busy until [`Self::done`] or [`Self::later`].
    pub fn take_next(&mut self) -> Option<(Arc<K>, u64)> {
        let (_, name) = self.line.pop_first()?;
        self.clients.get_mut(&name)?.turn = None;
        let turn = self.first_ready(name)?;
        let key = self.ready.remove(&(name, turn))?;
        self.queue_up(name);
        let lane = self.queues.get_mut(&key)?;
        lane.state = State::Busy;
        let seq = lane.head.seq;
        Some((key, seq))
    }

    /// The head of a busy lane is finished.
    pub fn done(&mut self, key: &Arc<K>) {
        if let Some(lane) = self.queues.get_mut(key) {
            lane.run += 1;
            self.drop_head(key);
        }
    }

    /// The head of a busy lane must be tried again, not before `at`.
    pub fn later(&mut self, key: &Arc<K>, at: Duration) {
        let at = millis(at);
        if let Some(lane) = self.queues.get_mut(key) {
            lane.state = State::Waiting(at);
            self.waiting.insert((at, lane.head.seq), Arc::clone(key));
        }
    }

    /// A lane that waits until `at` joins the line now; false if it no longer does.
    pub fn again(&mut self, key: &Arc<K>, at: Duration) -> bool {
        let at = millis(at);
        let Some(lane) = self.queues.get(key).filter(|lane| lane.state == State::Waiting(at)) else { return false };
        self.waiting.remove(&(at, lane.head.seq));
        self.make_ready(key);
        true
    }

    /// Lanes whose waiting is over join the line.
    pub fn wake(&mut self, now: Duration) {
        let now = millis(now);
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.make_ready(&key);
        }
    }

    /// Takes out one command whose deadline has passed and that is not under way.
    pub fn expired(&mut self, now: Duration) -> Option<u64> {
        let now = millis(now);
        let due = self.deadlines.iter().take_while(|((deadline, _), _)| *deadline <= now);
        let (at, key) = due.map(|(at, key)| (*at, Arc::clone(key))).find(|(at, key)| !self.is_busy_with(key, at.1))?;
        self.take_out(at, &key)
    }

    /// Takes out command number `seq`, unless it is finished or under way. Returns true if it did.
    pub fn remove(&mut self, seq: u64, deadline: Duration) -> bool {
        let at = (millis(deadline), seq);
        let Some(key) = self.deadlines.get(&at).map(Arc::clone) else { return false };
        !self.is_busy_with(&key, seq) && self.take_out(at, &key).is_some()
    }

    /// Whether command number `seq` is in a lane.
    #[must_use]
    pub fn contains(&self, seq: u64, deadline: Duration) -> bool {
        self.deadlines.contains_key(&(millis(deadline), seq))
    }

    fn take_out(&mut self, at: (Millis, u64), key: &Arc<K>) -> Option<u64> {
        let lane = self.queues.get_mut(key)?;
        if lane.head.seq != at.1 {
            let position = lane.rest.binary_search_by_key(&at.1, |entry| entry.seq).ok()?;
            let entry = lane.rest.remove(position)?;
            self.forget(&entry);
            return Some(at.1);
        }
        match lane.state {
            State::Waiting(until) => {
                self.waiting.remove(&(until, at.1));
            }
            State::Ready(turn) => {
                let client = lane.head.client;
                let gone = lane.advance();
                if let Some(gone) = gone {
                    // If the next command is of the same client, it keeps the turn.
                    if lane.head.client != client {
                        self.leave_line(client, turn);
                        self.make_ready(key);
                    }
                    self.forget(&gone);
                    return Some(at.1);
                }
                self.leave_line(client, turn);
            }
            State::Busy => return None,
        }
        self.drop_head(key);
        Some(at.1)
    }

    /// The next time at which a lane's wait ends, or a command that is not under way expires.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        let waiting = self.waiting.keys().next().map(|(at, _)| *at);
        let deadline =
            self.deadlines.iter().find(|((_, seq), key)| !self.is_busy_with(key, *seq)).map(|((at, _), _)| *at);
        waiting.into_iter().chain(deadline).min().map(Duration::from_millis)
    }

    fn is_busy_with(&self, key: &Arc<K>, seq: u64) -> bool {
        self.queues.get(key).is_some_and(|lane| lane.state == State::Busy && lane.head.seq == seq)
    }

    /// Removes the head of a lane that is in no line. The next command, if there is one, becomes ready.
    fn drop_head(&mut self, key: &Arc<K>) {
        let Some(lane) = self.queues.get_mut(key) else { return };
        let gone = lane.advance();
        if let Some(gone) = gone.or_else(|| self.queues.remove(key).map(|lane| lane.head)) {
            self.forget(&gone);
        }
        self.make_ready(key);
    }

    /// A command has left its lane.
    fn forget(&mut self, entry: &Entry<C>) {
        self.deadlines.remove(&(entry.deadline, entry.seq));
        if let Some(client) = self.clients.get_mut(&entry.client) {
            client.commands -= 1;
            if client.commands == 0 {
                self.clients.remove(&entry.client);
            }
        }
    }

    /// The lane joins its head's client's line at the end.
    fn make_ready(&mut self, key: &Arc<K>) {
        let turn = self.turn();
        let Some(lane) = self.queues.get_mut(key) else { return };
        lane.state = State::Ready(turn);
        let name = lane.head.client;
        self.ready.insert((name, turn), Arc::clone(key));
        self.queue_up(name);
    }

    /// The turn of a client's first ready lane.
    fn first_ready(&self, name: C) -> Option<u64> {
        self.ready.range((name, 0)..=(name, u64::MAX)).next().map(|((_, turn), _)| *turn)
    }

    /// Puts a client with ready lanes at the end of the line of clients, unless it is in it.
    fn queue_up(&mut self, name: C) {
        let (turn, has_ready) = (self.turn(), self.first_ready(name).is_some());
        if let Some(client) = self.clients.get_mut(&name).filter(|client| client.turn.is_none() && has_ready) {
            client.turn = Some(turn);
            self.line.insert(turn, name);
        }
    }

    /// A lane leaves its client's line.
    fn leave_line(&mut self, name: C, turn: u64) {
        self.ready.remove(&(name, turn));
        if self.first_ready(name).is_none()
            && let Some(turn) = self.clients.get_mut(&name).and_then(|client| client.turn.take())
        {
            self.line.remove(&turn);
        }
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }
}

/// Rounded up: a deadline handed to a timer must have passed when it fires.
fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
