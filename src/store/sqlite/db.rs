//! The database: its connection, its tables, and the counts that make a scan at start unnecessary.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Result};

use super::fault::Fault;
use super::rows::{self, signed, unsigned};
use crate::store::types::{Count, PerQueue, Queue};

/// Another program (an operator's `sqlite3`) may hold a lock for a moment, but nobody waits long for it.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Marks the file as ours ("iLMQ"), for `file` and for us.
const APPLICATION_ID: i32 = 0x694c_4d51;

/// Small pages: a lone row costs half the bytes of SQLite's usual 4 KiB.
pub(super) const PAGE_SIZE: u64 = 1024;

/// Up to this size the whole structure is checked at every start; beyond, damage is met when it is met.
const CHECK_UP_TO: u64 = 16 * 1024 * 1024;

/// VACUUM when at least this much of the file is unused, and more than three quarters of it.
const VACUUM_AT: u64 = 8 * 1024 * 1024;

/// ... and no more than this is used, because it is copied through memory.
const VACUUM_UP_TO: u64 = 32 * 1024 * 1024;

/// After the counts were lost, numbers go on this far beyond the highest row still there.
pub(super) const SEQ_JUMP: u64 = 1 << 20;

const SETTINGS: &str = "
    PRAGMA page_size = 1024;
    PRAGMA auto_vacuum = NONE;
    PRAGMA synchronous = FULL;
    PRAGMA journal_size_limit = 8388608;
    PRAGMA cache_size = -4096;
    PRAGMA temp_store = MEMORY;
";

/// The tables, each with its statement exactly as SQLite keeps it.
const TABLES: [(&str, &str); 8] = [
    ("inbound", "CREATE TABLE inbound (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL) STRICT"),
    ("outbound", "CREATE TABLE outbound (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL) STRICT"),
    ("set_aside", "CREATE TABLE set_aside (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL) STRICT"),
    (
        "state",
        "CREATE TABLE state (queue TEXT PRIMARY KEY, next INTEGER NOT NULL, depth INTEGER NOT NULL, \
         bytes INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ),
    // Not used any more; a spool is known by its tables.
    ("repeat", "CREATE TABLE repeat (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, at BLOB NOT NULL) STRICT"),
    ("redelivery", "CREATE TABLE redelivery (pkid INTEGER PRIMARY KEY, digest BLOB NOT NULL) STRICT"),
    (
        "note",
        "CREATE TABLE note (key TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ),
    ("damaged", "CREATE TABLE damaged (id INTEGER PRIMARY KEY, queue TEXT, seq INTEGER, crc ANY, data ANY) STRICT"),
];

impl Count {
    fn crc(&self, queue: Queue) -> i64 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(queue.as_str().as_bytes());
        for n in [self.next, self.depth, self.bytes] {
            hasher.update(&n.to_le_bytes());
        }
        i64::from(hasher.finalize())
    }

    pub(super) fn save(&self, conn: &Connection, queue: Queue) -> Result<()> {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO state (queue, next, depth, bytes, crc) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            queue.as_str(),
            signed(self.next),
            signed(self.depth),
            signed(self.bytes),
            self.crc(queue),
        ))?;
        Ok(())
    }

    /// The count as it was saved, unless it is missing or damaged.
    pub(super) fn load(conn: &Connection, queue: Queue) -> Result<Option<Self>> {
        let saved = conn
            .prepare_cached("SELECT next, depth, bytes, crc FROM state WHERE queue = ?1")?
            .query_row([queue.as_str()], |row| {
                let count =
                    Self { next: unsigned(row.get(0)?), depth: unsigned(row.get(1)?), bytes: unsigned(row.get(2)?) };
                Ok((count, row.get::<_, i64>(3)?))
            })
            .optional()?;
        Ok(saved.filter(|(count, crc)| *crc == count.crc(queue)).map(|(count, _)| count))
    }

    fn recount(conn: &Connection, queue: Queue) -> Result<Self> {
        let (highest, depth, bytes) = rows::recount(conn, queue)?;
        Ok(Self { next: highest.saturating_add(SEQ_JUMP), depth, bytes })
    }
}

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    /// It does: `synchronous=FULL`.
    Now,
    /// It goes with the next one that does: `synchronous=NORMAL`, which in WAL mode survives the process but not the power.
    Later,
}

/// The open database.
#[derive(Debug)]
pub(super) struct Db {
    pub(super) conn: Connection,
    pub(super) counts: PerQueue<Count>,
    /// Of the log, as of the last commit.
    pub(super) log_pages: Arc<AtomicU32>,
    pub(super) sync: Syncs,
    /// The first connection of the MQTT session whose redelivery keys are kept.
    pub(super) session_began: u64,
    #[cfg(test)]
    pub(super) never_syncs: bool,
    #[cfg(test)]
    pub(super) fail_commit: Option<i32>,
    /// How many of the next reads fail, and with which code.
    #[cfg(test)]
    pub(super) fail_reads: (u32, i32),
}

impl Db {
    /// Opens the file at `path`, which exists; one without content becomes a spool.
    pub(super) fn open(path: &Path) -> std::result::Result<Self, Fault> {
        // If this goes wrong, the log is part of what is to be rescued.
        let mut conn = connect(path)?;
        let tables = tables(&conn)?;
        if !tables.is_empty() && !are_ours(&tables) {
            return Err(Fault::Damaged("it is a database, but not a spool".to_owned()));
        }
        if tables.is_empty() && pages(&conn, "PRAGMA page_count")? > 1 {
            return Err(Fault::Damaged("its tables are gone".to_owned()));
        }
        conn.execute_batch(SETTINGS)?;
        use_log(&conn)?;
        let log_pages = count_pages(&mut conn)?;
        if tables.is_empty() {
            create(&conn)?;
        } else if path.metadata().is_ok_and(|file| file.len() <= CHECK_UP_TO) {
            check(&conn)?;
        }
        let mut counts = PerQueue::default();
        for queue in Queue::ALL {
            let count = if let Some(count) = Count::load(&conn, queue)? {
                count
            } else {
                let count = Count::recount(&conn, queue)?;
                count.save(&conn, queue)?;
                count
            };
            *counts.get_mut(queue) = count;
        }
        let db = Self {
            conn,
            counts,
            log_pages,
            sync: Syncs::Now,
            session_began: 0,
            #[cfg(test)]
            never_syncs: false,
            #[cfg(test)]
            fail_commit: None,
            #[cfg(test)]
            fail_reads: (0, 0),
        };
        db.begin_log(path)?;
        Ok(db)
    }

    /// What an earlier run could not sync may stand in the log, read from memory, and be on no disk: whatever came behind it
    /// would be lost with it when power fails. In the database it is written anew, and the log begins anew.
    fn begin_log(&self, path: &Path) -> std::result::Result<(), Fault> {
        match self.checkpoint().map_err(Fault::from) {
            // Where there is no room for that, or another program has it open, it can only stay.
            Ok(_) | Err(Fault::Unwritable(_)) => {}
            Err(fault) => return Err(fault),
        }
        // SQLite ignores whether this sync, of the name of a new log, succeeds.
        let dir = path.parent().unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Fault::of_sync(dir, &error))
    }

    #[cfg(test)]
    pub(super) fn fail_read(&mut self) -> Result<()> {
        let (times, code) = &mut self.fail_reads;
        if *times == 0 {
            return Ok(());
        }
        *times -= 1;
        Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(*code), None))
    }

    pub(super) fn set_sync(&mut self, sync: Syncs) -> Result<()> {
        if self.sync != sync {
            let level = if sync == Syncs::Now { "FULL" } else { "NORMAL" };
            #[cfg(test)]
            let level = if self.never_syncs { "OFF" } else { level };
            self.conn.pragma_update(None, "synchronous", level)?;
            self.sync = sync;
        }
        Ok(())
    }

    /// Writes what is already there, to see whether the disk takes it.
    pub(super) fn touch(&mut self) -> Result<()> {
        self.set_sync(Syncs::Now)?;
        self.counts.get(Queue::Inbound).save(&self.conn, Queue::Inbound)
    }

    /// Bytes of the file that hold nothing, and are used before it grows.
    pub(super) fn unused(&self) -> Result<u64> {
        Ok(PAGE_SIZE * pages(&self.conn, "PRAGMA freelist_count")?)
    }

    /// Gives unused pages back to the disk, if they are many and the rest is little, and if `has` that many bytes free: the
    /// rest is written anew. True if it did.
    pub(super) fn vacuum(&self, has: impl FnOnce(u64) -> bool) -> Result<bool> {
        let free = self.unused()?;
        let used = (PAGE_SIZE * pages(&self.conn, "PRAGMA page_count")?).saturating_sub(free);
        if free < VACUUM_AT || used > VACUUM_UP_TO || free / 3 < used || !has(used + used / 4) {
            return Ok(false);
        }
        self.conn.execute_batch("VACUUM")?;
        Ok(true)
    }

    /// Counts again what is empty and should not be: rows lost to silent damage must not count for ever. Gives their number.
    pub(super) fn reconcile(&mut self) -> Result<u64> {
        let mut lost = 0;
        for queue in Queue::ALL {
            let count = self.counts.get(queue);
            if (count.depth, count.bytes) != (0, 0) && rows::oldest(&self.conn, queue)?.is_none() {
                let empty = Count { next: count.next, depth: 0, bytes: 0 };
                empty.save(&self.conn, queue)?;
                lost += count.depth;
                *self.counts.get_mut(queue) = empty;
            }
        }
        Ok(lost)
    }
}

/// Takes from `SQLite` what it would do to the log unasked: from here on a connection that closes leaves the files as they are.
fn leave_log(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Switches to a log, which a new file is not set to. That is a commit of its own, which comes after the pragma's row: whether its
/// syncs succeed is told by who asks for another row, and nobody else does.
fn use_log(conn: &Connection) -> std::result::Result<(), Fault> {
    let mut statement = conn.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    let mut mode = String::new();
    while let Some(row) = rows.next()? {
        mode = row.get(0)?;
    }
    if mode == "wal" { Ok(()) } else { Err(Fault::Unwritable(format!("it keeps no log, but {mode}"))) }
}

/// How many pages the log has after each commit of this connection: `SQLite` tells it, so that nobody need ask.
fn count_pages(conn: &mut Connection) -> Result<Arc<AtomicU32>> {
    let pages = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&pages);
    conn.wal_hook(Some(move |_: &mut Wal, pages| {
        counted.store(u32::try_from(pages).unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

/// A connection to an existing file, with nothing set or read yet.
pub(super) fn connect(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(64);
    leave_log(&conn)?;
    Ok(conn)
}

fn pages(conn: &Connection, pragma: &str) -> Result<u64> {
    conn.prepare_cached(pragma)?.query_row([], |row| Ok(unsigned(row.get(0)?)))
}

/// Names and statements of everything in the schema.
pub(super) fn tables(conn: &Connection) -> Result<Vec<(String, String)>> {
    conn.prepare("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn are_ours(tables: &[(String, String)]) -> bool {
    tables.len() == TABLES.len() && TABLES.iter().all(|(name, sql)| is_there(tables, name, sql))
}

fn is_there(tables: &[(String, String)], name: &str, sql: &str) -> bool {
    tables.iter().any(|table| table.0 == name && table.1 == sql)
}

/// Writes what the schema must say over what it says, if enough is left of it to know that the file is ours. True if that
/// changed anything; the connection still knows the old one then. Fails if the file is not ours.
pub(super) fn mend_schema(conn: &Connection) -> Result<bool> {
    let found: Vec<(String, String)> = conn
        .prepare("SELECT name, sql FROM sqlite_schema")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        // An entry that is not even text.
        .filter_map(Result::ok)
        .collect();
    if are_ours(&found) {
        return Ok(false);
    }
    if !TABLES.iter().any(|(name, sql)| is_there(&found, name, sql)) {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    }
    for ((name, sql), rowid) in TABLES.iter().zip(1_i64..) {
        if !is_there(&found, name, sql) {
            conn.execute(
                "UPDATE sqlite_schema SET type = 'table', name = ?1, tbl_name = ?1, sql = ?2 WHERE rowid = ?3",
                (name, sql, rowid),
            )?;
        }
    }
    Ok(true)
}

fn create(conn: &Connection) -> Result<()> {
    let tx = conn.unchecked_transaction()?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    for (_, sql) in TABLES {
        tx.execute_batch(sql)?;
    }
    for queue in Queue::ALL {
        Count::default().save(&tx, queue)?;
    }
    tx.commit()
}

fn check(conn: &Connection) -> std::result::Result<(), Fault> {
    let finding: String = conn.prepare("PRAGMA quick_check(1)")?.query_row([], |row| row.get(0))?;
    if finding == "ok" { Ok(()) } else { Err(Fault::Damaged(finding)) }
}
