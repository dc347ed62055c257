//! Lazy operations waiting for a commit to ride with. What supersedes another before it was stored saves its write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

use crate::store::types::Queue;

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
    Note(String, Option<Vec<u8>>),
    ForgetRedeliveries(Vec<u16>),
}

/// The lazy operations not yet stored. Readers look here first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: BTreeMap<(Queue, u64), Change>,
    pub(super) notes: BTreeMap<String, Option<Vec<u8>>>,
    /// Packet ids of redelivery keys. A key that is stored was asked for after these: they go first.
    pub(super) settled: BTreeSet<u16>,
    since: Option<Instant>,
}

impl Pending {
    pub(super) fn add(&mut self, lazy: Lazy, at: Instant) {
        match lazy {
            Lazy::Row(queue, seq, change) => {
                // A completed row stays completed.
                if !matches!(self.rows.get(&(queue, seq)), Some(Change::Complete)) {
                    self.rows.insert((queue, seq), change);
                }
            }
            Lazy::ForgetRedeliveries(pkids) => self.settled.extend(pkids),
            Lazy::Note(key, value) => {
                self.notes.insert(key, value);
            }
        }
        self.since.get_or_insert(at);
    }

    /// A durable replacement arrived after whatever was to be put into the row lazily.
    pub(super) fn supersede(&mut self, queue: Queue, seq: u64) {
        if matches!(self.rows.get(&(queue, seq)), Some(Change::Replace(_))) {
            self.rows.remove(&(queue, seq));
        }
    }

    pub(super) fn change(&self, queue: Queue, seq: u64) -> Option<&Change> {
        self.rows.get(&(queue, seq))
    }

    /// How many want a commit.
    pub(super) fn wanting(&self) -> usize {
        self.rows.len() + self.notes.len() + usize::from(!self.settled.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanting() == 0
    }

    /// Since when the oldest that wants a commit has been waiting.
    pub(super) fn since(&self) -> Option<Instant> {
        if self.wanting() == 0 { None } else { self.since }
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

    /// All was stored.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
