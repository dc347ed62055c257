//! The write-ahead log (`spool.db-wal`): when it is checkpointed, that is, moved into the database.
//!
//! `SQLite` would do that by itself at the end of a commit and when a connection closes, and ignore the result. But
//! lazy commits leave the log unsynced. So the checkpoint's sync may be the one that fails, and after a failed sync
//! nobody may be answered. Automatic checkpoints are therefore off: every checkpoint is asked for here, and its result
//! is treated as a commit's.

use std::time::Duration;

use rusqlite::Result;
use rusqlite::config::DbConfig;

use super::db::{BUSY_TIMEOUT, Db};
use super::fault::Fault;

/// A log of so many pages is moved after the commit that made it so long.
const MOVE_AT: i64 = 1000;

impl Db {
    /// Moves what the log holds into the database if it has grown long, as far as other readers let it; the next commit then
    /// begins it anew. To be called after each commit.
    pub(super) fn checkpoint_if_long(&self) -> Result<()> {
        let pages: i64 = self.conn.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?.query_row([], |row| row.get(1))?;
        if pages >= MOVE_AT {
            self.checkpoint_by("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }

    /// Moves everything from the log into the database, and empties the log; false if a reader is in the way.
    ///
    /// A log left standing is a risk: one flipped bit in it drops every later commit of it without a word.
    pub(super) fn checkpoint(&self) -> Result<bool> {
        self.checkpoint_by("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// The same, but the log keeps its room on the disk and is written from its start again.
    pub(super) fn reuse_log(&self) -> Result<bool> {
        self.checkpoint_by("PRAGMA wal_checkpoint(RESTART)")
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
