//! What a row is called in etcd, and its number; and by which mark a writer knows them again.
//!
//! All that is put by one transaction is made in one revision, and revisions only grow. So a row's number is that revision and
//! its place in the transaction. What the number cannot say is in the key: the transaction by a name of its own, because its
//! revision is not known before; the place; and the size, so that a takeover need not read what waits.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::wire::KeyValue;
use crate::store::types::{PerQueue, Queue};

/// The bits of a number that are the place in the transaction.
const PLACE_BITS: u32 = 8;

/// The name of a row below its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowName {
    pub(super) transaction: Ulid,
    pub(super) place: u8,
    /// Of the data that it was appended with.
    pub(super) size: u32,
}

impl RowName {
    pub(super) fn encode(&self) -> String {
        format!("{}-{:02x}-{:x}", self.transaction, self.place, self.size)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (transaction, place, size) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self {
            transaction: Ulid::from_string(transaction).ok()?,
            place: u8::from_str_radix(place, 16).ok()?,
            size: u32::from_str_radix(size, 16).ok()?,
        };
        parts.next().is_none().then_some(name)
    }
}

pub(super) fn number(revision: u64, place: u8) -> u64 {
    revision << PLACE_BITS | u64::from(place)
}

pub(super) fn revision(number: u64) -> u64 {
    number >> PLACE_BITS
}

/// What the last transaction of a writer was, and which rows were its last. It stands in the writer's key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) transaction: String,
    /// The highest number of each queue before it.
    pub(super) before: [u64; 3],
    /// The last place of each queue in it.
    pub(super) here: [Option<u8>; 3],
}

impl Mark {
    /// The highest number of each queue that the writer has given.
    pub(super) fn highest(kv: &KeyValue) -> PerQueue<u64> {
        let mark: Self = serde_json::from_slice(&kv.value.0).unwrap_or_default();
        let mut highest = PerQueue::default();
        for ((queue, before), here) in Queue::ALL.into_iter().zip(mark.before).zip(mark.here) {
            *highest.get_mut(queue) = here.map_or(before, |place| number(kv.mod_revision.0, place));
        }
        highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_all_that_the_number_does_not() {
        let name = RowName { transaction: Ulid::from_parts(1, 2), place: 119, size: 1_048_576 };
        assert_eq!(name.encode(), format!("{}-77-100000", Ulid::from_parts(1, 2)));
        assert_eq!(RowName::parse(&name.encode()), Some(name));
        for odd in ["", "a-b-c", "01ARZ3NDEKTSV4RRFFQ69G5FAV-00", "01ARZ3NDEKTSV4RRFFQ69G5FAV-00-1-2"] {
            assert_eq!(RowName::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn numbers_grow_with_revisions_and_within_them() {
        assert!(number(7, 255) < number(8, 0) && number(8, 0) < number(8, 1));
        assert_eq!(revision(number(8, 1)), 8);
    }
}
