//! Makes a push durable, once, however often iLink tries it.
//!
//! Only *no answer* makes iLink try again (manual §2.2), so a push that cannot be stored now (spool full, disk slow) is held
//! unanswered and tried on until every try of it has left. Storing depends on no connection: a peer that leaves must not undo
//! what is already on its way to the disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::record::Record;
use super::repeats::{Claim, Progress, Repeats, Ticket};
use crate::counters::Counters;
use crate::protocol::Kind;
use crate::series::PushOutcome;
use crate::spool::{Key, Queue, Spool, SpoolError};

/// How long a try is held before it is refused: iLink itself leaves after 5 s.
const HOLD: Duration = Duration::from_secs(6);
/// A commit that takes longer than this counts as held.
const SLOW: Duration = Duration::from_secs(1);
/// Between two attempts to store a held push.
const RETRY: Duration = Duration::from_millis(200);
/// So many tries are held at once; each keeps a connection and a body in memory.
const HELD_AT_MOST: usize = 256;

/// The push is not in the spool, and the caller should say so.
#[derive(Debug, thiserror::Error)]
#[error("the push could not be made durable in time")]
pub struct NotStored;

/// Stores pushes.
pub struct Store {
    spool: Spool,
    repeats: Option<Repeats>,
    counters: Arc<Counters>,
    held: Semaphore,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Store {
    /// A store into `spool`. Without `repeats` every push is new (`callback.repeats = "off"`). Of use only within a runtime.
    #[must_use]
    pub fn new(spool: Spool, repeats: Option<Repeats>, counters: Arc<Counters>, tasks: TaskTracker) -> Self {
        Self { spool, repeats, counters, held: Semaphore::new(HELD_AT_MOST), tasks, runtime: Handle::current() }
    }

    /// Returns once the push, which is of this kind, is durable, with what [`Store::leaving`] wants to hear back.
    ///
    /// # Errors
    /// If it could not be stored within 6 s, or too many others wait already.
    pub async fn store(self: &Arc<Self>, body: Bytes, kind: Kind) -> Result<Option<Ticket>, NotStored> {
        let arrived = Instant::now();
        let Taken { ticket, progress, repeat } = self.accept(body);
        let stored = self.wait(progress, arrived + HOLD).await;
        let outcome = match stored {
            Ok(()) if repeat => PushOutcome::Repeated,
            Ok(()) => PushOutcome::Stored,
            Err(NotStored) => PushOutcome::Unstored,
        };
        if outcome == PushOutcome::Unstored {
            self.counters.pushes_unstored.add();
        }
        self.counters.series.push(kind, outcome);
        stored.map(|()| ticket)
    }

    /// An answer to a try of this push is about to leave; [`Leaving::left`] says that it did.
    ///
    /// That the push makes repeats is forgotten on the disk before it leaves: should the bridge be killed just after, the next
    /// push with the same bytes is a new one, and must not be lost. Killed just before, it would store a further try once
    /// more: rather twice than never.
    pub async fn leaving(self: &Arc<Self>, ticket: Ticket) -> Leaving {
        let leaving = Leaving { store: Arc::clone(self), ticket: Some(ticket) };
        if let Some(repeats) = &self.repeats
            && repeats.leaving(ticket)
            && let Err(error) = self.spool.forget_repeat(ticket.digest, ticket.at).await
        {
            // The push itself is stored, and that is what the answer promises.
            warn!(%error, "that a push was answered could not be recorded; killed now, the bridge would take the same bytes for its repeat");
        }
        leaving
    }

    fn accept(self: &Arc<Self>, body: Bytes) -> Taken {
        let (ticket, tell) = match &self.repeats {
            None => (None, watch::channel(Progress::Storing).0),
            Some(repeats) => match repeats.claim(Sha256::digest(&body).into()) {
                Claim::First(ticket, tell) => (Some(ticket), tell),
                Claim::Repeat(ticket, progress) => {
                    self.counters.pushes_repeated.add();
                    return Taken { ticket: Some(ticket), progress, repeat: true };
                }
            },
        };
        let progress = tell.subscribe();
        // No value of the type fails to encode; were it so, its `tell` would be dropped, and nobody answered 0.
        if let Ok(row) = Record::push(body).encode() {
            self.hand_over(Push { row: row.into(), ticket, tell });
        }
        Taken { ticket, progress, repeat: false }
    }

    /// A try that was not stored within a second counts as held, like one that the disk refused.
    async fn wait(&self, mut progress: watch::Receiver<Progress>, until: Instant) -> Result<(), NotStored> {
        if let Ok(now) = timeout(SLOW, progress.wait_for(|now| *now != Progress::Storing)).await
            && *now.map_err(|_| NotStored)? == Progress::Stored
        {
            return Ok(());
        }
        let _held = self.held.try_acquire().map_err(|_| NotStored)?;
        match timeout_at(until, progress.wait_for(|now| *now == Progress::Stored)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotStored),
        }
    }

    /// Gives the push to the spool. From then on it is in the writer's hands, whoever waits or leaves.
    fn hand_over(self: &Arc<Self>, push: Push) {
        let (row, key) = (push.row.clone(), push.key());
        let store = Arc::clone(self);
        let done = move |appended| {
            if let Some(push) = store.stored(push, &appended) {
                store.runtime.clone().spawn(store.tasks.clone().track_future(Arc::clone(&store).keep(push)));
            }
        };
        if let Err(done) = self.spool.hand_over(Queue::Inbound, row.clone(), key, done) {
            // Many others wait: so does this one.
            let spool = self.spool.clone();
            self.tasks.spawn(async move { done(spool.append(Queue::Inbound, row, key).await) });
        }
    }

    /// Tells what became of an attempt to store the push, and gives it back if it is to be tried again.
    fn stored(&self, push: Push, appended: &Result<u64, SpoolError>) -> Option<Push> {
        match appended {
            Ok(_) => {
                self.counters.pushes_stored.add();
                let _ = push.tell.send(Progress::Stored);
                None
            }
            Err(SpoolError::Full | SpoolError::Unwritable(_)) => {
                let _ = push.tell.send(Progress::Held);
                Some(push)
            }
            // The process is about to stop; nothing may be answered any more.
            Err(SpoolError::Failed(_)) => None,
        }
    }

    /// Appends a push that was refused, again and again until it is stored or nobody waits for it any more.
    async fn keep(self: Arc<Self>, mut push: Push) {
        loop {
            sleep(RETRY).await;
            if self.nobody_waits(&push) {
                return;
            }
            // Not given up while it lasts: the row is in the writer's hands and may still be stored.
            let appended = self.spool.append(Queue::Inbound, push.row.clone(), push.key()).await;
            match self.stored(push, &appended) {
                None => return,
                Some(again) => push = again,
            }
        }
    }

    fn nobody_waits(&self, push: &Push) -> bool {
        match (&self.repeats, push.ticket) {
            (Some(repeats), Some(ticket)) => repeats.give_up(ticket, &push.tell),
            _ => push.tell.is_closed(),
        }
    }
}

/// A try that waits for its push to be durable.
struct Taken {
    ticket: Option<Ticket>,
    progress: watch::Receiver<Progress>,
    repeat: bool,
}

/// A push on its way to the disk, and who is to be told.
struct Push {
    row: Bytes,
    ticket: Option<Ticket>,
    tell: watch::Sender<Progress>,
}

impl Push {
    fn key(&self) -> Option<Key> {
        self.ticket.map(|Ticket { digest, at, .. }| Key::Repeat { digest, at })
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving {
    store: Arc<Store>,
    ticket: Option<Ticket>,
}

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        if let (Some(ticket), Some(repeats)) = (self.ticket.take(), &self.store.repeats) {
            repeats.answered(ticket);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let (Some(ticket), Some(repeats)) = (self.ticket, &self.store.repeats) {
            repeats.not_answered(ticket, || self.store.spool.remember_repeat(ticket.digest, ticket.at));
        }
    }
}
