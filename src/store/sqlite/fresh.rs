//! The newest rows of the inbound queue, in memory: a reader that keeps up costs neither the disk nor the writer's
//! time.
//!
//! They are without a gap, and no more than fit. A reader that is further behind reads the disk.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::os::lock;
use crate::store::types::{Queue, Row};

/// More than one commit brings when all goes well.
const ROWS_MOST: usize = 512;
const BYTES_MOST: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    rows: VecDeque<Row>,
    bytes: usize,
}

impl Fresh {
    /// These rows are durable. Readers have all of them or none.
    pub(super) fn stored(&self, rows: impl Iterator<Item = Row>) {
        let mut fresh = lock(&self.0);
        for row in rows {
            if fresh.rows.back().is_some_and(|last| last.seq + 1 != row.seq) {
                fresh.clear();
            }
            if fresh.rows.len() < ROWS_MOST && fresh.bytes + row.data.len() <= BYTES_MOST {
                fresh.bytes += row.data.len();
                fresh.rows.push_back(row);
            }
        }
    }

    /// The rows after number `after`, if the next one is here: at most `max_rows` with at most `max_bytes`, but one. They are
    /// not here any more then.
    pub(super) fn take(&self, after: u64, max_rows: usize, max_bytes: usize) -> Vec<Row> {
        let mut fresh = lock(&self.0);
        while fresh.rows.front().is_some_and(|first| first.seq <= after) {
            fresh.pop();
        }
        let mut taken = Vec::new();
        if fresh.rows.front().is_none_or(|first| first.seq != after + 1) {
            return taken;
        }
        let mut bytes = 0;
        while let Some(next) = fresh.rows.front()
            && (taken.is_empty() || taken.len() < max_rows && bytes + next.data.len() <= max_bytes)
        {
            bytes += next.data.len();
            taken.extend(fresh.pop());
        }
        taken
    }

    /// This row is not any more what was stored.
    pub(super) fn changed(&self, queue: Queue, seq: u64) {
        if queue == Queue::Inbound {
            let mut fresh = lock(&self.0);
            if fresh.rows.front().is_some_and(|first| first.seq <= seq) {
                fresh.clear();
            }
        }
    }
}

impl Rows {
    fn pop(&mut self) -> Option<Row> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.data.len();
        Some(row)
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(seqs: impl IntoIterator<Item = u64>, size: usize) -> Fresh {
        let fresh = Fresh::default();
        fresh.stored(seqs.into_iter().map(|seq| Row { seq, data: vec![0; size].into() }));
        fresh
    }

    fn take(fresh: &Fresh, after: u64, rows: usize, bytes: usize) -> Vec<u64> {
        fresh.take(after, rows, bytes).into_iter().map(|row| row.seq).collect()
    }

    #[test]
    fn who_keeps_up_reads_from_memory() {
        let fresh = with(5..=8, 10);
        assert_eq!(take(&fresh, 3, 10, 1000), [0; 0], "the next one is on the disk");
        assert_eq!(take(&fresh, 4, 2, 1000), [5, 6]);
        assert_eq!(take(&fresh, 6, 10, 5), [7], "one in any case");
        assert_eq!(take(&fresh, 7, 10, 1000), [8]);
        assert_eq!(take(&fresh, 8, 10, 1000), [0; 0]);
    }

    #[test]
    fn there_is_never_a_gap() {
        assert_eq!(take(&with([1, 2, 4, 5], 10), 3, 10, 1000), [4, 5]);
        let many = with(1..=ROWS_MOST as u64 + 2, 1);
        assert_eq!(take(&many, 0, 10, 1000), [0; 0]);
        assert_eq!(take(&many, ROWS_MOST as u64 + 1, 10, 1000), [ROWS_MOST as u64 + 2]);
        let large = with(1..=2, BYTES_MOST / 2 + 1);
        assert_eq!(take(&large, 0, 10, usize::MAX), [1]);
        assert_eq!(take(&large, 1, 10, usize::MAX), [0; 0]);
    }

    #[test]
    fn a_row_that_changed_is_read_from_the_disk() {
        let fresh = with(1..=3, 10);
        fresh.changed(Queue::Outbound, 2);
        fresh.changed(Queue::Inbound, 0);
        assert_eq!(take(&fresh, 0, 1, 1000), [1]);
        fresh.changed(Queue::Inbound, 2);
        assert_eq!(take(&fresh, 1, 10, 1000), [0; 0]);
    }
}
