//! The rows of one queue's table: each with a checksum over its queue, number and data, verified on every read.

use std::ops::ControlFlow;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result};

use super::pending::{Change, Pending};
use crate::store::types::{Queue, ROW_OVERHEAD, Row};

/// A statement on a queue's table, whose name stands between the pieces: a constant, so that nothing is put together at its use.
macro_rules! sql {
    ($queue:expr, $first:literal $(, $then:literal)+) => {
        match $queue {
            Queue::Inbound => concat!($first $(, "inbound", $then)+),
            Queue::Outbound => concat!($first $(, "outbound", $then)+),
            Queue::SetAside => concat!($first $(, "set_aside", $then)+),
        }
    };
}

/// A row as the disk gave it.
pub(super) enum Checked {
    Good(Row),
    Bad { seq: u64 },
}

impl Checked {
    fn seq(&self) -> u64 {
        match self {
            Self::Good(row) => row.seq,
            Self::Bad { seq } => *seq,
        }
    }
}

/// What reading on from a row found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    pub(super) bad: Vec<u64>,
}

/// How many damaged rows are kept for the operator's eyes.
const DAMAGED_KEPT: i64 = 16;

/// SQLite's integers are signed; numbers beyond that are never reached.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn crc(queue: Queue, seq: u64, data: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(queue.as_str().as_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(data);
    i64::from(hasher.finalize())
}

pub(super) fn insert(conn: &Connection, queue: Queue, seq: u64, data: &[u8]) -> Result<()> {
    conn.prepare_cached(sql!(queue, "INSERT INTO ", " (seq, crc, data) VALUES (?1, ?2, ?3)"))?.execute((
        signed(seq),
        crc(queue, seq, data),
        data,
    ))?;
    Ok(())
}

/// The size of a row, if it is there.
pub(super) fn size_of(conn: &Connection, queue: Queue, seq: u64) -> Result<Option<u64>> {
    let length = conn
        .prepare_cached(sql!(queue, "SELECT length(data) FROM ", " WHERE seq = ?1"))?
        .query_row([signed(seq)], length)
        .optional()?;
    Ok(length)
}

pub(super) fn update(conn: &Connection, queue: Queue, seq: u64, data: &[u8]) -> Result<()> {
    conn.prepare_cached(sql!(queue, "UPDATE ", " SET crc = ?2, data = ?3 WHERE seq = ?1"))?.execute((
        signed(seq),
        crc(queue, seq, data),
        data,
    ))?;
    Ok(())
}

/// Removes a row and gives the size it had, if it was there.
pub(super) fn delete(conn: &Connection, queue: Queue, seq: u64) -> Result<Option<u64>> {
    let size = size_of(conn, queue, seq)?;
    if size.is_some() {
        // RETURNING would do the same by way of a table of its own.
        conn.prepare_cached(sql!(queue, "DELETE FROM ", " WHERE seq = ?1"))?.execute([signed(seq)])?;
    }
    Ok(size)
}

/// Removes the rows from number `first` to `last`. Gives how many there were, and their size.
pub(super) fn delete_all(conn: &Connection, queue: Queue, first: u64, last: u64) -> Result<(u64, u64)> {
    if first == last {
        let size = delete(conn, queue, first)?;
        return Ok((u64::from(size.is_some()), size.unwrap_or_default()));
    }
    let range = [signed(first), signed(last)];
    let sizes = sql!(queue, "SELECT count(*), coalesce(sum(length(data)), 0) FROM ", " WHERE seq BETWEEN ?1 AND ?2");
    let size = |row: &rusqlite::Row<'_>| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)));
    let (rows, bytes) = conn.prepare_cached(sizes)?.query_row(range, size)?;
    conn.prepare_cached(sql!(queue, "DELETE FROM ", " WHERE seq BETWEEN ?1 AND ?2"))?.execute(range)?;
    Ok((rows, bytes + rows * ROW_OVERHEAD))
}

fn length(row: &rusqlite::Row<'_>) -> Result<u64> {
    // Damage may have left a NULL.
    Ok(ROW_OVERHEAD + unsigned(row.get::<_, Option<i64>>(0)?.unwrap_or(0)))
}

pub(super) fn oldest(conn: &Connection, queue: Queue) -> Result<Option<u64>> {
    conn.prepare_cached(sql!(queue, "SELECT seq FROM ", " ORDER BY seq LIMIT 1"))?
        .query_row([], |row| Ok(unsigned(row.get(0)?)))
        .optional()
}

/// Moves a damaged row out of its queue, and gives the size it had.
pub(super) fn quarantine(conn: &Connection, queue: Queue, seq: u64) -> Result<Option<u64>> {
    let keep = sql!(
        queue,
        "INSERT INTO damaged (queue, seq, crc, data) SELECT '",
        "', seq, crc, data FROM ",
        " WHERE seq = ?1"
    );
    conn.prepare_cached(keep)?.execute([signed(seq)])?;
    conn.prepare_cached("DELETE FROM damaged WHERE id <= (SELECT max(id) FROM damaged) - ?1")?
        .execute([DAMAGED_KEPT])?;
    delete(conn, queue, seq)
}

/// Highest number, rows and bytes, counted the slow way.
pub(super) fn recount(conn: &Connection, queue: Queue) -> Result<(u64, u64, u64)> {
    let recount = sql!(queue, "SELECT coalesce(max(seq), 0), count(*), coalesce(sum(length(data)), 0) FROM ", "");
    conn.prepare_cached(recount)?.query_row([], |row| {
        let depth = unsigned(row.get(1)?);
        Ok((unsigned(row.get(0)?), depth, unsigned(row.get(2)?) + depth * ROW_OVERHEAD))
    })
}

/// Reads on after row `after`, with what is pending already applied.
pub(super) fn read_after(
    conn: &Connection,
    pending: &Pending,
    queue: Queue,
    after: u64,
    (max_rows, max_bytes): (usize, usize),
) -> Result<Found> {
    let mut found = Found::default();
    let mut bytes = 0_usize;
    let mut statement =
        conn.prepare_cached(sql!(queue, "SELECT seq, crc, data FROM ", " WHERE seq > ?1 ORDER BY seq"))?;
    let mut rows = statement.query([signed(after)])?;
    while found.rows.len() < max_rows.max(1) && bytes < max_bytes.max(1) {
        let Some(row) = rows.next()? else { break };
        match applied(pending, queue, check(queue, row)?) {
            None => {}
            Some(Checked::Bad { seq }) => found.bad.push(seq),
            Some(Checked::Good(row)) => {
                bytes = bytes.saturating_add(row.data.len());
                if bytes > max_bytes && !found.rows.is_empty() {
                    break;
                }
                found.rows.push(row);
            }
        }
    }
    Ok(found)
}

pub(super) fn read(conn: &Connection, pending: &Pending, queue: Queue, seq: u64) -> Result<Found> {
    let mut statement = conn.prepare_cached(sql!(queue, "SELECT seq, crc, data FROM ", " WHERE seq = ?1"))?;
    let mut rows = statement.query([signed(seq)])?;
    let mut found = Found::default();
    if let Some(row) = rows.next()? {
        match applied(pending, queue, check(queue, row)?) {
            None => {}
            Some(Checked::Bad { seq }) => found.bad.push(seq),
            Some(Checked::Good(row)) => found.rows.push(row),
        }
    }
    Ok(found)
}

/// The row as it will be; `None` if it is completed.
fn applied(pending: &Pending, queue: Queue, row: Checked) -> Option<Checked> {
    let seq = row.seq();
    match pending.change(queue, seq) {
        None => Some(row),
        Some(Change::Complete) => None,
        Some(Change::Replace(data)) => Some(Checked::Good(Row { seq, data: data.clone() })),
    }
}

fn check(queue: Queue, row: &rusqlite::Row<'_>) -> Result<Checked> {
    let seq = unsigned(row.get(0)?);
    Ok(match (row.get_ref(1)?, row.get_ref(2)?) {
        (ValueRef::Integer(sum), ValueRef::Blob(data)) if sum == crc(queue, seq, data) => {
            Checked::Good(Row { seq, data: Bytes::copy_from_slice(data) })
        }
        _ => Checked::Bad { seq },
    })
}

/// Calls `each` for every row after `after` until it breaks; if reading fails, gives the last row reached and why.
pub(super) fn walk(
    conn: &Connection,
    queue: Queue,
    after: u64,
    mut each: impl FnMut(Checked) -> ControlFlow<()>,
) -> std::result::Result<(), (u64, rusqlite::Error)> {
    let mut last = after;
    let mut walk = || {
        let mut statement =
            conn.prepare_cached(sql!(queue, "SELECT seq, crc, data FROM ", " WHERE seq > ?1 ORDER BY seq"))?;
        let mut rows = statement.query([signed(after)])?;
        while let Some(row) = rows.next()? {
            let row = check(queue, row)?;
            // In a damaged tree a page may be reached twice.
            if row.seq() > last {
                last = row.seq();
                if each(row).is_break() {
                    break;
                }
            }
        }
        Ok(())
    };
    walk().map_err(|error| (last, error))
}
