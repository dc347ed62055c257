//! What the handles of a store may look at without asking whoever stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tokio::sync::watch;

use super::types::{Count, Counters, NotStored, PerQueue, Queue, QueueStats, SpoolError, WhyNot};
use crate::os::files::Failure;

/// Written by whoever stores.
#[derive(Debug)]
pub(super) struct Shared {
    depth: PerQueue<AtomicU64>,
    bytes: PerQueue<AtomicU64>,
    pub(super) appended: PerQueue<watch::Sender<u64>>,
    pub(super) writable: watch::Sender<Result<(), NotStored>>,
    /// Others may set it, too.
    pub(super) failure: Failure,
    pub(super) damaged_rows: AtomicU64,
    pub(super) rebuilds: AtomicU64,
    /// What is asked takes as long as the disk needs: a rebuild is under way, or reads fail.
    pub(super) excused: Arc<AtomicBool>,
    pub(super) set_aside_dropped: AtomicU64,
    pub(super) commits_synced: AtomicU64,
    pub(super) commits_lazy: AtomicU64,
}

/// The queues to which rows have come.
#[derive(Default)]
pub(super) struct NewRows(PerQueue<bool>);

impl Shared {
    pub(super) fn new(failure: Failure) -> Self {
        Self {
            depth: PerQueue::default(),
            bytes: PerQueue::default(),
            appended: PerQueue::default(),
            writable: watch::Sender::new(Ok(())),
            failure,
            damaged_rows: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
            excused: Arc::default(),
            set_aside_dropped: AtomicU64::new(0),
            commits_synced: AtomicU64::new(0),
            commits_lazy: AtomicU64::new(0),
        }
    }

    pub(super) fn show(&self, counts: &PerQueue<Count>) {
        self.wake(&self.count(counts));
    }

    /// Shows what is in the queues. Who waits for new rows is not woken: that is to be done with what this returns.
    #[must_use]
    pub(super) fn count(&self, counts: &PerQueue<Count>) -> NewRows {
        let mut new = NewRows::default();
        for queue in Queue::ALL {
            let count = counts.get(queue);
            self.depth.get(queue).store(count.depth, Ordering::Relaxed);
            self.bytes.get(queue).store(count.bytes, Ordering::Relaxed);
            self.appended.get(queue).send_if_modified(|highest| {
                let now = count.next.saturating_sub(1);
                *new.0.get_mut(queue) = *highest < now;
                *highest = now.max(*highest);
                false
            });
        }
        new
    }

    /// Wakes those who wait for new rows where there are any.
    pub(super) fn wake(&self, new: &NewRows) {
        for queue in Queue::ALL {
            self.appended.get(queue).send_if_modified(|_| *new.0.get(queue));
        }
    }

    /// Wakes those who wait for new rows of this queue.
    pub(super) fn announce(&self, queue: Queue) {
        self.appended.get(queue).send_if_modified(|_| true);
    }

    pub(super) fn stats(&self, queue: Queue) -> QueueStats {
        QueueStats {
            depth: self.depth.get(queue).load(Ordering::Relaxed),
            bytes: self.bytes.get(queue).load(Ordering::Relaxed),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            damaged_rows: self.damaged_rows.load(Ordering::Relaxed),
            rebuilds: self.rebuilds.load(Ordering::Relaxed),
            set_aside_dropped: self.set_aside_dropped.load(Ordering::Relaxed),
            commits_synced: self.commits_synced.load(Ordering::Relaxed),
            commits_lazy: self.commits_lazy.load(Ordering::Relaxed),
        }
    }

    /// Says for good that nothing is stored any more. The first cause stands.
    pub(super) fn fail(&self, cause: String) {
        self.set_writable(Err(NotStored { cause: cause.clone(), why: WhyNot::Failed }));
        self.failure.set(cause);
    }

    pub(super) fn failed(&self) -> SpoolError {
        SpoolError::Failed(self.failure.get().unwrap_or_else(|| "it is closed".to_owned()))
    }

    pub(super) fn set_writable(&self, now: Result<(), NotStored>) {
        self.writable.send_if_modified(|writable| {
            let changed = *writable != now;
            *writable = now;
            changed
        });
    }
}

/// Held by who works for the store: tells everybody if that ends by a panic.
pub(super) struct Unexpected(pub(super) Arc<Shared>);

impl Drop for Unexpected {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail("the task that stores messages has panicked".to_owned());
        }
    }
}

impl Unexpected {
    /// Is held as long as this is at work.
    pub(super) async fn watch<T>(self, work: impl Future<Output = T>) -> T {
        let _unexpected = self;
        work.await
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
