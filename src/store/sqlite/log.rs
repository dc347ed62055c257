//! The write-ahead log (`spool.db-wal`): when it is checkpointed, that is, moved into the database.
//!
//! `SQLite` would do that by itself at the end of a commit and when a connection closes, and ignore the result. But
//! lazy commits leave the log unsynced. So the checkpoint's sync may be the one that fails, and after a failed sync
//! nobody may be answered. Automatic checkpoints are therefore off: every checkpoint is asked for here, and its result
//! is treated as a commit's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Result;
use rusqlite::config::DbConfig;

use super::db::{BUSY_TIMEOUT, Db, PAGE_SIZE};
use super::fault::Fault;

/// A log of so many pages is moved after the commit that made it so long.
const MOVE_AT: u32 = 1000;

impl Db {
    /// Moves what the log holds into the database if it has grown long, as far as other readers let it; the next commit then
    /// begins it anew. To be called after each commit.
    pub(super) fn checkpoint_if_long(&self) -> Result<()> {
        if self.log_pages.load(Ordering::Relaxed) >= MOVE_AT {
            self.checkpoint_by("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }

    /// How long the log was after the last commit, in bytes.
    pub(super) fn log_size(&self) -> u64 {
        u64::from(self.log_pages.load(Ordering::Relaxed)) * PAGE_SIZE
    }

    /// Moves everything from the log into the database, and empties the log; false if a reader is in the way.
    ///
    /// A log left standing is a risk: one flipped bit in it drops every later commit of it without a word.
    pub(super) fn checkpoint(&self) -> Result<bool> {
        self.empty_by("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// The same, but the log keeps its room on the disk and is written from its start again.
    pub(super) fn reuse_log(&self) -> Result<bool> {
        self.empty_by("PRAGMA wal_checkpoint(RESTART)")
    }

    /// Only a commit counts the pages anew.
    fn empty_by(&self, pragma: &str) -> Result<bool> {
        let is_empty = self.checkpoint_by(pragma)?;
        if is_empty {
            self.log_pages.store(0, Ordering::Relaxed);
        }
        Ok(is_empty)
    }

    /// Of an error that says "busy" the row tells; all others, of a sync too, come as errors.
    fn checkpoint_by(&self, pragma: &str) -> Result<bool> {
        self.conn.busy_timeout(Duration::ZERO)?;
        let busy = self.conn.prepare_cached(pragma)?.query_row([], |row| row.get::<_, bool>(0));
        self.conn.busy_timeout(BUSY_TIMEOUT)?;
        Ok(!busy?)
    }

    /// Closes it with everything in the one file, and no log. False if a reader is in the way: then the log stays.
    pub(super) fn close(self) -> std::result::Result<bool, Fault> {
        let is_empty = self.checkpoint()?;
        if is_empty {
            // Nothing is left that a close could store: it only removes the empty log.
            self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        }
        self.conn.close().map_err(|(_, error)| error)?;
        Ok(is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::recovery;

    #[test]
    fn a_log_that_has_grown_long_is_moved_and_begins_anew() {
        let dir = tempfile::TempDir::new().unwrap();
        let (db, files, _) = recovery::open(dir.path()).unwrap();
        db.conn.pragma_update(None, "synchronous", "OFF").unwrap();
        let mut longest = 0;
        for n in 0..3 * MOVE_AT {
            db.conn.execute("INSERT OR REPLACE INTO note (key, crc, value) VALUES ('a', ?1, x'')", [n]).unwrap();
            longest = longest.max(db.log_size());
            db.checkpoint_if_long().unwrap();
        }
        assert_eq!(longest, u64::from(MOVE_AT) * PAGE_SIZE);
        // Each page has a head of 24 bytes there, and the log one of 32.
        assert_eq!(files.log_size(), u64::from(MOVE_AT) * (PAGE_SIZE + 24) + 32);
        assert!(db.log_size() > 0 && db.checkpoint().unwrap());
        assert_eq!(db.log_size(), 0, "an empty log is not long");
    }
}
