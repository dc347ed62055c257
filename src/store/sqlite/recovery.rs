//! Opens what an earlier run left, and rebuilds what is damaged from what can still be read.
//!
//! A damaged database is never repaired in place: a new one takes over every row whose checksum holds, and the damaged
//! one is kept for the operator. The same is done while running, because a damaged page would otherwise fail every
//! commit that touches it.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::db::{self, Db};
use super::fault::Fault;
use super::files::{Files, Found, OpenError};
use super::keys;
use super::rows::{self, Checked};
use crate::store::types::{Count, PerQueue, Queue, row_size};

/// Bytes copied between two commits.
const COPY_BATCH: u64 = 4 * 1024 * 1024;

/// How often, and after which pause, is tried again what the disk does not give back; what it still does not give then is lost.
const UNREAD_TRIES: u32 = 15;
const UNREAD_PAUSE: Duration = Duration::from_millis(200);

/// What opening found, for the caller to log and to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// In plain words, each something the operator has to know: loss, damage, a file moved aside. Empty on a good day.
    pub alarms: Vec<String>,
    /// Where an unreadable or damaged database was moved.
    pub moved_to: Option<PathBuf>,
    /// Rows that were there and could not be read.
    pub damaged_rows: u64,
    /// How often the database was rebuilt, a rebuild that an earlier run began included.
    pub rebuilds: u64,
}

/// What came out of a rebuild.
pub(super) struct Rebuilt {
    pub(super) db: Db,
    pub(super) moved_to: PathBuf,
    /// Rows that were there and are no more.
    pub(super) lost: u64,
    pub(super) kept: u64,
}

/// Opens the spool in `dir`, with what it takes to do so.
pub(super) fn open(dir: &Path) -> Result<(Db, Files, Recovered), OpenError> {
    let files = Files::new(dir);
    let main = |source| OpenError::File { path: files.main.clone(), source };
    let mut recovered = Recovered::default();
    if files.is_exchanging() {
        let aside = files.finish_exchange().map_err(main)?;
        recovered
            .alarms
            .push(format!("the spool was damaged and has been rebuilt; the old one is {}", aside.display()));
        recovered.moved_to = Some(aside);
        recovered.rebuilds += 1;
    }
    files.remove_fresh().map_err(|source| OpenError::File { path: files.fresh.clone(), source })?;
    let mut found = files.prepare()?;
    if found == Found::LogOnly {
        let aside = files.move_aside().map_err(main)?;
        recovered.alarms.push(format!(
            "the spool's database was missing or empty, only its log was there; it is kept as {}, nothing of it was delivered",
            aside.display()
        ));
        recovered.moved_to = Some(aside);
        found = files.prepare()?;
    }
    if found == Found::Nothing {
        create(&files)?;
    }
    if found == Found::Empty {
        recovered.alarms.push(format!(
            "the spool's database {} was an empty file; if it held something, that is lost",
            files.main.display()
        ));
    }
    let mut opened = Db::open(&files.main);
    for _ in 0..UNREAD_TRIES {
        if !opened.as_ref().is_err_and(|fault| is_unread(fault, &files)) {
            break;
        }
        thread::sleep(UNREAD_PAUSE);
        opened = Db::open(&files.main);
    }
    if opened.as_ref().is_err_and(Fault::is_full) && files.drop_ballast() {
        // Opening takes a little room, too.
        opened = Db::open(&files.main);
    }
    match opened {
        Ok(db) => Ok((db, files, recovered)),
        Err(Fault::Damaged(cause) | Fault::Unread(cause)) => {
            let rebuilt = rebuild(&files, None)?;
            recovered.alarms.push(format!(
                "the spool was damaged ({cause}): {} rows were saved, {} are known to be lost; the old one is {}",
                rebuilt.kept,
                rebuilt.lost,
                rebuilt.moved_to.display()
            ));
            recovered.damaged_rows = rebuilt.lost;
            recovered.rebuilds += 1;
            recovered.moved_to = Some(rebuilt.moved_to);
            Ok((rebuilt.db, files, recovered))
        }
        Err(Fault::Unwritable(cause) | Fault::Fatal(cause)) => Err(OpenError::Database { path: files.main, cause }),
    }
}

/// Makes the first database, complete before it has its name: one found empty later is damage, never a first start that was
/// cut off.
fn create(files: &Files) -> Result<(), OpenError> {
    let file = |source: io::Error| OpenError::File { path: files.main.clone(), source };
    files.create_fresh().map_err(file)?;
    close(open_fresh(files)?, files)?;
    files.install().map_err(file)
}

/// Whether it is the disk's fault, which may be over in a moment.
fn is_unread(fault: &Fault, files: &Files) -> bool {
    matches!(fault, Fault::Unread(_)) || matches!(fault, Fault::Damaged(_)) && !files.can_be_read()
}

fn open_fresh(files: &Files) -> Result<Db, OpenError> {
    Db::open(&files.fresh).map_err(|fault| in_fresh(files, fault))
}

fn in_fresh(files: &Files, fault: impl Into<Fault>) -> OpenError {
    let (Fault::Unwritable(cause) | Fault::Unread(cause) | Fault::Damaged(cause) | Fault::Fatal(cause)) = fault.into();
    OpenError::Database { path: files.fresh.clone(), cause }
}

/// Closes a fresh database with everything in the one file.
fn close(fresh: Db, files: &Files) -> Result<(), OpenError> {
    if fresh.close().map_err(|fault| in_fresh(files, fault))? {
        return Ok(());
    }
    Err(in_fresh(files, Fault::Unwritable("another program has opened the fresh database".to_owned())))
}

/// Builds a fresh database of what can be read in the present one, which nobody may have open, and exchanges them.
/// `known` is what the present one is known to hold, if it is.
pub(super) fn rebuild(files: &Files, known: Option<&PerQueue<Count>>) -> Result<Rebuilt, OpenError> {
    let file = |source: io::Error| OpenError::File { path: files.fresh.clone(), source };
    files.create_fresh().map_err(file)?;
    let mut fresh = open_fresh(files)?;
    let (kept, lost) = copy(files, &mut fresh, known).map_err(|fault| in_fresh(files, fault))?;
    close(fresh, files)?;
    let moved_to = files.exchange().map_err(file)?;
    let db = Db::open(&files.main).map_err(|fault| in_fresh(files, fault))?;
    Ok(Rebuilt { db, moved_to, lost, kept })
}

/// Copies what can be read; gives the rows kept and those known to be lost.
fn copy(files: &Files, to: &mut Db, known: Option<&PerQueue<Count>>) -> Result<(u64, u64), Fault> {
    // One sync at the end is enough: until then the copy is worth nothing.
    to.conn.pragma_update(None, "synchronous", "OFF")?;
    let old = open_damaged(&files.main);
    let (mut kept, mut lost) = (0, 0);
    for queue in Queue::ALL {
        let known = match (known, &old) {
            (Some(counts), _) => Some(*counts.get(queue)),
            (None, Some((old, _))) => Count::load(old, queue).ok().flatten(),
            (None, None) => None,
        };
        let (mut count, bad) = match &old {
            Some((old, tables)) if tables.iter().any(|name| name == queue.as_str()) => {
                copy_rows((old, files), to, queue, known.map_or(rows::unsigned(i64::MAX), |known| known.next))?
            }
            _ => (Count::default(), 0),
        };
        count.next = match known {
            Some(known) => known.next.max(count.next),
            None => count.next.saturating_add(db::SEQ_JUMP),
        };
        count.save(&to.conn, queue)?;
        kept += count.depth;
        lost += bad.max(known.map_or(0, |known| known.depth.saturating_sub(count.depth)));
    }
    let Some((old, _)) = old else { return Ok((kept, lost)) };
    // Keys and notes are helpful, not promised: a damaged table of them is left behind.
    for (pkid, digest) in keys::redeliveries(&old).unwrap_or_default() {
        keys::put_redelivery(&to.conn, pkid, digest)?;
    }
    for (key, value) in keys::notes(&old, &std::collections::BTreeMap::new(), "").unwrap_or_default() {
        keys::put_note(&to.conn, &key, &value)?;
    }
    Ok((kept, lost))
}

/// The damaged database and the names of its tables, if SQLite can make anything of it and it is ours.
fn open_damaged(path: &Path) -> Option<(Connection, Vec<String>)> {
    let open = || {
        let conn = db::connect(path)?;
        // Lets a file be read that is shorter than it says, or whose schema does not parse.
        conn.pragma_update(None, "writable_schema", true)?;
        Ok::<_, rusqlite::Error>(conn)
    };
    let mut conn = open().ok()?;
    if db::mend_schema(&conn).ok()? {
        drop(conn);
        conn = open().ok()?;
    }
    conn.pragma_update(None, "query_only", true).ok()?;
    let names = db::tables(&conn).ok()?.into_iter().map(|(name, _)| name).collect();
    Some((conn, names))
}

/// Copies a queue's good rows; gives their count and how many bad ones were met. Numbers end before `end`.
fn copy_rows((old, files): (&Connection, &Files), new: &Db, queue: Queue, end: u64) -> Result<(Count, u64), Fault> {
    let mut count = Count::default();
    let mut bad = 0;
    let mut uncommitted = 0;
    let mut take = |row| -> rusqlite::Result<()> {
        let Checked::Good(row) = row else {
            bad += 1;
            return Ok(());
        };
        rows::insert(&new.conn, queue, row.seq, &row.data)?;
        count.added(row_size(&row.data));
        count.next = count.next.max(row.seq.saturating_add(1));
        uncommitted += row_size(&row.data);
        if uncommitted > COPY_BATCH {
            uncommitted = 0;
            new.conn.execute_batch("COMMIT")?;
            new.checkpoint_if_long()?;
            new.conn.execute_batch("BEGIN")?;
        }
        Ok(())
    };
    new.conn.execute_batch("BEGIN")?;
    let (mut after, mut gap_start, mut looks) = (0_u64, 0_u64, 0);
    loop {
        let mut refused = None;
        let walked = rows::walk(old, queue, after, |row| match take(row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                refused = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(error) = refused {
            return Err(error.into());
        }
        let Err((reached, error)) = walked else { break };
        if reached > after {
            gap_start = reached;
        }
        let fault = Fault::from(error);
        if looks < UNREAD_TRIES {
            looks += 1;
            if is_unread(&fault, files) {
                thread::sleep(UNREAD_PAUSE);
                after = reached;
                continue;
            }
        }
        if !matches!(fault, Fault::Damaged(_) | Fault::Unread(_)) && after == reached {
            // Not the file's fault, yet nothing to wait for either: what cannot be read stays behind with it.
            break;
        }
        // Over the damage in single steps, which lengthen only after very many.
        after = reached.saturating_add(1 + (reached - gap_start) / 16_384);
        if after >= end {
            break;
        }
    }
    new.conn.execute_batch("COMMIT")?;
    Ok((count, bad))
}
