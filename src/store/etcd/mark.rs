//! What a writer leaves in its own key with each transaction.

use serde::{Deserialize, Serialize};

use super::rows::number;
use super::wire::KeyValue;
use crate::store::types::{PerQueue, Queue};

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
