//! One commit: all operations that were waiting, in one transaction.

use std::ops::Deref;

use rusqlite::Connection;

use super::db::{Db, Syncs};
use super::fault::Fault;
use super::keys;
use super::pending::Pending;
use super::rows;
use crate::store::request::{New, Op};
use crate::store::types::{Count, Limits, PerQueue, Queue, row_size};

/// What a commit did.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// The number each operation's row got; 0 where there is none.
    pub(super) seqs: Vec<u64>,
    /// Rows the set-aside store dropped to make room.
    pub(super) dropped: u64,
}

/// All changes from its beginning to its commit; dropped, none of them. As rusqlite's own, but SQLite reads its statements once.
struct Transaction<'c>(&'c Connection);

impl<'c> Transaction<'c> {
    fn begin(conn: &'c Connection) -> rusqlite::Result<Self> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self(conn))
    }

    fn commit(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([]).map(drop)
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Some errors have rolled it back already.
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

impl Db {
    /// Stores `ops` and what is pending. All of it, or after an error none of it.
    pub(super) fn commit(
        &mut self,
        ops: &[Op],
        pending: &Pending,
        limits: &Limits,
        sync: Syncs,
    ) -> Result<Committed, Fault> {
        self.set_sync(sync)?;
        let mut counts = self.counts;
        let committed = self.transact(ops, pending, limits, &mut counts)?;
        self.counts = counts;
        Ok(committed)
    }

    fn transact(
        &mut self,
        ops: &[Op],
        pending: &Pending,
        limits: &Limits,
        counts: &mut PerQueue<Count>,
    ) -> rusqlite::Result<Committed> {
        let tx = Transaction::begin(&self.conn)?;
        let mut committed = Committed::default();
        let before = *counts;
        // Completions first, because they make room; lazy replacements last, because they came after the durable ones.
        let mut completed = pending.completed().peekable();
        while let Some((queue, first)) = completed.next() {
            let mut last = first;
            while let Some((_, next)) = completed.next_if(|next| *next == (queue, last + 1)) {
                last = next;
            }
            let (rows, bytes) = rows::delete_all(&tx, queue, first, last)?;
            counts.get_mut(queue).removed(rows, bytes);
        }
        keys::apply(&tx, &pending.notes)?;
        keys::forget_redeliveries(&tx, &pending.settled)?;
        for op in ops {
            committed.seqs.push(match op {
                Op::Append(New { queue, data, key }, _) => {
                    if *queue == Queue::SetAside {
                        committed.dropped += make_room(&tx, counts.get_mut(*queue), row_size(data), limits.set_aside)?;
                    }
                    let count = counts.get_mut(*queue);
                    let seq = count.next;
                    rows::insert(&tx, *queue, seq, data)?;
                    count.next += 1;
                    count.added(row_size(data));
                    if let Some(key) = key.filter(|key| key.connection >= self.session_began) {
                        keys::put_redelivery(&tx, key.pkid, key.digest)?;
                    }
                    seq
                }
                Op::Replace { queue, seq, data, .. } => {
                    replace(&tx, counts.get_mut(*queue), *queue, *seq, data)?;
                    *seq
                }
                Op::ForgetSession(began, _) => {
                    self.session_began = *began;
                    keys::forget_session(&tx)?;
                    0
                }
                Op::Flush(_) => {
                    // With nothing to write, SQLite would not sync what was committed without a sync.
                    counts.get(Queue::SetAside).save(&tx, Queue::SetAside)?;
                    0
                }
            });
        }
        for (queue, seq, data) in pending.replaced() {
            replace(&tx, counts.get_mut(queue), queue, seq, data)?;
        }
        for queue in Queue::ALL {
            if counts.get(queue) != before.get(queue) {
                counts.get(queue).save(&tx, queue)?;
            }
        }
        #[cfg(test)]
        if let Some(code) = self.fail_commit.take() {
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        }
        tx.commit()?;
        Ok(committed)
    }

    /// Takes damaged rows out of their queue. Gives how many were still there.
    pub(super) fn quarantine(&mut self, queue: Queue, bad: &[u64]) -> Result<u64, Fault> {
        self.set_sync(Syncs::Later)?;
        let mut count = *self.counts.get(queue);
        let mut moved = 0;
        let tx = Transaction::begin(&self.conn)?;
        for seq in bad {
            if let Some(size) = rows::quarantine(&tx, queue, *seq)? {
                count.removed(1, size);
                moved += 1;
            }
        }
        count.save(&tx, queue)?;
        tx.commit()?;
        *self.counts.get_mut(queue) = count;
        Ok(moved)
    }
}

/// A row that is not there (any more) is not brought back.
fn replace(tx: &Connection, count: &mut Count, queue: Queue, seq: u64, data: &[u8]) -> rusqlite::Result<()> {
    if let Some(size) = rows::size_of(tx, queue, seq)? {
        rows::update(tx, queue, seq, data)?;
        count.removed(1, size);
        count.added(row_size(data));
    }
    Ok(())
}

/// Drops the oldest of the set-aside store until `size` fits under `limit`.
fn make_room(tx: &Connection, count: &mut Count, size: u64, limit: u64) -> rusqlite::Result<u64> {
    let mut dropped = 0;
    while count.bytes.saturating_add(size) > limit {
        let Some(oldest) = rows::oldest(tx, Queue::SetAside)? else { break };
        let Some(size) = rows::delete(tx, Queue::SetAside, oldest)? else { break };
        count.removed(1, size);
        dropped += 1;
    }
    Ok(dropped)
}
