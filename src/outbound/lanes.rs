//! Which command is next: one lane for each receiver, in order; lanes in turn.
//!
//! Commands to one uid, group or subject go out one after the other; a flood to one receiver delays no other, because after
//! each call its lane goes to the end of the line. A lane whose head must wait (a failed attempt) waits alone. Commands that
//! expire are handed out at their time, wherever they stand. Only numbers live here, a few dozen bytes for each command.
//!
//! Pure: the caller brings the time, as the boot-time clock's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds of the boot-time clock.
type Millis = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line of ready lanes, at this turn.
    Ready(u64),
    /// Its head is being worked on.
    Busy,
    /// Its head waits for a time.
    Waiting(Millis),
}

#[derive(Debug)]
struct Queue {
    numbers: VecDeque<(u64, Millis)>,
    state: State,
}

/// All lanes. `K` names a receiver.
#[derive(Debug)]
pub struct Lanes<K> {
    queues: HashMap<Arc<K>, Queue>,
    /// Lanes that are ready, by turn: a lane may leave the line, wherever it stands in it.
    ready: BTreeMap<u64, Arc<K>>,
    next_turn: u64,
    /// Lanes that wait, by time and the number of their head.
    waiting: BTreeMap<(Millis, u64), Arc<K>>,
    /// Every command, by deadline and number.
    deadlines: BTreeMap<(Millis, u64), Arc<K>>,
}

impl<K: Eq + Hash> Default for Lanes<K> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            ready: BTreeMap::new(),
            next_turn: 0,
            waiting: BTreeMap::new(),
            deadlines: BTreeMap::new(),
        }
    }
}

impl<K: Eq + Hash> Lanes<K> {
    /// Adds command number `seq`. Numbers of one lane come in rising order.
    pub fn push(&mut self, key: K, seq: u64, deadline: Duration) {
        let deadline = millis(deadline);
        let key = match self.queues.get_key_value(&key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(key),
        };
        let lane = self.queues.entry(Arc::clone(&key)).or_insert_with(|| {
            let turn = self.next_turn;
            self.next_turn += 1;
            self.ready.insert(turn, Arc::clone(&key));
            Queue { numbers: VecDeque::new(), state: State::Ready(turn) }
        });
        lane.numbers.push_back((seq, deadline));
        self.deadlines.insert((deadline, seq), key);
    }

    /// Is there a command to work on?
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next command to work on, if one is ready; its lane is busy until [`Self::done`] or [`Self::later`].
    pub fn take_next(&mut self) -> Option<(Arc<K>, u64)> {
        let (_, key) = self.ready.pop_first()?;
        let lane = self.queues.get_mut(&key)?;
        lane.state = State::Busy;
        let (seq, _) = *lane.numbers.front()?;
        Some((key, seq))
    }

    /// The head of a busy lane is finished.
    pub fn done(&mut self, key: &Arc<K>) {
        let Some(lane) = self.queues.get_mut(key) else { return };
        if let Some((seq, deadline)) = lane.numbers.pop_front() {
            self.deadlines.remove(&(deadline, seq));
        }
        self.make_ready(key);
    }

    /// The head of a busy lane must be tried again, not before `at`.
    pub fn later(&mut self, key: &Arc<K>, at: Duration) {
        let at = millis(at);
        let Some(lane) = self.queues.get_mut(key) else { return };
        if let Some((seq, _)) = lane.numbers.front() {
            lane.state = State::Waiting(at);
            self.waiting.insert((at, *seq), Arc::clone(key));
        }
    }

    /// A lane that waits until `at` joins the line now; false if it no longer does.
    pub fn again(&mut self, key: &Arc<K>, at: Duration) -> bool {
        let at = millis(at);
        let Some(lane) = self.queues.get(key).filter(|lane| lane.state == State::Waiting(at)) else { return false };
        if let Some((seq, _)) = lane.numbers.front() {
            self.waiting.remove(&(at, *seq));
        }
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

    /// Takes out one command whose deadline has passed, unless it is being worked on.
    pub fn expired(&mut self, now: Duration) -> Option<u64> {
        let now = millis(now);
        let due = self.deadlines.iter().take_while(|((deadline, _), _)| *deadline <= now);
        let (at, key) = due.map(|(at, key)| (*at, Arc::clone(key))).find(|(at, key)| !self.is_busy_with(key, at.1))?;
        self.take_out(at, &key)
    }

    /// Takes out command number `seq`, unless it is gone already or being worked on. True if it did.
    pub fn remove(&mut self, seq: u64, deadline: Duration) -> bool {
        let at = (millis(deadline), seq);
        let Some(key) = self.deadlines.get(&at).map(Arc::clone) else { return false };
        !self.is_busy_with(&key, seq) && self.take_out(at, &key).is_some()
    }

    /// Is command number `seq` here?
    #[must_use]
    pub fn contains(&self, seq: u64, deadline: Duration) -> bool {
        self.deadlines.contains_key(&(millis(deadline), seq))
    }

    fn take_out(&mut self, at: (Millis, u64), key: &Arc<K>) -> Option<u64> {
        self.deadlines.remove(&at);
        let lane = self.queues.get_mut(key)?;
        let position = lane.numbers.binary_search_by_key(&at.1, |(seq, _)| *seq).ok()?;
        lane.numbers.remove(position);
        match lane.state {
            State::Waiting(until) if position == 0 => {
                self.waiting.remove(&(until, at.1));
                self.make_ready(key);
            }
            State::Ready(turn) if lane.numbers.is_empty() => {
                self.queues.remove(key);
                self.ready.remove(&turn);
            }
            _ => {}
        }
        Some(at.1)
    }

    /// When something changes by itself: a lane's waiting ends, or a command that nobody works on expires.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        let waiting = self.waiting.keys().next().map(|(at, _)| *at);
        let deadline =
            self.deadlines.iter().find(|((_, seq), key)| !self.is_busy_with(key, *seq)).map(|((at, _), _)| *at);
        waiting.into_iter().chain(deadline).min().map(Duration::from_millis)
    }

    fn is_busy_with(&self, key: &Arc<K>, seq: u64) -> bool {
        self.queues
            .get(key)
            .is_some_and(|lane| lane.state == State::Busy && lane.numbers.front().is_some_and(|(head, _)| *head == seq))
    }

    fn make_ready(&mut self, key: &Arc<K>) {
        let Some(lane) = self.queues.get_mut(key) else { return };
        if lane.numbers.is_empty() {
            self.queues.remove(key);
        } else {
            lane.state = State::Ready(self.next_turn);
            self.ready.insert(self.next_turn, Arc::clone(key));
            self.next_turn += 1;
        }
    }
}

/// Rounded up: a deadline handed to a timer must have passed when it fires.
fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_secs(1000);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_flood_to_one_receiver_delays_no_other() {
        let mut lanes = Lanes::default();
        for seq in 1..=100 {
            lanes.push("flood", seq, FAR);
        }
        lanes.push("other", 101, FAR);
        let (flood, first) = lanes.take_next().unwrap();
        assert_eq!((*flood, first), ("flood", 1));
        let (other, next) = lanes.take_next().unwrap();
        assert_eq!((*other, next), ("other", 101));
        assert!(lanes.take_next().is_none(), "both lanes are busy");
        lanes.done(&flood);
        assert_eq!(lanes.take_next().unwrap().1, 2);
    }

    #[test]
    fn a_lane_that_must_wait_waits_alone_and_keeps_its_order() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, FAR);
        lanes.push("a", 2, FAR);
        let (a, _) = lanes.take_next().unwrap();
        lanes.later(&a, at(5));
        lanes.push("b", 3, FAR);
        assert_eq!(lanes.take_next().unwrap().1, 3);
        assert!(lanes.take_next().is_none());
        assert_eq!(lanes.next_change(), Some(at(5)));
        lanes.wake(at(5));
        assert_eq!(lanes.take_next().unwrap().1, 1);
    }

    #[test]
    fn a_lane_is_called_back_only_from_the_wait_that_is_meant() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, at(3));
        lanes.push("a", 2, FAR);
        let (a, _) = lanes.take_next().unwrap();
        assert!(!lanes.again(&a, at(9)), "under way");
        lanes.later(&a, at(9));
        assert!(lanes.again(&a, at(9)) && !lanes.again(&a, at(9)));
        let (a, _) = lanes.take_next().unwrap();
        lanes.later(&a, at(9));
        assert_eq!(lanes.expired(at(3)), Some(1));
        let (a, second) = lanes.take_next().unwrap();
        assert_eq!(second, 2);
        lanes.later(&a, at(10));
        assert!(!lanes.again(&a, at(9)), "another wait, of another command");
        assert!(lanes.again(&a, at(10)) && lanes.waiting.is_empty());
    }

    #[test]
    fn a_command_expires_at_its_time_wherever_it_stands() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, FAR);
        lanes.push("a", 2, at(3));
        lanes.push("a", 3, FAR);
        let (a, _) = lanes.take_next().unwrap();
        lanes.later(&a, at(9));
        assert_eq!(lanes.next_change(), Some(at(3)));
        assert_eq!(lanes.expired(at(2)), None);
        assert_eq!(lanes.expired(at(3)), Some(2));
        assert_eq!(lanes.expired(at(3)), None);
        lanes.wake(at(9));
        let (a, first) = lanes.take_next().unwrap();
        assert_eq!(first, 1);
        lanes.done(&a);
        assert_eq!(lanes.take_next().unwrap().1, 3);
    }

    #[test]
    fn what_is_being_worked_on_does_not_expire_under_the_workers_hands() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, at(1));
        let (a, _) = lanes.take_next().unwrap();
        assert_eq!((lanes.expired(at(2)), lanes.next_change()), (None, None));
        lanes.later(&a, at(9));
        assert_eq!(lanes.expired(at(2)), Some(1));
        assert!(lanes.take_next().is_none());
        assert_eq!(lanes.next_change(), None);
    }

    #[test]
    fn an_expired_head_lets_the_next_one_go_at_once() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, at(1));
        lanes.push("a", 2, FAR);
        let (a, _) = lanes.take_next().unwrap();
        lanes.later(&a, at(50));
        assert_eq!(lanes.expired(at(1)), Some(1));
        assert_eq!(lanes.take_next().unwrap().1, 2);
    }

    // A flood to very many receivers that expires at once must not stop the loop for minutes.
    #[test]
    fn expiry_costs_little_however_many_lanes_there_are() {
        let mut lanes = Lanes::default();
        for seq in 0..200_000 {
            lanes.push(seq, seq, at(1));
        }
        let (mut expired, begun) = (0, std::time::Instant::now());
        while lanes.expired(at(1)).is_some() {
            expired += 1;
        }
        assert_eq!(expired, 200_000);
        assert!(lanes.ready.is_empty() && lanes.queues.is_empty());
        // Two orders of magnitude more than it takes; with a cost that grows with the lanes it was many minutes.
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_lane_that_left_the_line_joins_it_at_its_end() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, at(1));
        lanes.push("b", 2, FAR);
        assert_eq!(lanes.expired(at(1)), Some(1));
        lanes.push("a", 3, FAR);
        assert_eq!(lanes.take_next().map(|(_, seq)| seq), Some(2));
        assert_eq!(lanes.take_next().map(|(_, seq)| seq), Some(3));
        assert!(lanes.take_next().is_none());
    }

    #[test]
    fn a_superseded_command_is_taken_out_unless_it_is_being_worked_on() {
        let mut lanes = Lanes::default();
        lanes.push("a", 1, FAR);
        assert!(lanes.contains(1, FAR) && lanes.remove(1, FAR) && !lanes.contains(1, FAR));
        assert!(!lanes.remove(1, FAR) && !lanes.has_ready());
        lanes.push("a", 2, FAR);
        lanes.push("a", 3, FAR);
        let (a, _) = lanes.take_next().unwrap();
        assert!(!lanes.remove(2, FAR), "under way");
        lanes.later(&a, at(5));
        assert!(lanes.remove(2, FAR));
        assert_eq!(lanes.take_next().unwrap().1, 3);
    }

    #[test]
    fn nothing_is_left_behind() {
        let mut lanes = Lanes::default();
        for seq in 0..100 {
            lanes.push(seq % 7, seq, at(seq));
        }
        while lanes.expired(at(49)).is_some() {}
        while let Some((key, _)) = lanes.take_next() {
            lanes.done(&key);
        }
        assert!(lanes.queues.is_empty() && lanes.ready.is_empty());
        assert!(lanes.waiting.is_empty() && lanes.deadlines.is_empty());
    }
}
