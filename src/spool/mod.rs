//! The durable queues: append → next → complete, on one SQLite file.

mod types;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

pub use types::{Counters, Key, Keys, Limits, OpenError, Queue, QueueStats, ROW_OVERHEAD, Recovered, Row, SpoolError};

/// A handle on the spool; clones share it.
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    appended: [watch::Sender<u64>; 3],
    writable: watch::Sender<Result<(), String>>,
}

#[expect(clippy::unused_async, clippy::missing_errors_doc, reason = "being built")]
impl Spool {
    /// Opens the spool in `dir` (which must exist), or creates it.
    pub fn open(_dir: &Path, _limits: Limits) -> Result<(Self, Recovered), OpenError> {
        let shared = Shared {
            appended: [watch::Sender::new(0), watch::Sender::new(0), watch::Sender::new(0)],
            writable: watch::Sender::new(Ok(())),
        };
        Ok((Self { shared: Arc::new(shared) }, Recovered::default()))
    }

    /// Stores `data` as the newest row of `queue` and gives its number. Durable when it returns.
    pub async fn append(&self, _queue: Queue, _data: Vec<u8>, _key: Option<Key>) -> Result<u64, SpoolError> {
        not_yet()
    }

    /// The rows after number `after`, oldest first: at most `max_rows` and about `max_bytes`, but one if there is one.
    pub async fn read_after(
        &self,
        _queue: Queue,
        _after: u64,
        _max_rows: usize,
        _max_bytes: usize,
    ) -> Result<Vec<Row>, SpoolError> {
        not_yet()
    }

    /// One row, if it is there.
    pub async fn read(&self, _queue: Queue, _seq: u64) -> Result<Option<Row>, SpoolError> {
        not_yet()
    }

    /// Replaces a row's data. Durable when it returns; allowed when the queue is full.
    pub async fn replace(&self, _queue: Queue, _seq: u64, _data: Vec<u8>) -> Result<(), SpoolError> {
        not_yet()
    }

    /// As [`Self::replace`], but stored with the next commit.
    pub fn replace_lazily(&self, _queue: Queue, _seq: u64, _data: Vec<u8>) {}

    /// Removes a row, with the next commit.
    pub fn complete(&self, _queue: Queue, _seq: u64) {}

    /// Forgets a [`Key::Repeat`], with the next commit.
    pub fn forget_repeat(&self, _digest: [u8; 32]) {}

    /// Forgets every [`Key::Redelivery`]. Durable when it returns.
    pub async fn forget_session(&self) -> Result<(), SpoolError> {
        not_yet()
    }

    /// The keys that are alive.
    pub async fn load_keys(&self) -> Result<Keys, SpoolError> {
        not_yet()
    }

    /// Keeps a small value under `key`, with the next commit.
    pub fn put_note(&self, _key: &str, _value: Vec<u8>) {}

    /// Removes what is under `key`, with the next commit.
    pub fn remove_note(&self, _key: &str) {}

    /// The notes whose key starts with `prefix`, by key.
    pub async fn notes(&self, _prefix: &str) -> Result<Vec<(String, Vec<u8>)>, SpoolError> {
        not_yet()
    }

    /// Stores what was refused for good; the oldest make room.
    pub async fn set_aside(&self, _data: Vec<u8>) -> Result<(), SpoolError> {
        not_yet()
    }

    /// How much a queue holds. No I/O.
    #[must_use]
    pub fn stats(&self, _queue: Queue) -> QueueStats {
        QueueStats::default()
    }

    /// What has happened since it was opened. No I/O.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The highest number committed in `queue`: wakes who reads it.
    #[must_use]
    pub fn appended(&self, queue: Queue) -> watch::Receiver<u64> {
        let [inbound, outbound, set_aside] = &self.shared.appended;
        match queue {
            Queue::Inbound => inbound.subscribe(),
            Queue::Outbound => outbound.subscribe(),
            Queue::SetAside => set_aside.subscribe(),
        }
    }

    /// Whether appends are being stored; if not, why.
    #[must_use]
    pub fn writable(&self) -> watch::Receiver<Result<(), String>> {
        self.shared.writable.subscribe()
    }

    /// Resolves, with the cause, once the spool has failed; never after a clean close.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// Stores what is still lazy, checkpoints, closes the file. Other handles get [`SpoolError::Failed`] from then on.
    pub async fn close(self) {}
}

fn not_yet<T>() -> Result<T, SpoolError> {
    Err(SpoolError::Failed("not built yet".to_owned()))
}
