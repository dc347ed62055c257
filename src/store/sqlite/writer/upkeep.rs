//! Maintenance: lazy commits, retries on a disk that refuses, the checkpoint before resting, rebuilding what is
//! damaged, and the end.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rusqlite::Connection;
use tracing::{error, warn};

use super::super::fault::Fault;
use super::super::inbox::{LAZY_MOST, LAZY_WAIT};
use super::super::recovery;
use super::{IDLE_AFTER, Stop, Writer};
use crate::store::shared::add;

/// A database that is damaged again and again sits on a dying disk.
const REBUILDS_MOST: u64 = 8;

impl Writer {
    /// What is due without being asked.
    pub(super) fn chores(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        if self.refused.as_ref().is_some_and(|refused| now >= refused.again) {
            self.retry()?;
        }
        let waited = self.lazy_since().is_some_and(|since| now >= since + LAZY_WAIT);
        let many = self.pending.wanting() >= LAZY_MOST;
        if !self.is_stuck() && (waited || many) {
            self.store(Vec::new())?;
        }
        if !self.is_stuck() && self.lazy_since().is_none() && self.grown.is_some_and(|at| now >= at + IDLE_AFTER) {
            self.rest()?;
        }
        Ok(())
    }

    /// Whether the disk takes it again: what is pending, or else the counts as they are.
    fn retry(&mut self) -> Result<(), Stop> {
        if let Err(cause) = self.room() {
            self.refuse_rows(cause);
            // Completions are what makes room.
            return self.store(Vec::new());
        }
        let tried = self.db.touch().map_err(Fault::from);
        self.settle(tried)?;
        self.grown = Some(Instant::now());
        if self.refused.as_ref().is_some_and(|refused| refused.again <= Instant::now()) {
            self.accept_again();
        }
        Ok(())
    }

    /// Nothing has come for a while: leave everything in order, so that no timer is needed.
    fn rest(&mut self) -> Result<(), Stop> {
        self.grown = None;
        let rested = self.put_in_order();
        self.settle(rested)
    }

    fn put_in_order(&mut self) -> Result<(), Fault> {
        let lost = self.db.reconcile()?;
        if lost > 0 {
            error!(rows = lost, "the spool held fewer rows than it should");
            add(&self.shared.damaged_rows, lost);
            self.shared.show(&self.db.counts);
        }
        let mut done = self.db.checkpoint()?;
        if done && self.db.vacuum(|bytes| self.disk.has(bytes))? {
            done = self.db.checkpoint()?;
        }
        self.disk.take_ballast(&self.files)?;
        self.ballast = true;
        if !done && !self.reader_warned {
            warn!("another program is reading the spool's database: its log cannot be emptied");
        }
        self.reader_warned = !done;
        Ok(())
    }

    /// What to do about an error in something nobody waits for.
    pub(super) fn settle(&mut self, outcome: Result<(), Fault>) -> Result<(), Stop> {
        match outcome.map_err(|fault| self.judged(fault)) {
            Ok(()) => Ok(()),
            Err(Fault::Unwritable(cause) | Fault::Unread(cause)) => {
                let cause = self.placed(&cause);
                self.refuse(cause);
                Ok(())
            }
            Err(Fault::Damaged(cause)) => self.rebuild(&cause),
            Err(Fault::Fatal(cause)) => Err(self.fail(cause)),
        }
    }

    pub(super) fn rebuild(&mut self, cause: &str) -> Result<(), Stop> {
        if self.shared.rebuilds.fetch_add(1, Ordering::Relaxed) >= REBUILDS_MOST {
            return Err(self.fail(format!("the database is damaged again and again, last: {cause}")));
        }
        error!(cause, "the spool's database is damaged: rebuilding it from what can be read");
        self.shared.excused.store(true, Ordering::Relaxed);
        let rebuilt = self
            .close_damaged()
            .map_err(|error| error.to_string())
            .and_then(|()| recovery::rebuild(&self.files, Some(&self.db.counts)).map_err(|error| error.to_string()));
        self.shared.excused.store(self.unreadable.is_some(), Ordering::Relaxed);
        match rebuilt {
            Ok(rebuilt) => {
                let moved_to = rebuilt.moved_to.display();
                error!(kept = rebuilt.kept, lost = rebuilt.lost, %moved_to, "the spool has been rebuilt");
                let session_began = self.db.session_began;
                self.db = rebuilt.db;
                self.db.session_began = session_began;
                self.grown = Some(Instant::now());
                add(&self.shared.damaged_rows, rebuilt.lost);
                self.shared.show(&self.db.counts);
                Ok(())
            }
            Err(error) => Err(self.fail(format!("the database is damaged ({cause}) and cannot be rebuilt: {error}"))),
        }
    }

    /// Must come before the file is moved: closing later would remove the log of whatever is at its path by then.
    fn close_damaged(&mut self) -> rusqlite::Result<()> {
        let damaged = mem::replace(&mut self.db.conn, Connection::open_in_memory()?);
        damaged.close().map_err(|(_, error)| error)
    }

    /// Nothing is stored or answered after this. Whoever waits learns of it when their reply is dropped.
    /// What the log holds is not known to be on the disk: it does not replace what is, because closing leaves it alone.
    pub(super) fn fail(&self, cause: String) -> Stop {
        error!(cause, "the spool has failed");
        self.shared.fail(cause);
        Stop
    }

    /// The end: everything stored, the log empty, the file closed.
    pub(super) fn finish(mut self) {
        if self.store(Vec::new()).is_err() {
            return;
        }
        if !self.pending.is_empty() {
            error!("{} completions or notes could not be stored: deliveries may be repeated", self.pending.wanting());
        }
        let Self { db, files, disk, ballast, shared, .. } = self;
        // Of what the log has given back, before others take it: the next start needs some.
        let closed = db.close().and_then(|_| if ballast { disk.take_ballast(&files) } else { Ok(()) });
        match closed {
            Ok(()) => {}
            Err(Fault::Fatal(cause)) => {
                error!(cause, "the spool has failed");
                shared.fail(cause);
            }
            Err(Fault::Unwritable(error) | Fault::Unread(error) | Fault::Damaged(error)) => {
                warn!(error, "the spool was not closed cleanly; nothing is lost");
            }
        }
    }
}
