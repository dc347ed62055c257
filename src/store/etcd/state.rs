//! What a handle knows of the queues: which rows there are, and what is to be changed. Data is not kept here, but for a window
//! of the newest inbound rows, so that whoever keeps up need not read them back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use ulid::Ulid;

use super::config::Keys;
use super::lazies::Lazies;
use super::rows::{RowName, revision};
use crate::store::types::{Count, PerQueue, Queue, ROW_OVERHEAD};

/// Of data in the window: more than one transaction brings.
const WINDOW_BYTES: usize = 2 * 1024 * 1024;
const WINDOW_ROWS: usize = 1024;

/// A row that is there.
#[derive(Debug, Clone, Copy)]
struct Entry {
    transaction: Ulid,
    appended_size: u32,
    size: u32,
}

impl Entry {
    /// What a row of this number is called.
    fn name(&self, seq: u64) -> RowName {
        let place = u8::try_from(seq & 0xff).unwrap_or(0);
        RowName { transaction: self.transaction, place, size: self.appended_size }
    }
}

/// A token that is to be removed.
#[derive(Debug, Clone, Copy)]
struct End {
    name: [u8; 32],
    version: u64,
    /// Until then nobody else replaces it: it is removed without a condition.
    until: Duration,
}

/// A row that somebody wants to read.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) seq: u64,
    pub(super) key: String,
    pub(super) size: usize,
    /// Its data, if that is known here.
    pub(super) data: Option<Bytes>,
}

/// What a handle and its keeper share about the queues.
#[derive(Debug)]
pub(super) struct State {
    keys: Keys,
    rows: PerQueue<BTreeMap<u64, Entry>>,
    counts: PerQueue<Count>,
    /// Rows that are on their way to etcd, or there and not yet seen, by transaction.
    on_the_way: HashMap<Ulid, PerQueue<Count>>,
    window: BTreeMap<u64, Bytes>,
    window_bytes: usize,
    pub(super) lazies: Lazies,
    /// The tokens whose removals are among them, by key.
    ends: HashMap<String, End>,
    pub(super) notes: BTreeMap<String, Vec<u8>>,
    pub(super) redeliveries: BTreeMap<u16, [u8; 32]>,
}

impl State {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            rows: PerQueue::default(),
            counts: PerQueue::default(),
            on_the_way: HashMap::new(),
            window: BTreeMap::new(),
            window_bytes: 0,
            lazies: Lazies::default(),
            ends: HashMap::new(),
            notes: BTreeMap::new(),
            redeliveries: BTreeMap::new(),
        }
    }

    /// What the queues hold.
    pub(super) fn counts(&self) -> &PerQueue<Count> {
        &self.counts
    }

    /// The revision of the newest row that has been seen.
    pub(super) fn seen_revision(&self) -> u64 {
        Queue::ALL.into_iter().map(|queue| revision(self.counts.get(queue).next.saturating_sub(1))).max().unwrap_or(0)
    }

    /// And with it what is on its way.
    pub(super) fn claimed(&self) -> PerQueue<Count> {
        let mut claimed = self.counts;
        for coming in self.on_the_way.values() {
            for queue in Queue::ALL {
                claimed.get_mut(queue).plus(coming.get(queue));
            }
        }
        claimed
    }

    /// What the queues hold is known from elsewhere.
    pub(super) fn set_counts(&mut self, counts: PerQueue<Count>) {
        self.counts = counts;
    }

    /// This number has been given.
    pub(super) fn given(&mut self, queue: Queue, number: u64) {
        let count = self.counts.get_mut(queue);
        count.next = count.next.max(number.saturating_add(1));
    }

    pub(super) fn is_there(&self, queue: Queue, seq: u64) -> bool {
        self.rows.get(queue).contains_key(&seq)
    }

    /// A row is on its way.
    pub(super) fn coming(&mut self, transaction: Ulid, queue: Queue, size: u64) {
        self.on_the_way.entry(transaction).or_default().get_mut(queue).added(size);
    }

    /// What was on its way has not come, or is no longer waited for.
    pub(super) fn not_coming(&mut self, transaction: Ulid) {
        self.on_the_way.remove(&transaction);
    }

    /// A row has come. One that is known already, or was, is none.
    pub(super) fn seen(&mut self, queue: Queue, seq: u64, name: RowName, data: Option<Bytes>) {
        if seq < self.counts.get(queue).next {
            return;
        }
        self.listed(queue, seq, name, name.size);
        if let Some(coming) = self.on_the_way.get_mut(&name.transaction) {
            coming.get_mut(queue).removed(1, u64::from(name.size) + ROW_OVERHEAD);
            if Queue::ALL.iter().all(|queue| coming.get(*queue).depth == 0) {
                self.on_the_way.remove(&name.transaction);
            }
        }
        if let Some(data) = data.filter(|_| queue == Queue::Inbound)
            && self.window.len() < WINDOW_ROWS
            && self.window_bytes + data.len() <= WINDOW_BYTES
        {
            self.window_bytes += data.len();
            self.window.insert(seq, data);
        }
    }

    /// A row was found, with data of this size.
    pub(super) fn listed(&mut self, queue: Queue, seq: u64, name: RowName, size: u32) {
        let entry = Entry { transaction: name.transaction, appended_size: name.size, size };
        if self.rows.get_mut(queue).insert(seq, entry).is_none() {
            self.counts.get_mut(queue).added(u64::from(size) + ROW_OVERHEAD);
        }
        self.given(queue, seq);
    }

    /// Rows that were found, and are not known here: they have come meanwhile.
    pub(super) fn catch_up(&mut self, queue: Queue, found: &Self) {
        let known = self.counts.get(queue).next;
        for (seq, entry) in found.rows.get(queue).range(known..) {
            self.seen(queue, *seq, entry.name(*seq), None);
        }
    }

    /// The key of a row, if it is there.
    pub(super) fn key(&self, queue: Queue, seq: u64) -> Option<String> {
        self.rows.get(queue).get(&seq).map(|entry| self.key_of(queue, seq, entry))
    }

    fn key_of(&self, queue: Queue, seq: u64, entry: &Entry) -> String {
        self.keys.queue(queue) + &entry.name(seq).encode()
    }

    /// Removes a row, lazily. Whether it was there.
    pub(super) fn complete(&mut self, queue: Queue, seq: u64) -> bool {
        self.leave_window(queue, seq);
        let Some(key) = self.key(queue, seq) else { return false };
        self.lost(queue, seq);
        self.lazies.set(key, None);
        true
    }

    /// Removes a token of this version, lazily. Until then nobody else replaces it.
    pub(super) fn end_token(&mut self, name: [u8; 32], version: u64, until: Duration) {
        let key = self.keys.token(&name);
        self.lazies.set(key.clone(), None);
        self.ends.insert(key, End { name, version, until });
    }

    /// After which moment this lazy change must not be carried out.
    pub(super) fn until(&self, key: &str) -> Duration {
        self.ends.get(key).map_or(Duration::MAX, |end| end.until)
    }

    /// The tokens that are no more to be removed without a condition at this moment, and their versions.
    pub(super) fn late_ends(&mut self, at: Duration) -> Vec<([u8; 32], u64)> {
        let late: Vec<_> = self.ends.extract_if(|_, end| end.until < at).collect();
        late.into_iter()
            .map(|(key, end)| {
                self.lazies.forget(&key);
                (end.name, end.version)
            })
            .collect()
    }

    /// The lazy changes that were on their way have been carried out.
    pub(super) fn landed(&mut self) {
        self.lazies.landed();
        let lazies = &self.lazies;
        self.ends.retain(|key, _| lazies.change(key).is_some());
    }

    /// A row is not there any more.
    pub(super) fn lost(&mut self, queue: Queue, seq: u64) {
        if let Some(entry) = self.rows.get_mut(queue).remove(&seq) {
            self.counts.get_mut(queue).removed(1, u64::from(entry.size) + ROW_OVERHEAD);
        }
    }

    /// Replaces a row's data, lazily. Whether it was there.
    pub(super) fn replace(&mut self, queue: Queue, seq: u64, data: Bytes) -> bool {
        let Some(key) = self.key(queue, seq) else { return false };
        self.replaced(queue, seq, data.len());
        self.lazies.set(key, Some(data));
        true
    }

    /// A row has got data of another size.
    pub(super) fn replaced(&mut self, queue: Queue, seq: u64, size: usize) {
        self.leave_window(queue, seq);
        if let Some(entry) = self.rows.get_mut(queue).get_mut(&seq) {
            let before = u64::from(entry.size);
            entry.size = u32::try_from(size).unwrap_or(u32::MAX);
            let count = self.counts.get_mut(queue);
            count.bytes = count.bytes.saturating_sub(before).saturating_add(u64::from(entry.size));
        }
    }

    /// The oldest rows of what is set aside make room, lazily. How many.
    pub(super) fn make_room(&mut self, size: u64, limit: u64) -> u64 {
        let mut dropped = 0;
        while self.claimed().set_aside.bytes.saturating_add(size) > limit {
            let Some(oldest) = self.rows.set_aside.keys().next().copied() else { break };
            self.complete(Queue::SetAside, oldest);
            dropped += 1;
        }
        dropped
    }

    /// One row, if it is there.
    pub(super) fn one(&self, queue: Queue, seq: u64) -> Option<Wanted> {
        self.rows.get(queue).get(&seq).map(|entry| self.wanted(queue, seq, entry))
    }

    /// The rows after a number: at most so many, with at most so many bytes, but one.
    pub(super) fn after(&self, queue: Queue, after: u64, max_rows: usize, max_bytes: usize) -> Vec<Wanted> {
        let mut bytes = 0_usize;
        let mut wanted = Vec::new();
        for (seq, entry) in self.rows.get(queue).range(after.saturating_add(1)..) {
            bytes = bytes.saturating_add(usize::try_from(entry.size).unwrap_or(usize::MAX));
            if !wanted.is_empty() && (wanted.len() >= max_rows || bytes > max_bytes) {
                break;
            }
            wanted.push(self.wanted(queue, *seq, entry));
        }
        wanted
    }

    fn wanted(&self, queue: Queue, seq: u64, entry: &Entry) -> Wanted {
        let key = self.key_of(queue, seq, entry);
        let in_window = || if queue == Queue::Inbound { self.window.get(&seq).cloned() } else { None };
        let data = match self.lazies.change(&key) {
            Some(change) => change.clone(),
            None => in_window(),
        };
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        Wanted { seq, key, size, data }
    }

    /// Whoever reads the queue in its order has read these.
    pub(super) fn have_read(&mut self, queue: Queue, up_to: u64) {
        while queue == Queue::Inbound
            && let Some(first) = self.window.first_entry().filter(|first| *first.key() <= up_to)
        {
            self.window_bytes -= first.remove().len();
        }
    }

    fn leave_window(&mut self, queue: Queue, seq: u64) {
        if queue == Queue::Inbound
            && let Some(data) = self.window.remove(&seq)
        {
            self.window_bytes -= data.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(place: u8, size: u32) -> RowName {
        RowName { transaction: Ulid::from_parts(7, 7), place, size }
    }

    fn state() -> State {
        State::new(Keys::below("/p"))
    }

    #[test]
    fn a_row_on_its_way_is_claimed_until_it_is_seen_and_counts_once() {
        let mut state = state();
        state.coming(Ulid::from_parts(7, 7), Queue::Inbound, 100 + ROW_OVERHEAD);
        assert_eq!((state.counts().inbound.depth, state.claimed().inbound.depth), (0, 1));
        for _ in 0..2 {
            state.seen(Queue::Inbound, 512, name(0, 100), Some(vec![0; 100].into()));
            assert_eq!((state.counts().inbound.depth, state.claimed().inbound.bytes), (1, 100 + ROW_OVERHEAD));
        }
        assert!(state.complete(Queue::Inbound, 512) && !state.complete(Queue::Inbound, 512));
        state.seen(Queue::Inbound, 512, name(0, 100), None);
        assert_eq!(state.counts().inbound.depth, 0, "what is completed does not come back");
        assert_eq!(state.lazies.len(), 1);
    }

    #[test]
    fn what_is_changed_is_read_changed_and_the_window_is_bounded() {
        let mut state = state();
        let large = Bytes::from(vec![0; WINDOW_BYTES / 2 + 1]);
        for place in 0..2 {
            let size = u32::try_from(large.len()).unwrap();
            state.seen(Queue::Inbound, 512 + u64::from(place), name(place, size), Some(large.clone()));
        }
        let known = |state: &State| {
            let wanted = state.after(Queue::Inbound, 0, 9, usize::MAX);
            wanted.into_iter().map(|wanted| wanted.data.map(|data| data.len())).collect::<Vec<_>>()
        };
        assert_eq!(known(&state), [Some(large.len()), None], "the second is to be read");
        assert!(state.replace(Queue::Inbound, 513, Bytes::from_static(b"new")));
        state.have_read(Queue::Inbound, 512);
        assert_eq!(known(&state), [None, Some(3)]);
        assert_eq!(state.counts().inbound.bytes, u64::try_from(large.len()).unwrap() + 3 + 2 * ROW_OVERHEAD);
    }

    #[test]
    fn the_oldest_of_what_is_set_aside_make_room() {
        let mut state = state();
        for place in 0..4 {
            state.seen(Queue::SetAside, 512 + u64::from(place), name(place, 100), None);
        }
        assert_eq!(state.make_room(132, 3 * 132), 2);
        assert!(!state.is_there(Queue::SetAside, 513) && state.is_there(Queue::SetAside, 514));
    }
}
