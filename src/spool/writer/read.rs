//! Reading, between commits: what is pending counts as done, what is damaged is left out.

use std::time::Instant;

use tracing::error;

use super::super::db::Db;
use super::super::fault::Fault;
use super::super::keys;
use super::super::pending::Pending;
use super::super::request::Read;
use super::super::rows::{self, Found};
use super::super::shared::add;
use super::super::types::{Queue, SpoolError};
use super::{Stop, Writer};

impl Writer {
    pub(super) fn read(&mut self, read: Read) -> Result<(), Stop> {
        match read {
            Read::After { queue, after, most, reply } => {
                let found = self.look(|db, pending| rows::read_after(&db.conn, pending, queue, after, most))?;
                let rows = self.without_bad(queue, found)?.map(|found| found.rows);
                reply.send(rows);
            }
            Read::One { queue, seq, reply } => {
                let found = self.look(|db, pending| rows::read(&db.conn, pending, queue, seq))?;
                let row = self.without_bad(queue, found)?.map(|found| found.rows.into_iter().next());
                reply.send(row);
            }
            Read::Keys { reply } => {
                let keys = self.look(|db, pending| {
                    let mut keys = db.repeats.keys(&db.conn)?;
                    keys.repeats.retain(|(digest, at)| pending.void.get(digest) != Some(at));
                    keys.repeats.extend(pending.remembered.iter().map(|(digest, at)| (*digest, *at)));
                    Ok(keys)
                })?;
                reply.send(keys);
            }
            Read::Notes { prefix, reply } => {
                let notes = self.look(|db, pending| keys::notes(&db.conn, &pending.notes, &prefix))?;
                reply.send(notes);
            }
        }
        Ok(())
    }

    /// Reads, over a rebuild if there must be one.
    fn look<T>(&mut self, look: impl Fn(&Db, &Pending) -> rusqlite::Result<T>) -> Result<Result<T, SpoolError>, Stop> {
        loop {
            match look(&self.db, &self.pending).map_err(Fault::from) {
                Ok(found) => return Ok(Ok(found)),
                Err(Fault::Unwritable(cause)) => return Ok(Err(SpoolError::Unwritable(cause))),
                Err(Fault::Damaged(cause)) => self.rebuild(&cause)?,
                Err(Fault::Fatal(cause)) => return Err(self.fail(cause)),
            }
        }
    }

    /// Takes bad rows out of the way, so that they are counted and reported once.
    fn without_bad(
        &mut self,
        queue: Queue,
        found: Result<Found, SpoolError>,
    ) -> Result<Result<Found, SpoolError>, Stop> {
        let Some(bad) = found.as_ref().ok().map(|found| &found.bad).filter(|bad| !bad.is_empty()) else {
            return Ok(found);
        };
        match self.db.quarantine(queue, bad) {
            Ok(moved) => {
                error!(queue = queue.as_str(), rows = moved, "damaged rows were found in the spool and left out");
                add(&self.shared.damaged_rows, moved);
                self.grown = Some(Instant::now());
                self.shared.show(&self.db.counts);
            }
            // They are left out all the same, and met again by the next reader.
            Err(Fault::Unwritable(cause)) => {
                let cause = self.placed(&cause);
                self.refuse(cause);
            }
            Err(Fault::Damaged(cause)) => self.rebuild(&cause)?,
            Err(Fault::Fatal(cause)) => return Err(self.fail(cause)),
        }
        Ok(found)
    }
}
