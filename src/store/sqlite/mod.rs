//! The durable queues: what is accepted is appended here before its sender is answered, and stays until it is completed.
//!
//! Rows are bytes; the spool knows nothing of pushes, commands or results, nor of when a row is due. It is one SQLite file
//! with one thread that touches it, behind a handle that any task may hold.
//!
//! # Constraints
//!
//! - Answered means on the disk: it survives `kill -9` and the loss of power.
//! - SD cards: bytes and syncs count. One commit carries everything that was waiting, and with nothing to do nothing is
//!   written and no timer runs.
//! - A full disk must not be fatal, nor keep what is there from being read and completed.
//! - A damaged disk costs the rows it damaged, with an alarm, and nothing else. What is read is what was written.
//!
//! # Format
//!
//! `spool.db`, in WAL mode with pages of 1 KiB. A table for each queue holds a number, a checksum over queue, number and
//! data, and the data. `state` holds each queue's next number (none is ever given twice), depth and bytes, so that opening
//! a million rows reads three. `redelivery` holds the [`Key`]s, `note` the small values of
//! [`Spool::put_note`], `damaged` the last few rows whose checksum failed. `sqlite3` opens it all.
//!
//! # Operation
//!
//! - **Durable** operations ([`Spool::append`], [`Spool::replace`], [`Spool::forget_session`]) return after a commit with a
//!   sync. A future dropped before it returned may or may not have been carried out.
//! - **Lazy** ones ([`Spool::complete`], [`Spool::replace_lazily`], notes, …) return at once and ride with the next durable
//!   commit; with none in 25 ms they get one without a sync, which a killed process survives and the loss of power may
//!   not: then a delivery is repeated. What another supersedes in time is never written. Readers see them at once.
//! - **Fresh**: what was just stored in the inbound queue is read from memory by who keeps up, from the disk by all others.
//! - **Idle** for 2 s, the log is moved into the database and emptied, because one flipped bit in a log silently ends it;
//!   a file that is large and nearly empty is shrunk. Then the thread sleeps until asked.
//! - **Full** is decided by counting, before the disk is touched; **nearly full** by the disk's free space, while there is
//!   room left to complete. Should others take that too, the log is written over from its start, and `spool.ballast`, a file
//!   kept for this, is given up: what waits is still completed, and the next start finds the room it needs. All of it clears
//!   by itself.
//! - **Damage** met at opening or later: a bad row is left out; a bad page has the database rebuilt from what is readable,
//!   with the old one kept as `spool.db.damaged-N`, the last three of them. So is a file that is no spool.
//! - **A failed sync** ends it: [`Spool::failed`] resolves and nothing is answered any more, because what the disk holds is
//!   unknown until the process starts anew.

mod batch;
mod db;
mod disk;
mod fault;
mod files;
mod fresh;
mod keys;
mod log;
mod patience;
mod pending;
mod recovery;
mod request;
mod rows;
mod shared;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use pending::{Change, Lazy};
use request::{Closing, Op, Read, Reply, Request, Task};
use shared::Shared;
pub use types::{
    Counters, Key, Limits, MAX_COMMANDS, NotStored, OpenError, Queue, QueueStats, ROW_OVERHEAD, Recovered, Row,
    SpoolError, WhyNot,
};
use writer::Writer;

use crate::os::files::Directory;

/// How many may wait for an answer at once: what one commit takes. More wait before they are queued, so that dropping
/// their future still leaves nothing behind.
const WAITING_MOST: usize = 1024;

/// A handle on the spool; clones share it. When the last one is dropped, the spool closes as by [`Spool::close`].
#[derive(Debug, Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Unbounded for the sake of lazy operations, which must not wait and are bounded by the rows there are; those who
    /// wait for an answer are bounded by `waiting`.
    requests: mpsc::Sender<Request>,
    waiting: Arc<Semaphore>,
    limits: Limits,
    shared: Arc<Shared>,
    no_more_tries: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spool {
    /// Opens the spool in `dir`, which must exist, or creates it there. What is damaged or no spool at all is moved aside;
    /// [`Recovered`] tells.
    ///
    /// # Errors
    ///
    /// If the files cannot be used (or the disk has no room to rebuild them), or the thread not be started.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Recovered), OpenError> {
        Self::open_in(&dir.into(), limits)
    }

    /// As [`Self::open`], in a directory where others keep files, too: if its disk fails them, the spool has failed.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_in(dir: &Directory, limits: Limits) -> Result<(Self, Recovered), OpenError> {
        let (db, files, recovered) = recovery::open(dir.path())?;
        let shared = Arc::new(Shared::new(dir.failure().clone()));
        shared::add(&shared.damaged_rows, recovered.damaged_rows);
        let (requests, inbox) = mpsc::channel();
        let path = files.main.clone();
        let writer = Writer::new(db, files, limits, inbox, Arc::clone(&shared));
        let unexpected = Unexpected(Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                let _unexpected = unexpected;
                writer.run();
            })
            .map_err(|source| OpenError::File { path, source })?;
        let waiting = Arc::new(Semaphore::new(WAITING_MOST));
        let no_more_tries = CancellationToken::new();
        let inner = Inner { requests, waiting, limits, shared, no_more_tries, thread: Mutex::new(Some(thread)) };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// Stores `data` as the newest row of `queue`, with `key` in the same commit, and gives the row's number. Durable when
    /// it returns. In [`Queue::SetAside`] the oldest rows make room.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; but for `Failed`, nothing was stored.
    pub async fn append(&self, queue: Queue, data: impl Into<Bytes>, key: Option<Key>) -> Result<u64, SpoolError> {
        self.store(Task::Append { queue, data: data.into(), key }).await
    }

    /// As [`Self::append`], for who must not wait: `then` is called with the outcome by the spool's thread, and must be quick; it
    /// is dropped instead if the spool has failed. What has no place among those who wait already is given back.
    ///
    /// # Errors
    ///
    /// `then`, uncalled: [`Self::append`] waits for a place.
    pub fn hand_over<F>(&self, queue: Queue, data: Bytes, key: Option<Key>, then: F) -> Result<(), F>
    where
        F: FnOnce(Result<u64, SpoolError>) + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.inner.waiting).try_acquire_owned() else { return Err(then) };
        let reply = Reply::then(Box::new(then), permit);
        // If the thread has gone, `then` goes with the request.
        let _ = self.inner.requests.send(Request::Durable(Op { task: Task::Append { queue, data, key }, reply }));
        Ok(())
    }

    /// Stores what was refused for good: [`Self::append`] to [`Queue::SetAside`].
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub async fn set_aside(&self, data: Vec<u8>) -> Result<(), SpoolError> {
        self.append(Queue::SetAside, data, None).await.map(|_| ())
    }

    /// Replaces a row's data. Durable when it returns, and allowed when the queue is full. A row that is not there stays so.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], never `Full`; but for `Failed`, the row is as it was.
    pub async fn replace(&self, queue: Queue, seq: u64, data: Vec<u8>) -> Result<(), SpoolError> {
        self.inner.shared.fresh.changed(queue, seq);
        self.store(Task::Replace { queue, seq, data }).await.map(|_| ())
    }

    /// As [`Self::replace`], but lazily.
    pub fn replace_lazily(&self, queue: Queue, seq: u64, data: Vec<u8>) {
        self.inner.shared.fresh.changed(queue, seq);
        self.lazily(Lazy::Row(queue, seq, Change::Replace(Bytes::from(data))));
    }

    /// Removes a row, lazily.
    pub fn complete(&self, queue: Queue, seq: u64) {
        self.inner.shared.fresh.changed(queue, seq);
        self.lazily(Lazy::Row(queue, seq, Change::Complete));
    }

    /// The rows after number `after` (0: from the start), oldest first: at most `max_rows` with at most `max_bytes`, but one
    /// if there is one.
    ///
    /// # Errors
    ///
    /// `Failed`, or after [`Self::stop_trying`] `Unwritable`: what cannot be read now is tried again until it can. Damage is no
    /// error: damaged rows are counted, reported and left out.
    pub async fn read_after(
        &self,
        queue: Queue,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<Row>, SpoolError> {
        if queue == Queue::Inbound && !self.has_failed() {
            let fresh = self.inner.shared.fresh.take(after, max_rows, max_bytes);
            if !fresh.is_empty() {
                return Ok(fresh);
            }
        }
        let most = (max_rows, max_bytes);
        self.look(|reply| Request::Read(Read::After { queue, after, most, reply })).await
    }

    /// The oldest row, for who only looks: asked once.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], never `Full`.
    pub async fn oldest(&self, queue: Queue) -> Result<Option<Row>, SpoolError> {
        let rows =
            self.ask(|reply| Request::Read(Read::After { queue, after: 0, most: (1, usize::MAX), reply })).await?;
        Ok(rows.into_iter().next())
    }

    /// One row, if it is there.
    ///
    /// # Errors
    ///
    /// As [`Self::read_after`].
    pub async fn read(&self, queue: Queue, seq: u64) -> Result<Option<Row>, SpoolError> {
        self.look(|reply| Request::Read(Read::One { queue, seq, reply })).await
    }

    /// The [`Key`]s that are alive, by packet id.
    ///
    /// # Errors
    ///
    /// As [`Self::read_after`].
    pub async fn redeliveries(&self) -> Result<Vec<(u16, [u8; 32])>, SpoolError> {
        self.look(|reply| Request::Read(Read::Redeliveries { reply })).await
    }

    /// Forgets every [`Key`]: a new MQTT session began with this connection. From then on those of earlier
    /// connections are not kept, although their rows are. Durable when it returns.
    ///
    /// # Errors
    ///
    /// As [`Self::replace`].
    pub async fn forget_session(&self, began: u64) -> Result<(), SpoolError> {
        self.store(Task::ForgetSession(began)).await.map(|_| ())
    }

    /// Forgets the [`Key`] of each of these packet ids, lazily; not those stored from now on.
    pub fn forget_redeliveries(&self, pkids: Vec<u16>) {
        if !pkids.is_empty() {
            self.lazily(Lazy::ForgetRedeliveries(pkids));
        }
    }

    /// Keeps a small value under `key`, lazily. Notes are few and not counted against any cap.
    pub fn put_note(&self, key: &str, value: Vec<u8>) {
        self.lazily(Lazy::Note(key.to_owned(), Some(value)));
    }

    /// Removes what is kept under `key`, lazily.
    pub fn remove_note(&self, key: &str) {
        self.lazily(Lazy::Note(key.to_owned(), None));
    }

    /// The notes whose key starts with `prefix`, by key.
    ///
    /// # Errors
    ///
    /// As [`Self::read_after`].
    pub async fn notes(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, SpoolError> {
        self.look(|reply| Request::Read(Read::Notes { prefix: prefix.to_owned(), reply })).await
    }

    /// How much a queue holds, as of the last commit. No I/O.
    #[must_use]
    pub fn stats(&self, queue: Queue) -> QueueStats {
        self.inner.shared.stats(queue)
    }

    /// The most that a queue may hold, in bytes.
    #[must_use]
    pub fn limit(&self, queue: Queue) -> u64 {
        self.inner.limits.of(queue)
    }

    /// What has happened since the spool was opened. No I/O.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.shared.counters()
    }

    /// The highest number committed in `queue`: wakes who reads it. After opening, that of the run before.
    #[must_use]
    pub fn appended(&self, queue: Queue) -> watch::Receiver<u64> {
        self.inner.shared.appended.get(queue).subscribe()
    }

    /// Whether appends are being stored; if not, why. A disk that refuses is tried again every few seconds.
    #[must_use]
    pub fn writable(&self) -> watch::Receiver<Result<(), NotStored>> {
        self.inner.shared.writable.subscribe()
    }

    /// Whether everybody who asks for something waits for the disk, and a restart would not help: a damaged database is being
    /// rebuilt, or it cannot be read now.
    #[must_use]
    pub fn waits_for_the_disk(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.shared.excused)
    }

    /// Resolves, with the cause, once the spool has failed; never after a clean close.
    pub async fn failed(&self) -> String {
        self.inner.shared.failure.wait().await
    }

    /// As [`Self::writable`] has it now, and whether a sync of anything else has failed. No I/O.
    ///
    /// # Errors
    ///
    /// Why nothing is stored.
    pub fn stores(&self) -> Result<(), NotStored> {
        match self.inner.shared.failure.get() {
            Some(cause) => Err(NotStored { cause, why: WhyNot::Failed }),
            None => self.inner.shared.writable.borrow().clone(),
        }
    }

    /// Whether it has failed. No I/O.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.inner.shared.failure.get().is_some()
    }

    /// Stores what is still lazy, checkpoints and closes the file. Other handles get [`SpoolError::Failed`] from then on.
    pub async fn close(self) {
        // An error means that it has failed or is closed already; either way it is over.
        let _ = self.ask(|reply| Request::Close(Closing::Awaited(reply))).await;
        self.inner.join();
    }

    async fn store(&self, task: Task) -> Result<u64, SpoolError> {
        self.ask(|reply| Request::Durable(Op { task, reply })).await
    }

    fn lazily(&self, lazy: Lazy) {
        // If the writer is gone, whatever was to be changed will be met again by the next run.
        let _ = self.inner.requests.send(Request::Lazy(lazy));
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let failure = |()| self.inner.shared.failed();
        let permit = Arc::clone(&self.inner.waiting).acquire_owned().await.map_err(|_| failure(()))?;
        #[cfg(test)]
        let _standstill = crate::os::clock::simulated::standstill();
        let (sender, answer) = oneshot::channel();
        self.inner.requests.send(request(Reply::new(sender, permit))).map_err(|_| failure(()))?;
        answer.await.unwrap_or_else(|_| Err(failure(())))
    }

    /// From now on the disk is a simulated one. Lazy operations get no commit of their own, however long that takes, so that it
    /// does not depend on how fast a test is which of them a kill loses; and what is not to survive the test is not synced.
    #[cfg(test)]
    pub(crate) fn simulate(&self) {
        self.inject(request::Inject::Simulate);
    }

    /// What is lazy and not yet stored is lost, as if the power were cut.
    #[cfg(test)]
    pub(crate) fn lose_lazy(&self) {
        self.inject(request::Inject::LoseLazy);
    }

    /// Whether somebody waits for an answer.
    #[cfg(test)]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.inner.waiting.available_permits() < WAITING_MOST
    }

    #[cfg(test)]
    fn inject(&self, inject: request::Inject) {
        let _ = self.inner.requests.send(Request::Inject(inject));
    }
}

impl Inner {
    /// Waits for the thread's very end. It has nothing left to do but return.
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // `then` of a last request may have held the last handle: nothing is left then that could be waited for.
        if let Some(thread) = thread.filter(|spool| spool.thread().id() != thread::current().id()) {
            // Its panic was told to all already.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Close(Closing::Unawaited));
        self.join();
    }
}

/// Tells everybody if the writer ends by a panic.
struct Unexpected(Arc<Shared>);

impl Drop for Unexpected {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail("its thread has panicked".to_owned());
        }
    }
}
