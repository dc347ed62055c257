//! The store of one bridge: an SQLite file, the one thread that accesses it, and a handle that any task may hold.
//!
//! # Constraints
//!
//! - An answer means: on the disk. It survives `kill -9` and the loss of power.
//! - SD cards: bytes and syncs count. One commit carries everything that was waiting. With nothing to do, nothing is
//!   written and no timer runs.
//! - A full disk must not be fatal, and must not keep rows that are there from being read and completed.
//! - A damaged disk costs the rows that it damaged, with an alarm, and nothing else. A row that is read is the row that
//!   was written.
//!
//! # Format
//!
//! `spool.db`, in WAL mode with pages of 1 KiB. Each queue has a table of number, checksum (over queue, number and
//! data) and data. `state` holds each queue's next number (none is ever given twice), depth and bytes, so that opening
//! a million rows reads three. `redelivery` holds the [`Key`]s, `note` the small values of [`Store::put_note`],
//! `damaged` the last few rows whose checksum failed. `sqlite3` opens it all.
//!
//! # Operation
//!
//! - **Durable** operations return after a commit with a sync, shared by all that waited for one.
//! - **Lazy** ones ride with the next durable commit; with none in 1.5 s they get one without a sync, which a killed
//!   process survives and the loss of power may not. What another supersedes in time is never written.
//! - **Numbers** go up one by one. A number that no row got in the end is given to a later row.
//! - **Fresh**: a reader that keeps up reads the new rows of the inbound queue from memory. All others read the disk.
//! - **Idle** for 2 s, the log is checkpointed and emptied, because one flipped bit in a log silently ends it. A file
//!   that is large and nearly empty is shrunk. Then the thread sleeps until asked.
//! - **Full** is decided by counting, before the disk is touched. **Nearly full** is decided by the disk's free space,
//!   while there is room left to complete rows. If others take that room too, the log is overwritten from its start,
//!   and `spool.ballast`, a file kept for this, is deleted: rows can still be completed, and the next start finds the
//!   room it needs. All of this clears by itself.
//! - **Damage** is met at opening or later. A bad row is left out. For a bad page, the database is rebuilt from what is
//!   readable; the old one is kept as `spool.db.damaged-N`, the last three of them. The same is done with a file that
//!   is no spool.
//! - **A failed sync** ends the store: nothing is answered any more, because what the disk holds is unknown until the
//!   process starts anew.

mod batch;
#[cfg(test)]
mod conformance;
mod db;
mod disk;
mod fault;
mod files;
mod fresh;
mod inbox;
mod keys;
mod log;
mod pending;
mod recovery;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot, watch};

pub use files::OpenError;
use fresh::Fresh;
use inbox::Requests;
use pending::{Change, Lazy};
pub use recovery::Recovered;
use writer::{Closing, Read, Request, Writer};

use super::request::{New, Op, Reply};
use super::shared::{self, Shared, Unexpected};
use super::{
    Answer, Append, AppendError, Counters, Key, Limits, Medium, NotStored, Patience, Queue, QueueStats, Row,
    SpoolError, Store, Then, WhyNot,
};
use crate::os::files::Directory;
use crate::os::lock;

/// How many may wait for an answer at once: what one commit takes. More wait before they are queued, so that dropping
/// their future still leaves nothing behind.
const WAITING_MOST: usize = 1024;

/// The spool. Dropped, it closes as by [`Append::close`].
#[derive(Debug)]
pub struct Spool {
    /// Unbounded for the sake of lazy operations, which must not wait and are bounded by the rows there are; those who
    /// wait for an answer are bounded by `waiting`.
    requests: Requests<Request>,
    waiting: Arc<Semaphore>,
    limits: Limits,
    shared: Arc<Shared>,
    fresh: Arc<Fresh>,
    patience: Patience,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spool {
    /// Opens the spool in `dir`, which must exist, or creates it there. What is damaged or no spool at all is moved aside;
    /// [`Recovered`] tells.
    ///
    /// # Errors
    ///
    /// If the files cannot be used (or the disk has no room to rebuild them), or the thread not be started.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Arc<Self>, Recovered), OpenError> {
        Self::open_in(&dir.into(), limits)
    }

    /// As [`Self::open`], in a directory where others keep files, too: if its disk fails them, the spool has failed.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_in(dir: &Directory, limits: Limits) -> Result<(Arc<Self>, Recovered), OpenError> {
        let (db, files, recovered) = recovery::open(dir.path())?;
        let shared = Arc::new(Shared::new(dir.failure().clone()));
        shared::add(&shared.damaged_rows, recovered.damaged_rows);
        shared::add(&shared.rebuilds, recovered.rebuilds);
        let (requests, inbox) = inbox::inbox();
        let path = files.main.clone();
        let fresh = Arc::<Fresh>::default();
        let writer = Writer::new(db, files, limits, inbox, Arc::clone(&shared), Arc::clone(&fresh));
        let unexpected = Unexpected(Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                let _unexpected = unexpected;
                writer.run();
            })
            .map_err(|source| OpenError::File { path, source })?;
        let (waiting, thread) = (Arc::new(Semaphore::new(WAITING_MOST)), Mutex::new(Some(thread)));
        let spool = Self { requests, waiting, limits, shared, fresh, patience: Patience::default(), thread };
        Ok((Arc::new(spool), recovered))
    }

    async fn store(&self, op: impl FnOnce(Reply<()>) -> Op) -> Result<(), SpoolError> {
        self.ask(|reply| Request::Durable(op(reply))).await
    }

    fn lazily(&self, lazy: Lazy) {
        // If the writer is gone, whatever was to be changed will be met again by the next run.
        self.requests.send_lazily(Request::Lazy(lazy, Instant::now()));
    }

    async fn ask<T, E>(&self, request: impl FnOnce(Reply<T, E>) -> Request) -> Result<T, E>
    where
        E: From<SpoolError>,
    {
        let failure = |()| E::from(self.shared.failed());
        let permit = Arc::clone(&self.waiting).acquire_owned().await.map_err(|_| failure(()))?;
        #[cfg(test)]
        let _standstill = crate::os::clock::simulated::standstill();
        let (sender, answer) = oneshot::channel();
        self.requests.send(request(Reply::new(sender, permit)));
        answer.await.unwrap_or_else(|_| Err(failure(())))
    }

    /// Asks for what is only read: a disk that does not give it now may do so in a moment.
    fn look<'a, T: Send + 'a>(&'a self, request: impl Fn(Reply<T>) -> Request + Send + Sync + 'a) -> Answer<'a, T> {
        async move { self.patience.retry(|| self.ask(&request), |_| {}).await }.boxed()
    }

    /// From now on the disk is a simulated one. Lazy operations get no commit of their own, however long that takes, so that it
    /// does not depend on how fast a test is which of them a kill loses; and what is not to survive the test is not synced.
    #[cfg(test)]
    pub(crate) fn simulate(&self) {
        self.inject(writer::Inject::Simulate);
    }

    /// What is lazy and not yet stored is lost, as if the power were cut.
    #[cfg(test)]
    pub(crate) fn lose_lazy(&self) {
        self.inject(writer::Inject::LoseLazy);
    }

    /// The next reads, so many, are refused for now.
    #[cfg(test)]
    pub(crate) fn refuse_reads(&self, reads: u32) {
        self.inject(writer::Inject::FailReads(reads, rusqlite::ffi::SQLITE_BUSY));
    }

    /// Whether somebody waits for an answer.
    #[cfg(test)]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.available_permits() < WAITING_MOST
    }

    #[cfg(test)]
    fn inject(&self, inject: writer::Inject) {
        self.requests.send(Request::Inject(inject));
    }

    /// Waits for the thread's very end. It has nothing left to do but return.
    fn join(&self) {
        let thread = lock(&self.thread).take();
        // `then` of a last request may have held the last handle: nothing is left then that could be waited for.
        if let Some(thread) = thread.filter(|spool| spool.thread().id() != thread::current().id()) {
            // Its panic was told to all already.
            let _ = thread.join();
        }
    }
}

impl Append for Spool {
    fn append(&self, queue: Queue, data: Bytes, key: Option<Key>) -> Answer<'_, u64, AppendError> {
        self.ask(move |reply| Request::Durable(Op::Append(New { queue, data, key }, reply))).boxed()
    }

    fn hand_over(&self, queue: Queue, data: Bytes, key: Option<Key>, then: Then) -> Result<(), Then> {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return Err(then) };
        let reply = Reply::then(then, permit);
        // If the thread has gone, `then` goes with the request.
        self.requests.send(Request::Durable(Op::Append(New { queue, data, key }, reply)));
        Ok(())
    }

    fn announce(&self, queue: Queue) {
        self.shared.announce(queue);
    }

    fn medium(&self) -> Medium {
        Medium::Disk
    }

    fn passes(&self, _cause: &str) -> bool {
        // A disk that is full, read-only, failing or locked waits for its operator.
        false
    }

    fn stats(&self, queue: Queue) -> QueueStats {
        self.shared.stats(queue)
    }

    fn limit(&self, queue: Queue) -> u64 {
        *self.limits.get(queue)
    }

    fn counters(&self) -> Counters {
        self.shared.counters()
    }

    fn writable(&self) -> watch::Receiver<Result<(), NotStored>> {
        self.shared.writable.subscribe()
    }

    fn stores(&self) -> Result<(), NotStored> {
        match self.shared.failure.get() {
            Some(cause) => Err(NotStored { cause, why: WhyNot::Failed }),
            None => self.shared.writable.borrow().clone(),
        }
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        self.shared.failure.wait().boxed()
    }

    fn has_failed(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    fn waits_for_the_disk(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.excused)
    }

    /// Checkpoints, too, so that no log is left beside the database.
    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            // An error means that it has failed or is closed already; either way it is over.
            let _ = self.ask(|reply| Request::Close(Closing::Awaited(reply))).await;
            self.join();
        }
        .boxed()
    }
}

impl Store for Spool {
    fn read_after(&self, queue: Queue, after: u64, max_rows: usize, max_bytes: usize) -> Answer<'_, Vec<Row>> {
        async move {
            if !self.has_failed() {
                // Who has read all that there is need not ask the writer.
                if *self.shared.appended.get(queue).borrow() <= after {
                    return Ok(Vec::new());
                }
                let fresh =
                    if queue == Queue::Inbound { self.fresh.take(after, max_rows, max_bytes) } else { Vec::new() };
                if !fresh.is_empty() {
                    return Ok(fresh);
                }
            }
            let most = (max_rows, max_bytes);
            self.look(move |reply| Request::Read(Read::After { queue, after, most, reply })).await
        }
        .boxed()
    }

    fn read(&self, queue: Queue, seq: u64) -> Answer<'_, Option<Row>> {
        self.look(move |reply| Request::Read(Read::One { queue, seq, reply }))
    }

    fn oldest(&self, queue: Queue) -> Answer<'_, Option<Row>> {
        async move {
            let most = (1, usize::MAX);
            let rows = self.ask(|reply| Request::Read(Read::After { queue, after: 0, most, reply })).await?;
            Ok(rows.into_iter().next())
        }
        .boxed()
    }

    fn appended(&self, queue: Queue) -> watch::Receiver<u64> {
        self.shared.appended.get(queue).subscribe()
    }

    fn complete(&self, queue: Queue, seq: u64) {
        self.fresh.changed(queue, seq);
        self.lazily(Lazy::Row(queue, seq, Change::Complete));
    }

    fn replace(&self, queue: Queue, seq: u64, data: Vec<u8>) -> Answer<'_, ()> {
        async move {
            self.fresh.changed(queue, seq);
            self.store(|reply| Op::Replace { queue, seq, data, reply }).await
        }
        .boxed()
    }

    fn flush(&self) -> Answer<'_, ()> {
        self.store(Op::Flush).boxed()
    }

    fn replace_lazily(&self, queue: Queue, seq: u64, data: Vec<u8>) {
        self.fresh.changed(queue, seq);
        self.lazily(Lazy::Row(queue, seq, Change::Replace(Bytes::from(data))));
    }

    fn redeliveries(&self) -> Answer<'_, Vec<(u16, [u8; 32])>> {
        self.look(|reply| Request::Read(Read::Redeliveries { reply }))
    }

    fn forget_session(&self, began: u64) -> Answer<'_, ()> {
        async move { self.store(|reply| Op::ForgetSession(began, reply)).await }.boxed()
    }

    fn forget_redeliveries(&self, pkids: Vec<u16>) {
        if !pkids.is_empty() {
            self.lazily(Lazy::ForgetRedeliveries(pkids));
        }
    }

    fn put_note(&self, key: &str, value: Vec<u8>) {
        self.lazily(Lazy::Note(key.to_owned(), Some(value)));
    }

    fn remove_note(&self, key: &str) {
        self.lazily(Lazy::Note(key.to_owned(), None));
    }

    fn notes(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        self.look(move |reply| Request::Read(Read::Notes { prefix: prefix.clone(), reply }))
    }

    fn patience(&self) -> &Patience {
        &self.patience
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.requests.send(Request::Close(Closing::Unawaited));
        self.join();
    }
}
