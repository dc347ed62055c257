//! Keys and notes: the small tables beside the queues.
//!
//! Repeats are appended in order and found through a map in memory: an index of random digests would cost ten times the
//! bytes written. Redelivery keys have their packet id for a row number, which brokers hand out in order, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rusqlite::{Connection, Result};

use super::types::Keys;
use crate::clock::Stamp;

/// How long a push can be repeated for.
const REPEAT_LIFE: Duration = Duration::from_mins(1);

/// The repeats on the disk, as the writer knows them.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    ids: HashMap<[u8; 32], i64>,
    by_id: BTreeMap<i64, ([u8; 32], Stamp)>,
}

impl Repeats {
    pub(super) fn load(conn: &Connection) -> Result<Self> {
        let mut repeats = Self::default();
        let mut statement = conn.prepare_cached("SELECT id, digest, at FROM repeat ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // One that is damaged is no key any more; it goes when those around it are pruned.
            if let (Ok(digest), Ok(at)) = (row.get(1), row.get::<_, Vec<u8>>(2))
                && let Ok(at) = postcard::from_bytes(&at)
            {
                repeats.note(row.get(0)?, digest, at);
            }
        }
        Ok(repeats)
    }

    fn note(&mut self, id: i64, digest: [u8; 32], at: Stamp) {
        if let Some(older) = self.ids.insert(digest, id) {
            self.by_id.remove(&older);
        }
        self.by_id.insert(id, (digest, at));
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = ([u8; 32], Stamp)> {
        self.by_id.values().copied().filter(|(_, at)| at.age() < REPEAT_LIFE)
    }

    pub(super) fn forget(&mut self, conn: &Connection, digest: &[u8; 32]) -> Result<()> {
        if let Some(id) = self.ids.remove(digest) {
            self.by_id.remove(&id);
            conn.prepare_cached("DELETE FROM repeat WHERE id = ?1")?.execute([id])?;
        }
        Ok(())
    }

    /// As [`Self::forget`], if it is the key of that moment.
    pub(super) fn forget_of(&mut self, conn: &Connection, digest: &[u8; 32], at: Stamp) -> Result<()> {
        let id = self.ids.get(digest);
        if id.and_then(|id| self.by_id.get(id)).is_some_and(|(_, of)| *of == at) {
            self.forget(conn, digest)
        } else {
            Ok(())
        }
    }

    pub(super) fn put(&mut self, conn: &Connection, digest: [u8; 32], at: Stamp) -> Result<()> {
        self.forget(conn, &digest)?;
        let id = self.by_id.last_key_value().map_or(1, |(id, _)| id.saturating_add(1));
        // "OR REPLACE": a damaged key may still hold the number.
        conn.prepare_cached("INSERT OR REPLACE INTO repeat (id, digest, at) VALUES (?1, ?2, ?3)")?.execute((
            id,
            digest,
            encoded(at),
        ))?;
        self.note(id, digest, at);
        Ok(())
    }

    /// Removes those too old to matter, as part of a commit that happens anyway.
    pub(super) fn prune(&mut self, conn: &Connection) -> Result<()> {
        let mut up_to = None;
        while let Some(entry) = self.by_id.first_entry() {
            if entry.get().1.age() < REPEAT_LIFE {
                break;
            }
            up_to = Some(*entry.key());
            let (digest, _) = entry.remove();
            self.ids.remove(&digest);
        }
        if let Some(id) = up_to {
            conn.prepare_cached("DELETE FROM repeat WHERE id <= ?1")?.execute([id])?;
        }
        Ok(())
    }

    pub(super) fn keys(&self, conn: &Connection) -> Result<Keys> {
        Ok(Keys { repeats: self.alive().collect(), redeliveries: redeliveries(conn)? })
    }

    /// Writes all that are alive into another database.
    pub(super) fn copy_to(self, conn: &Connection) -> Result<Self> {
        let mut copy = Self::default();
        for (digest, at) in self.alive() {
            copy.put(conn, digest, at)?;
        }
        Ok(copy)
    }
}

/// A [`Stamp`] as it is stored. It has no shape that could fail to encode; an empty one would be no key when read back.
fn encoded(at: Stamp) -> Vec<u8> {
    postcard::to_stdvec(&at).unwrap_or_default()
}

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
