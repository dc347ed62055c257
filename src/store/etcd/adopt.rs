//! Takes over what a bridge that was alone kept in a store of its own: rows, notes, the keys of redelivered commands.
//!
//! Each transaction carries some rows and a mark that says which rows have come. It is made on the condition that the mark is as
//! it was read. So whatever interrupts this (a kill, a lost answer, a power failure that undoes what was completed in the old
//! store), it goes on where it was, and each row comes once. The old store has a name for that, which it keeps as a note.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::client::Client;
use super::config::Keys;
use super::error::EtcdError;
use super::handle::fits;
use super::rows::RowName;
use super::wire::{Compare, Range, Step, Transaction};
use crate::store::Store;
use crate::store::types::{PerQueue, Queue, Row, SpoolError};

/// The note with the old store's name.
const NAME: &str = "cluster/name";
/// Rows, and bytes of them, that go with one transaction.
const ROWS: usize = 100;
const BYTES: usize = 1 << 20;

/// Which rows have come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Mark(PerQueue<Progress>);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    /// All rows up to this number ...
    up_to: u64,
    /// ... but these, which etcd does not take.
    left: BTreeSet<u64>,
}

impl Progress {
    fn has(&self, seq: u64) -> bool {
        seq <= self.up_to && !self.left.contains(&seq)
    }
}

/// Why not everything was taken over. It goes on where it was when it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// The old store cannot be read or written.
    #[error(transparent)]
    Old(#[from] SpoolError),
    /// etcd does not take it for now.
    #[error(transparent)]
    New(#[from] EtcdError),
}

/// A store that is taken over.
pub struct Adoption<'a> {
    client: &'a Client,
    keys: &'a Keys,
    old: &'a dyn Store,
    mark: Mark,
    /// Where the mark is, and the revision that made it so; 0: it is not there.
    key: String,
    revision: u64,
    moved: PerQueue<u64>,
}

impl<'a> Adoption<'a> {
    pub(super) fn of(client: &'a Client, keys: &'a Keys, old: &'a dyn Store) -> Self {
        let (mark, moved) = (Mark::default(), PerQueue::default());
        Self { client, keys, old, mark, key: String::new(), revision: 0, moved }
    }

    /// How many rows of a queue have come, and how many etcd does not take.
    #[must_use]
    pub fn outcome(&self, queue: Queue) -> (u64, usize) {
        (*self.moved.get(queue), self.mark.0.get(queue).left.len())
    }

    /// Takes over all that is there. Does not change what the cluster has already.
    ///
    /// # Errors
    ///
    /// [`NotAdopted`]; to be tried again.
    pub async fn run(&mut self) -> Result<(), NotAdopted> {
        self.find_mark().await?;
        // Before the commands: one that comes again in between is known.
        self.take_keys().await?;
        for queue in Queue::ALL {
            self.take_rows(queue).await?;
        }
        self.take_notes().await?;
        if Queue::ALL.into_iter().all(|queue| self.mark.0.get(queue).left.is_empty()) {
            // What is stored here later is another store's.
            self.old.remove_note(NAME);
        }
        Ok(())
    }

    /// The old store's name; durable when it returns.
    pub(super) async fn name(&self) -> Result<String, SpoolError> {
        let named = self.old.notes(NAME).await?.into_iter().next().and_then(|(_, name)| String::from_utf8(name).ok());
        let name = named.unwrap_or_else(|| Ulid::generate().to_string());
        self.old.put_note(NAME, name.clone().into_bytes());
        // There is no such row: this only makes the note durable.
        self.old.replace(Queue::Inbound, 0, Vec::new()).await?;
        Ok(name)
    }

    async fn find_mark(&mut self) -> Result<(), NotAdopted> {
        self.key = self.keys.adopted(&self.name().await?);
        let found = self.client.range(&Range { key: self.key.clone().into(), ..Range::default() }).await?;
        let there = found.kvs.into_iter().next();
        self.revision = there.as_ref().map_or(0, |there| there.mod_revision.0);
        self.mark = match there {
            Some(there) => serde_json::from_slice(&there.value.0)
                .map_err(|error| EtcdError::Refused(format!("{} cannot be read: {error}", self.key)))?,
            None => Mark::default(),
        };
        Ok(())
    }

    /// Carries steps out, on another condition besides that the mark is as it was. Whether both held.
    async fn commit(&mut self, mark: Mark, also: Option<Compare>, steps: Vec<Step>) -> Result<bool, EtcdError> {
        let value = serde_json::to_vec(&mark).map_err(|error| EtcdError::Refused(error.to_string()))?;
        let mut compare = vec![Compare::changed(self.key.clone(), self.revision)];
        compare.extend(also);
        let mut success = vec![Step::put(self.key.clone(), value)];
        success.extend(steps);
        let transaction = Transaction { compare, success, failure: vec![Step::get(self.key.clone())] };
        let carried = self.client.transact(&transaction).await?;
        if carried.succeeded {
            (self.mark, self.revision) = (mark, carried.header.revision.0);
            return Ok(true);
        }
        let there = carried.found().flatten().next().map_or(0, |there| there.mod_revision.0);
        if there == self.revision {
            return Ok(false);
        }
        Err(EtcdError::Refused("a try whose answer was lost has been carried out meanwhile".to_owned()))
    }

    /// Only where nobody has led yet: otherwise they may be those of another MQTT session.
    async fn take_keys(&mut self) -> Result<(), NotAdopted> {
        let known = self.old.redeliveries().await?;
        let nobody_led = Compare::changed(self.keys.writer("leader"), 0);
        for some in known.chunks(ROWS) {
            let key = |(pkid, digest): &(u16, [u8; 32])| Step::put(self.keys.redelivery(*pkid), digest.to_vec());
            let steps = some.iter().map(key).collect();
            if !self.commit(self.mark.clone(), Some(nobody_led.clone()), steps).await? {
                break;
            }
        }
        self.old.forget_redeliveries(known.into_iter().map(|(pkid, _)| pkid).collect());
        Ok(())
    }

    async fn take_rows(&mut self, queue: Queue) -> Result<(), NotAdopted> {
        let mut after = 0;
        loop {
            let mut rows = self.old.read_after(queue, after, ROWS, BYTES).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.seq;
            let progress = self.mark.0.get(queue);
            for row in rows.extract_if(.., |row| progress.has(row.seq)) {
                self.old.complete(queue, row.seq);
            }
            match self.take(queue, &rows).await {
                // Each by itself: the others fit.
                Err(EtcdError::TooLarge) => {
                    for row in &rows {
                        match self.take(queue, std::slice::from_ref(row)).await {
                            Err(EtcdError::TooLarge) => self.leave(queue, row.seq).await?,
                            other => other?,
                        }
                    }
                }
                other => other?,
            }
        }
    }

    async fn take(&mut self, queue: Queue, rows: &[Row]) -> Result<(), EtcdError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut mark = self.mark.clone();
        let (mut steps, transaction) = (Vec::with_capacity(rows.len()), Ulid::generate());
        for (row, place) in rows.iter().zip(0..) {
            fits(&row.data).map_err(|_| EtcdError::TooLarge)?;
            let progress = mark.0.get_mut(queue);
            progress.up_to = progress.up_to.max(row.seq);
            progress.left.remove(&row.seq);
            let name = RowName { transaction, place, size: u32::try_from(row.data.len()).unwrap_or(u32::MAX) };
            steps.push(Step::put(self.keys.queue(queue) + &name.encode(), row.data.clone()));
        }
        self.commit(mark, None, steps).await?;
        for row in rows {
            self.old.complete(queue, row.seq);
            *self.moved.get_mut(queue) += 1;
        }
        Ok(())
    }

    async fn leave(&mut self, queue: Queue, seq: u64) -> Result<(), EtcdError> {
        let mut mark = self.mark.clone();
        let progress = mark.0.get_mut(queue);
        progress.up_to = progress.up_to.max(seq);
        progress.left.insert(seq);
        self.commit(mark, None, Vec::new()).await.map(drop)
    }

    /// A note that the cluster has stays as it is there.
    async fn take_notes(&mut self) -> Result<(), NotAdopted> {
        for (name, value) in self.old.notes("").await? {
            if name == NAME {
                continue;
            }
            let key = self.keys.note(&name);
            let is_new = Compare::created(key.clone(), 0);
            self.commit(self.mark.clone(), Some(is_new), vec![Step::put(key, value)]).await?;
            self.old.remove_note(&name);
        }
        Ok(())
    }
}
