//! When a queue is full, how long it counts as full, and what people are told of it.

use tracing::{info, warn};

use super::types::{Count, Limits, MAX_COMMANDS, Medium, NotStored, PerQueue, Queue, WhyNot};

/// A full queue counts as full until this part of it is free.
const ROOM_AGAIN: u64 = 16;

/// What it means that a queue is full, and what to do.
fn full_words(queue: Queue, medium: Medium) -> String {
    let key = medium.limit_key();
    if queue == Queue::Inbound {
        return format!(
            "the inbound queue is full: pushes are not answered until the broker takes what waits (see `broker`); or raise {key}"
        );
    }
    format!(
        "the outbound queue is full: commands are refused until iLink takes what waits and the broker its results; or raise \
         {key} (250,000 rows are the most it may hold)"
    )
}

/// Whether a queue that holds this has no room for `more` bytes in another row.
pub(super) fn beyond(queue: Queue, held: &Count, more: u64, limit: u64) -> bool {
    held.bytes.saturating_add(more) > limit || (queue == Queue::Outbound && held.depth >= MAX_COMMANDS)
}

/// Which queues count as full.
#[derive(Debug)]
pub(super) struct Fullness {
    medium: Medium,
    /// The size of what was last refused because its queue was full.
    full: PerQueue<Option<u64>>,
    /// Of which queues it was said that they are full.
    told: PerQueue<bool>,
}

/// What has changed, for the log.
#[must_use]
pub(super) struct Changes(Medium, Vec<(Queue, bool)>);

impl Fullness {
    pub(super) fn new(medium: Medium) -> Self {
        Self { medium, full: PerQueue::default(), told: PerQueue::default() }
    }

    /// A row of this size was refused.
    pub(super) fn refused(&mut self, queue: Queue, size: u64) {
        *self.full.get_mut(queue) = Some(size);
    }

    /// Whether rows are taken, as far as the limits are concerned.
    pub(super) fn look(&mut self, counts: &PerQueue<Count>, limits: &Limits) -> (Result<(), NotStored>, Changes) {
        let mut now = Ok(());
        let mut changes = Vec::new();
        for queue in [Queue::Inbound, Queue::Outbound] {
            let (mut held, limit) = (*counts.get(queue), *limits.get(queue));
            let empty = held.depth == 0;
            held.depth += MAX_COMMANDS / ROOM_AGAIN;
            let full = self.full.get_mut(queue);
            // With some room to spare: a flood at the limit must not be told as a change of state with each row.
            *full = full.filter(|size| beyond(queue, &held, (*size).max(limit / ROOM_AGAIN), limit) && !empty);
            let told = std::mem::replace(self.told.get_mut(queue), full.is_some());
            if full.is_some() != told {
                changes.push((queue, told));
            }
            if full.is_some() {
                now = Err(NotStored { cause: full_words(queue, self.medium), why: WhyNot::Full });
            }
        }
        (now, Changes(self.medium, changes))
    }
}

impl Changes {
    pub(super) fn log(self) {
        for (queue, was_full) in self.1 {
            if was_full {
                info!("the {} queue has room again", queue.as_str());
            } else {
                warn!("{}", full_words(queue, self.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_bounded_in_number_too() {
        let held = |depth| Count { depth, bytes: 150 * depth, ..Count::default() };
        for (queue, depth, beyond_it) in [
            (Queue::Outbound, MAX_COMMANDS - 1, false),
            (Queue::Outbound, MAX_COMMANDS, true),
            (Queue::Inbound, MAX_COMMANDS, false),
            (Queue::Inbound, 10_000_000, true),
        ] {
            assert_eq!(beyond(queue, &held(depth), 150, 512 << 20), beyond_it, "{queue:?} {depth}");
        }
        for medium in [Medium::Disk, Medium::Etcd] {
            assert!(full_words(Queue::Outbound, medium).contains("250,000") && MAX_COMMANDS == 250_000);
        }
    }
}
