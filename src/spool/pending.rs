//! Lazy operations waiting for a commit to ride with. What supersedes another before it was stored saves its write.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use bytes::Bytes;

use super::answered::WAITING_MOST;
use super::types::Queue;
use crate::clock::Stamp;

/// What is to become of a row.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Replace(Bytes),
    Complete,
}

/// An operation nobody waits for.
#[derive(Debug)]
pub(super) enum Lazy {
    Row(Queue, u64, Change),
    RememberRepeat([u8; 32], Stamp),
    /// The key with this digest and of this moment goes; `answered` has a mark of it.
    ForgetRepeat([u8; 32], Stamp),
    Note(String, Option<Vec<u8>>),
    ForgetRedeliveries(Vec<u16>),
}

/// The lazy operations not yet stored. Readers look here first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: BTreeMap<(Queue, u64), Change>,
    pub(super) remembered: HashMap<[u8; 32], Stamp>,
    pub(super) notes: BTreeMap<String, Option<Vec<u8>>>,
    /// Packet ids of redelivery keys. A key that is stored was asked for after these: they go first.
    pub(super) settled: BTreeSet<u16>,
    /// Keys that are void already, by their marks: their removal can wait for the next commit with a sync,
    /// which mostly writes keys anyway.
    pub(super) void: HashSet<([u8; 32], Stamp)>,
    /// Marks of this run whose keys' removal is pending.
    marks: u64,
    since: Option<Instant>,
}

impl Pending {
    pub(super) fn add(&mut self, lazy: Lazy) {
        match lazy {
            Lazy::Row(queue, seq, change) => {
                // A completed row stays completed.
                if !matches!(self.rows.get(&(queue, seq)), Some(Change::Complete)) {
                    self.rows.insert((queue, seq), change);
                }
            }
            Lazy::RememberRepeat(digest, at) => {
                self.void.remove(&(digest, at));
                self.remembered.insert(digest, at);
            }
            Lazy::ForgetRepeat(digest, at) => {
                self.forget_repeat(digest, at);
                self.void.insert((digest, at));
                self.marks += 1;
                return;
            }
            Lazy::ForgetRedeliveries(pkids) => self.settled.extend(pkids),
            Lazy::Note(key, value) => {
                self.notes.insert(key, value);
            }
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// A durable replacement arrived after whatever was to be put into the row lazily.
    pub(super) fn supersede(&mut self, queue: Queue, seq: u64) {
        if matches!(self.rows.get(&(queue, seq)), Some(Change::Replace(_))) {
            self.rows.remove(&(queue, seq));
        }
    }

    /// A key is forgotten after whatever was to be remembered of it.
    pub(super) fn forget_repeat(&mut self, digest: [u8; 32], at: Stamp) {
        if self.remembered.get(&digest) == Some(&at) {
            self.remembered.remove(&digest);
        }
    }

    pub(super) fn change(&self, queue: Queue, seq: u64) -> Option<&Change> {
        self.rows.get(&(queue, seq))
    }

    /// How many want a commit.
    pub(super) fn wanting(&self) -> usize {
        self.rows.len() + self.remembered.len() + self.notes.len() + usize::from(!self.settled.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanting() == 0 && self.void.is_empty()
    }

    /// Since when the oldest that wants a commit has been waiting.
    pub(super) fn since(&self) -> Option<Instant> {
        if self.wanting() == 0 { None } else { self.since }
    }

    /// Whether what is void goes with a commit: that is synced, or there is too much of it, or there is nothing else.
    pub(super) fn removes_void(&self, synced: bool) -> bool {
        synced || self.void.len() >= WAITING_MOST || (self.wanting() == 0 && !self.void.is_empty())
    }

    pub(super) fn completed(&self) -> impl Iterator<Item = (Queue, u64)> {
        self.rows.iter().filter(|(_, change)| matches!(change, Change::Complete)).map(|(row, _)| *row)
    }

    pub(super) fn replaced(&self) -> impl Iterator<Item = (Queue, u64, &Bytes)> {
        self.rows.iter().filter_map(|(&(queue, seq), change)| match change {
            Change::Replace(data) => Some((queue, seq, data)),
            Change::Complete => None,
        })
    }

    /// All was stored; what is void only if it `went`. Gives the number of marks that are of no use any more.
    pub(super) fn clear(&mut self, went: bool) -> u64 {
        let Self { void, marks, .. } = std::mem::take(self);
        if went {
            return marks;
        }
        (self.void, self.marks) = (void, marks);
        0
    }
}
