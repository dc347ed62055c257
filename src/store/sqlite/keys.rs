//! Keys and notes: the small tables beside the queues. Redelivery keys have their packet id for a row number, which brokers
//! hand out in order.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Result};

pub(super) fn put_redelivery(conn: &Connection, pkid: u16, digest: [u8; 32]) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO redelivery (pkid, digest) VALUES (?1, ?2)")?.execute((pkid, digest))?;
    Ok(())
}

pub(super) fn forget_redeliveries(conn: &Connection, pkids: &BTreeSet<u16>) -> Result<()> {
    for pkid in pkids {
        conn.prepare_cached("DELETE FROM redelivery WHERE pkid = ?1")?.execute([pkid])?;
    }
    Ok(())
}

pub(super) fn forget_session(conn: &Connection) -> Result<()> {
    conn.prepare_cached("DELETE FROM redelivery")?.execute([])?;
    Ok(())
}

pub(super) fn redeliveries(conn: &Connection) -> Result<Vec<(u16, [u8; 32])>> {
    let mut keys = Vec::new();
    let mut statement = conn.prepare_cached("SELECT pkid, digest FROM redelivery ORDER BY pkid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let (Ok(pkid), Ok(digest)) = (row.get(0), row.get(1)) {
            keys.push((pkid, digest));
        }
    }
    Ok(keys)
}

pub(super) fn put_note(conn: &Connection, key: &str, value: &[u8]) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO note (key, crc, value) VALUES (?1, ?2, ?3)")?.execute((
        key,
        note_crc(key, value),
        value,
    ))?;
    Ok(())
}

pub(super) fn remove_note(conn: &Connection, key: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM note WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// The notes whose key starts with `prefix`, with what is pending applied. A damaged one is left out: notes are
/// conveniences, rewritten by use.
pub(super) fn notes(
    conn: &Connection,
    pending: &BTreeMap<String, Option<Vec<u8>>>,
    prefix: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut notes = BTreeMap::new();
    let mut statement = conn.prepare_cached("SELECT key, crc, value FROM note WHERE key >= ?1 ORDER BY key")?;
    let mut rows = statement.query([prefix])?;
    while let Some(row) = rows.next()? {
        let (Ok(key), Ok(crc), Ok(value)) = (row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, Vec<u8>>(2))
        else {
            continue;
        };
        if !key.starts_with(prefix) {
            break;
        }
        if crc == note_crc(&key, &value) {
            notes.insert(key, value);
        }
    }
    for (key, value) in pending.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match value {
            Some(value) => notes.insert(key.clone(), value.clone()),
            None => notes.remove(key),
        };
    }
    Ok(notes.into_iter().collect())
}

fn note_crc(key: &str, value: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(value);
    i64::from(hasher.finalize())
}

/// Notes changed, written.
pub(super) fn apply(conn: &Connection, notes: &BTreeMap<String, Option<Vec<u8>>>) -> Result<()> {
    for (key, value) in notes {
        match value {
            Some(value) => put_note(conn, key, value)?,
            None => remove_note(conn, key)?,
        }
    }
    Ok(())
}
