//! The whole store, for the leader: what is there is known here, its data is read from etcd.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::client::Client;
use super::commit::Committer;
use super::config::Keys;
use super::election::Leadership;
use super::error::EtcdError;
use super::feed::Feed;
use super::handle::{Bar, Common, Handle, fits};
use super::keeper::{Keeper, View};
use super::load::load;
use super::member::Member;
use super::state::{State, Wanted};
use super::wire::{Number, Range, Step, Transaction};
use crate::os::files::Failure;
use crate::store::request::Op;
use crate::store::shared::{Shared, Unexpected, add};
use crate::store::types::{Limits, NotStored, Patience, Queue, Row, SpoolError};
use crate::store::{Answer, Append as _, Store};

/// So many rows are read in one request, and about so many bytes of data.
const READ_ROWS: usize = 500;
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Of the rows between the first and the last of these, so many are read.
const SPAN_ROWS: u64 = 600;
/// Of those that lie elsewhere, so many at once: etcd takes 128 operations in a transaction (`--max-txn-ops`).
const GETS: usize = 100;

/// What only a leader may do.
pub(super) struct Leading {
    client: Arc<Client>,
    keys: Keys,
    leadership: Leadership,
    /// The same bridge as one that takes pushes.
    member: Arc<Member>,
    patience: Patience,
    #[cfg(test)]
    pub(super) faults: Arc<super::commit::Faults>,
}

/// The leader's store.
pub(super) type Leader = Handle<Leading>;

/// Reads what is there, and begins to keep it.
pub(super) async fn open(
    client: Arc<Client>,
    keys: Keys,
    leadership: Leadership,
    member: Arc<Member>,
    limits: Limits,
    check_every: Duration,
) -> Result<Arc<Leader>, EtcdError> {
    let found = client.range(&leadership.question()).await?;
    if !leadership.is_of(found.kvs.first()) {
        leadership.depose("another member leads");
        return Err(EtcdError::Deposed);
    }
    let mut state = State::new(keys.clone());
    let revision = load(&client, &keys, &mut state).await?;
    let shared = Arc::new(Shared::new(Failure::default()));
    shared.show(state.counts());
    let common = Arc::new(Common::new(shared, state, limits));
    let committer = Committer::new(Arc::clone(&client), keys.writer("leader"), Some(leadership.clone()), None);
    #[cfg(test)]
    let faults = Arc::clone(&committer.faults);
    let feed = Feed::new(Arc::clone(&client), &keys, leadership.clone(), revision + 1, check_every);
    let (requests, inbox) = mpsc::unbounded_channel();
    let view = View::Rows(Box::new(feed));
    let unexpected = Unexpected(Arc::clone(&common.shared));
    let keeper = Keeper::new(Arc::clone(&client), keys.clone(), Arc::clone(&common), inbox, view, committer);
    tokio::spawn(unexpected.watch(keeper.run()));
    let rights = Leading {
        client,
        keys,
        leadership,
        member,
        patience: Patience::default(),
        #[cfg(test)]
        faults,
    };
    Ok(Arc::new(Handle::new(requests, common, rights)))
}

impl Bar for Leading {
    /// The queue may be full for pushes, which come in by the member.
    fn bar(&self) -> Option<NotStored> {
        self.member.stores().err()
    }
}

impl Leader {
    /// Reads with patience: what cannot be read now may be in a moment.
    fn look<'a, T: Send + 'a, F>(&'a self, look: impl Fn() -> F + Send + Sync + 'a) -> Answer<'a, T>
    where
        F: Future<Output = Result<T, SpoolError>> + Send + 'a,
    {
        async move {
            let excused = &self.common.shared.excused;
            let outcome =
                self.rights.patience.retry(&look, |_: &SpoolError| excused.store(true, Ordering::Relaxed)).await;
            excused.store(false, Ordering::Relaxed);
            outcome
        }
        .boxed()
    }

    /// These rows, with their data; without those that have been completed meanwhile.
    async fn fetch(&self, queue: Queue, wanted: Vec<Wanted>) -> Result<Vec<Row>, SpoolError> {
        let mut rows = Vec::with_capacity(wanted.len());
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while part.len() < READ_ROWS
                && let Some(row) = wanted.next_if(|row| bytes == 0 || bytes + row.size <= READ_BYTES)
            {
                bytes += row.size.max(1);
                part.push(row);
            }
            rows.extend(self.fetch_part(queue, part).await?);
        }
        Ok(rows)
    }

    async fn fetch_part(&self, queue: Queue, wanted: Vec<Wanted>) -> Result<Vec<Row>, SpoolError> {
        #[cfg(test)]
        if self.rights.faults.read.swap(false, Ordering::Relaxed) {
            return Err(unread(&EtcdError::TooMany));
        }
        let missing = wanted.iter().filter(|row| row.data.is_none()).map(|row| row.key.as_str()).collect();
        let mut found = self.data(missing).await?;
        let mut rows = Vec::with_capacity(wanted.len());
        let mut state = self.common.state();
        for row in wanted {
            let data = match row.data {
                Some(data) => Some(data),
                None => found.remove(row.key.as_bytes()),
            };
            match data {
                _ if !state.is_there(queue, row.seq) => {}
                Some(data) => rows.push(Row { seq: row.seq, data }),
                None => {
                    error!(queue = queue.as_str(), rows = 1, "damaged rows were found in etcd and left out");
                    add(&self.common.shared.damaged_rows, 1);
                    state.lost(queue, row.seq);
                }
            }
        }
        Ok(rows)
    }

    /// The data under these keys, by key.
    async fn data(&self, mut keys: Vec<&str>) -> Result<HashMap<Bytes, Bytes>, SpoolError> {
        let mut found = HashMap::new();
        keys.sort_unstable();
        if let [first, _, .., last] = keys.as_slice() {
            // As they lie, which is several times quicker than one by one: mostly nothing else lies between.
            let (key, end) = ((*first).to_owned().into(), format!("{last}\0").into());
            let range = Range { key, end, limit: Number(SPAN_ROWS), ..Range::default() };
            // If something does, it may be too much for an answer.
            if let Ok(kvs) = self.get(vec![Step::Range(range)]).await {
                found.extend(kvs);
            }
        }
        let missing = keys.into_iter().filter(|key| !found.contains_key(key.as_bytes()));
        let missing: Vec<_> = missing.map(|key| Step::get(key.to_owned())).collect();
        for some in missing.chunks(GETS) {
            found.extend(self.get(some.to_vec()).await?);
        }
        Ok(found)
    }

    async fn get(&self, success: Vec<Step>) -> Result<impl Iterator<Item = (Bytes, Bytes)>, SpoolError> {
        // What a successor has removed is no damage.
        let read = Transaction { compare: vec![self.rights.leadership.fence()], success, failure: Vec::new() };
        let carried = self.rights.client.transact(&read).await.map_err(|error| unread(&error))?;
        if carried.succeeded {
            Ok(carried.found().flatten().map(|kv| (kv.key.0, kv.value.0)))
        } else {
            Err(self.deposed())
        }
    }

    fn deposed(&self) -> SpoolError {
        let deposed = EtcdError::Deposed.to_string();
        self.rights.leadership.depose(&deposed);
        self.common.shared.fail(deposed);
        self.common.shared.failed()
    }

    async fn fetch_after(
        &self,
        queue: Queue,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<Row>, SpoolError> {
        loop {
            self.is_open()?;
            let wanted = self.common.state().after(queue, after, max_rows, max_bytes);
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            let rows = self.fetch(queue, wanted).await?;
            if let Some(last) = rows.last() {
                self.common.state().have_read(queue, last.seq);
                return Ok(rows);
            }
            // All of them were completed meanwhile.
        }
    }

    fn lazily(&self, change: impl FnOnce(&mut State, &Keys)) {
        change(&mut self.common.state(), &self.rights.keys);
        self.common.lazily.notify_one();
    }
}

fn unread(error: &EtcdError) -> SpoolError {
    SpoolError::Unwritable(error.to_string())
}

/// What is lazy and never fits would keep everything after it from being stored.
fn fits_lazily(data: &[u8]) -> bool {
    let fits = fits(data);
    if let Err(error) = &fits {
        error!(bytes = data.len(), %error, "a change of a row or of a note is too large for etcd and is left out");
    }
    fits.is_ok()
}

impl Store for Leader {
    fn read_after(&self, queue: Queue, after: u64, max_rows: usize, max_bytes: usize) -> Answer<'_, Vec<Row>> {
        self.look(move || self.fetch_after(queue, after, max_rows, max_bytes))
    }

    fn read(&self, queue: Queue, seq: u64) -> Answer<'_, Option<Row>> {
        self.look(move || async move {
            self.is_open()?;
            let wanted = self.common.state().one(queue, seq);
            Ok(self.fetch(queue, wanted.into_iter().collect()).await?.into_iter().next())
        })
    }

    fn oldest(&self, queue: Queue) -> Answer<'_, Option<Row>> {
        async move {
            self.is_open()?;
            let wanted = self.common.state().after(queue, 0, 1, usize::MAX);
            Ok(self.fetch(queue, wanted).await?.into_iter().next())
        }
        .boxed()
    }

    fn appended(&self, queue: Queue) -> watch::Receiver<u64> {
        self.common.shared.appended.get(queue).subscribe()
    }

    fn complete(&self, queue: Queue, seq: u64) {
        self.lazily(|state, _| {
            state.complete(queue, seq);
        });
    }

    fn replace(&self, queue: Queue, seq: u64, data: Vec<u8>) -> Answer<'_, ()> {
        async move {
            fits(&data)?;
            self.ask(|reply| Op::Replace { queue, seq, data, reply }).await
        }
        .boxed()
    }

    fn flush(&self) -> Answer<'_, ()> {
        self.ask(Op::Flush).boxed()
    }

    fn replace_lazily(&self, queue: Queue, seq: u64, data: Vec<u8>) {
        if !fits_lazily(&data) {
            return;
        }
        self.lazily(|state, _| {
            state.replace(queue, seq, Bytes::from(data));
        });
    }

    fn redeliveries(&self) -> Answer<'_, Vec<(u16, [u8; 32])>> {
        self.known(|state| state.redeliveries.iter().map(|(pkid, digest)| (*pkid, *digest)).collect())
    }

    fn forget_session(&self, began: u64) -> Answer<'_, ()> {
        async move { self.ask(|reply| Op::ForgetSession(began, reply)).await }.boxed()
    }

    fn forget_redeliveries(&self, pkids: Vec<u16>) {
        self.lazily(|state, keys| {
            for pkid in pkids {
                if state.redeliveries.remove(&pkid).is_some() {
                    state.lazies.set(keys.redelivery(pkid), None);
                }
            }
        });
    }

    fn put_note(&self, key: &str, value: Vec<u8>) {
        if !fits_lazily(&value) {
            return;
        }
        self.lazily(|state, keys| {
            state.notes.insert(key.to_owned(), value.clone());
            state.lazies.set(keys.note(key), Some(value.into()));
        });
    }

    fn remove_note(&self, key: &str) {
        self.lazily(|state, keys| {
            if state.notes.remove(key).is_some() {
                state.lazies.set(keys.note(key), None);
            }
        });
    }

    fn notes(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        self.known(move |state| {
            let from = state.notes.range(prefix.clone()..);
            from.take_while(|(key, _)| key.starts_with(&prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
    }

    fn patience(&self) -> &Patience {
        &self.rights.patience
    }
}

impl Leader {
    /// What is known here without asking.
    fn known<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> BoxFuture<'_, Result<T, SpoolError>> {
        async move {
            self.is_open()?;
            Ok(look(&self.common.state()))
        }
        .boxed()
    }
}
