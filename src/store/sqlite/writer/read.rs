//! Reads, between commits: pending changes count as made, damaged rows are left out.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::super::db::Db;
use super::super::fault::Fault;
use super::super::keys;
use super::super::pending::Pending;
use super::super::rows::{self, Found};
use super::{Read, Stop, Writer};
use crate::store::shared::add;
use crate::store::types::{Queue, SpoolError};

/// A disk that does not give back what it holds has this long to come round; what it still does not give then is damage.
const COMES_ROUND: Duration = Duration::from_secs(3);
/// After this long, it is other trouble.
const FORGOTTEN: Duration = Duration::from_mins(1);

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
            Read::Redeliveries { reply } => {
                let keys = self.look(|db, pending| {
                    let mut keys = keys::redeliveries(&db.conn)?;
                    keys.retain(|(pkid, _)| !pending.settled.contains(pkid));
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
    fn look<T>(
        &mut self,
        look: impl Fn(&mut Db, &Pending) -> rusqlite::Result<T>,
    ) -> Result<Result<T, SpoolError>, Stop> {
        let mut looked_again = false;
        loop {
            #[cfg(test)]
            let found = self.db.fail_read().and_then(|()| look(&mut self.db, &self.pending));
            #[cfg(not(test))]
            let found = look(&mut self.db, &self.pending);
            let found = found.map_err(Fault::from);
            if matches!(found, Err(Fault::Damaged(_))) && !looked_again {
                // If it was the disk's fault, it may be over.
                looked_again = true;
                continue;
            }
            match found.map_err(|fault| self.judged(fault)) {
                Ok(found) => {
                    self.read_again();
                    return Ok(Ok(found));
                }
                Err(Fault::Unwritable(cause) | Fault::Unread(cause)) => {
                    let cause = self.placed(&cause);
                    self.not_read(&cause);
                    return Ok(Err(SpoolError::Unwritable(cause)));
                }
                Err(Fault::Damaged(cause)) => self.rebuild(&cause)?,
                Err(Fault::Fatal(cause)) => return Err(self.fail(cause)),
            }
        }
    }

    /// The fault as it is to be taken: what the disk did not give back for a while is damage.
    pub(super) fn judged(&mut self, fault: Fault) -> Fault {
        let cause = match fault {
            Fault::Unread(cause) => cause,
            Fault::Damaged(cause) if !self.files.can_be_read() => cause,
            other => return other,
        };
        let now = Instant::now();
        // Trouble of long ago is not this one.
        let recent = self.unread_since.filter(|since| now - *since < FORGOTTEN);
        let since = *self.unread_since.insert(recent.unwrap_or(now));
        if now - since < COMES_ROUND {
            return Fault::Unread(cause);
        }
        self.unread_since = None;
        Fault::Damaged(cause)
    }

    /// A read has failed: who asked asks again. They may wait for longer than work takes.
    fn not_read(&mut self, cause: &str) {
        if self.unreadable.replace(cause.to_owned()).is_none() {
            warn!(cause, "the spool cannot be read; trying again");
            self.shared.excused.store(true, Ordering::Relaxed);
        }
        self.show_writable();
    }

    fn read_again(&mut self) {
        if self.unreadable.take().is_some() {
            self.shared.excused.store(false, Ordering::Relaxed);
            self.show_writable();
            info!("the spool can be read again");
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
        let moved = self.db.quarantine(queue, bad);
        if let Ok(moved) = moved {
            error!(queue = queue.as_str(), rows = moved, "damaged rows were found in the spool and left out");
            add(&self.shared.damaged_rows, moved);
            self.grown = Some(Instant::now());
            self.shared.show(&self.db.counts);
        }
        // If the disk refuses, they are left out all the same, and met again by the next reader.
        self.settle(moved.map(drop))?;
        Ok(found)
    }
}
