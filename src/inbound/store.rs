//! Makes a push durable, once, however often iLink tries it.
//!
//! Only *no answer* makes iLink try again (manual §2.2), so a push that cannot be stored now (spool full, disk slow) is held
//! unanswered and tried on until every try of it has left, and then is not answered at all. Storing depends on no connection:
//! a peer that leaves must not undo what is already on its way to the disk. Nor does the memory that a push takes: `Room`
//! bounds what is held, whoever still waits for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::repeats::{Claim, Progress, Repeats, Ticket};
use super::room::{Held, Place, Room};
use crate::observe::counters::{Counters, PushOutcome, Unanswered};
use crate::observe::log::Seldom;
use crate::protocol::Kind;
use crate::store::{Append, AppendError, Queue, SpoolError, Then};

/// How long a try is held before it is cut: iLink itself leaves after 5 s.
const HOLD: Duration = Duration::from_secs(6);
/// A commit that takes longer than this counts as held.
const SLOW: Duration = Duration::from_secs(1);
/// Between two attempts to store a held push.
const RETRY: Duration = Duration::from_millis(200);
/// So many tries are held at once; each keeps a connection.
const HELD_AT_MOST: usize = 256;

/// Stores pushes.
pub struct Store {
    spool: Arc<dyn Append>,
    repeats: Option<Arc<Repeats>>,
    counters: Arc<Counters>,
    room: Room,
    held: Semaphore,
    tasks: TaskTracker,
    /// Cancelled by a fault in one of the tasks.
    fault: CancellationToken,
    runtime: Handle,
    stored: mpsc::UnboundedSender<watch::Sender<Progress>>,
    told: Seldom,
}

impl Store {
    /// A store into `spool`, of bodies of at most `max_body` bytes. Without `repeats` every push is new (`callback.repeats =
    /// "off"`). Of use only within a runtime.
    #[must_use]
    pub fn new(
        spool: Arc<dyn Append>,
        repeats: Option<Arc<Repeats>>,
        max_body: usize,
        counters: Arc<Counters>,
        tasks: TaskTracker,
    ) -> Self {
        let (room, held) = (Room::new(max_body), Semaphore::new(HELD_AT_MOST));
        let (fault, runtime, told) = (CancellationToken::new(), Handle::current(), Seldom::default());
        let (stored, telling) = mpsc::unbounded_channel();
        runtime.spawn(tell_stored(telling, fault.clone()));
        Self { spool, repeats, counters, room, held, tasks, fault, runtime, stored, told }
    }

    /// Cancelled if the program has a fault in one of the store's own tasks.
    #[must_use]
    pub fn fault(&self) -> CancellationToken {
        self.fault.clone()
    }

    /// Spawns a task, also from a thread that is none of the runtime's.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let fault = self.fault.clone().drop_guard();
        self.runtime.spawn(self.tasks.track_future(async move {
            task.await;
            fault.disarm();
        }));
    }

    /// Returns once there is room in memory for a body of so many bytes. Until then the peer's bytes stay with the peer.
    ///
    /// # Errors
    /// If there was none within 6 s, or too many others wait already.
    pub(super) async fn room(&self, bytes: usize) -> Result<Place, Unanswered> {
        if let Some(place) = self.room.try_take(bytes) {
            return Ok(place);
        }
        let mut waiting = Waiting { store: self, kind: None, progress: None, held: false };
        let taken = match self.hold(&mut waiting) {
            Ok(_held) => timeout(HOLD, self.room.take(bytes)).await.ok().flatten().ok_or(Unanswered::Overload),
            Err(why) => Err(why),
        };
        waiting.over(taken)
    }

    /// The same push in other bytes.
    ///
    /// # Errors
    /// If those are larger, and there is no room for them.
    pub(super) fn exchanged(&self, body: Held, bytes: Bytes) -> Result<Held, Unanswered> {
        body.exchanged(bytes, &self.room).ok_or_else(|| self.unanswered(None, Unanswered::Overload))
    }

    /// Returns once the push, which is of this kind, is durable, with what [`Store::leaving`] wants to hear back.
    ///
    /// # Errors
    /// If it could not be stored within 6 s, or too many others wait already.
    pub async fn store(self: &Arc<Self>, body: Held, kind: Kind) -> Result<Option<Ticket>, Unanswered> {
        let until = Instant::now() + HOLD;
        let Taken { ticket, progress, repeat } = self.accept(body);
        let mut waiting = Waiting { store: self, kind: Some(kind), progress: Some(progress.clone()), held: false };
        let stored = self.wait(progress, until, &mut waiting).await;
        waiting.over(stored)?;
        self.counters.series.push(kind, if repeat { PushOutcome::Repeated } else { PushOutcome::Stored });
        Ok(ticket)
    }

    /// Whether a push that was stored may still be answered: not after the spool has failed, whatever failed in it.
    ///
    /// # Errors
    /// If it may not.
    pub(super) fn may_answer(&self, kind: Kind) -> Result<(), Unanswered> {
        if self.spool.has_failed() { Err(self.unanswered(Some(kind), Unanswered::Failed)) } else { Ok(()) }
    }

    /// Counts a try that is left unanswered.
    fn unanswered(&self, kind: Option<Kind>, why: Unanswered) -> Unanswered {
        self.counters.unanswered(why);
        if let Some(kind) = kind {
            self.counters.series.push(kind, PushOutcome::Unstored);
        }
        if self.told.may() {
            let cause = match why {
                Unanswered::Full => "the spool is full: spool.max_bytes",
                Unanswered::Failed => "the disk refuses to store it",
                Unanswered::Slow => "the disk takes too long to store it",
                Unanswered::Overload => "too many others wait for the disk",
            };
            warn!(cause, "a push is left unanswered, so that iLink sends it again");
        }
        why
    }

    /// An answer to a try of this push is about to leave; [`Leaving::left`] says that it did.
    pub fn leaving(self: &Arc<Self>, ticket: Ticket) -> Leaving {
        if let Some(repeats) = &self.repeats {
            repeats.leaving(ticket);
        }
        Leaving { repeats: self.repeats.clone(), ticket: Some(ticket) }
    }

    fn accept(self: &Arc<Self>, body: Held) -> Taken {
        let (ticket, tell) = match &self.repeats {
            None => (None, watch::channel(Progress::Storing).0),
            Some(repeats) => match repeats.claim(Sha256::digest(body.bytes()).into()) {
                Claim::First(ticket, tell) => (Some(ticket), tell),
                Claim::Repeat(ticket, progress) => {
                    self.counters.pushes_repeated.add();
                    return Taken { ticket: Some(ticket), progress, repeat: true };
                }
            },
        };
        let progress = tell.subscribe();
        // Were there no row, `tell` would be dropped, and nobody answered.
        if let Some(row) = body.into_row() {
            self.hand_over(Push { row, ticket, tell });
        }
        Taken { ticket, progress, repeat: false }
    }

    /// A try that was not stored within a second counts as held, like one that the spool refused.
    async fn wait(
        &self,
        mut progress: watch::Receiver<Progress>,
        until: Instant,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), Unanswered> {
        let begun = timeout(SLOW, progress.wait_for(|now| *now != Progress::Storing)).await;
        match begun.map(|now| now.map(|now| *now)) {
            Ok(Ok(Progress::Stored)) => return Ok(()),
            Ok(Err(_)) => return Err(Unanswered::Failed),
            Ok(Ok(_)) | Err(_) => {}
        }
        let _held = self.hold(waiting)?;
        let stored = timeout_at(until, progress.wait_for(|now| *now == Progress::Stored)).await;
        match stored.map(|now| now.map(|_| ())) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unanswered::Failed),
            Err(_) => Err(waiting.why()),
        }
    }

    /// One of the places for those who are held, if there is one left.
    fn hold(&self, waiting: &mut Waiting<'_>) -> Result<SemaphorePermit<'_>, Unanswered> {
        let held = self.held.try_acquire().map_err(|_| Unanswered::Overload)?;
        waiting.held = true;
        Ok(held)
    }

    /// Gives the push to the spool. From then on it is in the writer's hands, whoever waits or leaves.
    fn hand_over(self: &Arc<Self>, push: Push) {
        let row = push.row.clone();
        let store = Arc::clone(self);
        let done: Then = Box::new(move |appended| {
            if let Some(push) = store.stored(push, &appended) {
                store.spawn(Arc::clone(&store).keep(push));
            }
        });
        if let Err(done) = self.spool.hand_over(Queue::Inbound, row.clone(), None, done) {
            // Many others wait: so does this one.
            let spool = Arc::clone(&self.spool);
            self.spawn(async move { done(spool.append(Queue::Inbound, row, None).await) });
        }
    }

    /// Tells what became of an attempt to store the push, and gives it back if it is to be tried again.
    fn stored(&self, push: Push, appended: &Result<u64, AppendError>) -> Option<Push> {
        match appended {
            Ok(seq) => {
                self.counters.pushes_stored.add();
                if let (Some(repeats), Some(ticket)) = (&self.repeats, push.ticket) {
                    repeats.stored(ticket, *seq);
                }
                let _ = self.stored.send(push.tell);
                None
            }
            Err(AppendError::Full) => Some(push.refused(Unanswered::Full)),
            Err(AppendError::Spool(SpoolError::Unwritable(_))) => Some(push.refused(Unanswered::Failed)),
            // The process is about to stop; nothing may be answered any more.
            Err(AppendError::Spool(SpoolError::Failed(_))) => None,
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
            let appended = self.spool.append(Queue::Inbound, push.row.clone(), None).await;
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

/// Tells those who wait that their pushes are stored. A commit brings many: told by the store's thread, each would wake the
/// runtime's on its own.
async fn tell_stored(mut stored: mpsc::UnboundedReceiver<watch::Sender<Progress>>, fault: CancellationToken) {
    let fault = fault.drop_guard();
    let mut waiting = Vec::new();
    while stored.recv_many(&mut waiting, HELD_AT_MOST).await > 0 {
        for tell in waiting.drain(..) {
            let _ = tell.send(Progress::Stored);
        }
    }
    fault.disarm();
}

/// A try that waits for its push to be durable.
struct Taken {
    ticket: Option<Ticket>,
    progress: watch::Receiver<Progress>,
    repeat: bool,
}

/// A try that may have to wait. Dropped while it is held, its sender has left without an answer.
struct Waiting<'a> {
    store: &'a Store,
    kind: Option<Kind>,
    /// Of storing it; none while it waits for room in memory.
    progress: Option<watch::Receiver<Progress>>,
    held: bool,
}

impl Waiting<'_> {
    /// Its sender is told now, or never.
    fn over<T>(mut self, outcome: Result<T, Unanswered>) -> Result<T, Unanswered> {
        self.held = false;
        outcome.map_err(|why| self.store.unanswered(self.kind, why))
    }

    fn why(&self) -> Unanswered {
        match self.progress.as_ref().map(|progress| *progress.borrow()) {
            None => Unanswered::Overload,
            Some(Progress::Refused(why)) => why,
            Some(Progress::Storing | Progress::Stored) => Unanswered::Slow,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.held {
            self.store.unanswered(self.kind, self.why());
        }
    }
}

/// A push on its way to the disk, and who is to be told.
struct Push {
    row: Bytes,
    ticket: Option<Ticket>,
    tell: watch::Sender<Progress>,
}

impl Push {
    /// Tells those who wait why it is not stored yet.
    fn refused(self, why: Unanswered) -> Self {
        let _ = self.tell.send(Progress::Refused(why));
        self
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving {
    repeats: Option<Arc<Repeats>>,
    ticket: Option<Ticket>,
}

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        if let (Some(ticket), Some(repeats)) = (self.ticket.take(), &self.repeats) {
            repeats.answered(ticket);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let (Some(ticket), Some(repeats)) = (self.ticket, &self.repeats) {
            repeats.not_answered(ticket);
        }
    }
}
