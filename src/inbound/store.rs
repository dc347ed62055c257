//! Makes a push durable, once, however often iLink sends it.
//!
//! iLink sends a push again only if it gets *no answer* (manual §2.2); each sending is a *try*. While a push cannot be stored
//! (the spool is full, the disk is slow), its tries are *held*: they wait without an answer, and the storing is tried again
//! until the last of them has left. Storing does not depend on a connection: what is on its way to the disk goes on if the peer
//! leaves. `Room` bounds the memory of all pushes, also of those whose peers have left.

mod keeping;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::due::Due;
use super::hands::{Hand, Hands};
use super::repeats::{self, Claim, Progress, Repeats};
use super::room::{Held, NewRow, Place, Room};
use crate::observe::counters::{Counters, PushOutcome, Unanswered};
use crate::observe::log::Seldom;
use crate::protocol::Kind;
use crate::store::{Append, Medium, Queue, Tokens};

/// How long a try is held before its connection is cut. iLink itself leaves after 5 s.
const HOLD: Duration = Duration::from_secs(6);
/// A try whose commit takes longer than this counts as held.
const SLOW: Duration = Duration::from_secs(1);
/// The wait between two attempts to store a held push.
const RETRY: Duration = Duration::from_millis(200);
/// The most tries that are held at once; each keeps a connection open.
const HELD_AT_MOST: usize = 256;

/// How a push that is sent again is told from a new one.
#[derive(Clone)]
pub enum Recognition {
    /// Not at all: every push is new (`callback.repeats = "off"`).
    Off,
    /// By the memory of the only bridge.
    Memory(Arc<Repeats>),
    /// By tokens, where several bridges take pushes.
    Tokens(Arc<dyn Tokens>),
}

/// A stored push that is to be answered.
pub enum Ticket {
    /// By which the memory knows it.
    Remembered(Arc<Repeats>, repeats::Ticket),
    /// In a cluster.
    InHand(Arc<Hand>),
}

/// Stores pushes.
pub struct Store {
    spool: Arc<dyn Append>,
    recognition: Recognition,
    hands: Arc<Hands>,
    counters: Arc<Counters>,
    room: Room,
    held: Semaphore,
    tasks: TaskTracker,
    /// Cancelled if one of the tasks panics.
    fault: CancellationToken,
    runtime: Handle,
    stored: mpsc::UnboundedSender<watch::Sender<Progress>>,
    told: Seldom,
}

impl Store {
    /// A store into `spool`, for bodies of at most `max_body` bytes. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(
        spool: Arc<dyn Append>,
        recognition: Recognition,
        max_body: usize,
        counters: Arc<Counters>,
        tasks: TaskTracker,
    ) -> Self {
        let (room, held) = (Room::new(max_body), Semaphore::new(HELD_AT_MOST));
        let (fault, runtime, told) = (CancellationToken::new(), Handle::current(), Seldom::default());
        let ((stored, telling), hands) = (mpsc::unbounded_channel(), Arc::default());
        runtime.spawn(tell_stored(telling, Arc::clone(&spool), fault.clone()));
        Self { spool, recognition, hands, counters, room, held, tasks, fault, runtime, stored, told }
    }

    /// Cancelled if one of the store's own tasks panics.
    #[must_use]
    pub fn fault(&self) -> CancellationToken {
        self.fault.clone()
    }

    /// Spawns a task; may be called from any thread.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let fault = self.fault.clone().drop_guard();
        self.runtime.spawn(self.tasks.track_future(async move {
            task.await;
            fault.disarm();
        }));
    }

    /// Waits until there is room in memory for a body of so many bytes. The body is not read before that.
    ///
    /// # Errors
    /// If there was no room within 6 s, or too many tries are held already.
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

    /// Replaces the body by other bytes of the same push.
    ///
    /// # Errors
    /// If they are larger, and there is no room for them.
    pub(super) fn exchanged(&self, body: Held, bytes: Bytes) -> Result<Held, Unanswered> {
        body.exchanged(bytes, &self.room).ok_or_else(|| self.unanswered(None, Unanswered::Overload))
    }

    /// Waits until the push, which is of this kind, is durable. Returns the ticket for [`Store::leaving`].
    ///
    /// # Errors
    /// If it could not be stored within 6 s, or too many tries are held already.
    pub async fn store(self: &Arc<Self>, body: Held, kind: Kind) -> Result<Option<Ticket>, Unanswered> {
        let until = Instant::now() + HOLD;
        let Taken { ticket, progress, mut repeat } = self.accept(body);
        let mut waiting = Waiting { store: self, kind: Some(kind), progress: Some(progress.clone()), held: false };
        let stored = self.wait(progress, until, &mut waiting).await;
        waiting.over(stored)?;
        if let Some(Ticket::InHand(hand)) = &ticket {
            repeat |= hand.due.get().is_some_and(|due| due.is_repeat);
        }
        self.counters.series.push(kind, if repeat { PushOutcome::Repeated } else { PushOutcome::Stored });
        Ok(ticket)
    }

    /// Checks that a stored push may be answered: not after anything in the spool has failed.
    ///
    /// # Errors
    /// If it must not be answered.
    pub(super) fn may_answer(&self, kind: Kind) -> Result<(), Unanswered> {
        if self.spool.has_failed() { Err(self.unanswered(Some(kind), Unanswered::Failed)) } else { Ok(()) }
    }

    /// Counts a try that gets no answer, and warns.
    fn unanswered(&self, kind: Option<Kind>, why: Unanswered) -> Unanswered {
        self.counters.unanswered(why);
        if let Some(kind) = kind {
            self.counters.series.push(kind, PushOutcome::Unstored);
        }
        if self.told.may() {
            let cause = unstored(why, self.spool.medium());
            warn!(cause, "a push is left unanswered, so that iLink sends it again");
        }
        why
    }

    /// An answer to a try of this push is about to leave. [`Leaving::left`] tells that it did.
    #[must_use]
    pub fn leaving(ticket: Ticket) -> Leaving {
        match &ticket {
            Ticket::Remembered(repeats, ticket) => repeats.leaving(*ticket),
            Ticket::InHand(hand) => hand.leaving(),
        }
        Leaving(Some(ticket))
    }

    fn accept(self: &Arc<Self>, body: Held) -> Taken {
        let digest = || Sha256::digest(body.bytes()).into();
        match &self.recognition {
            Recognition::Off => self.accept_new(body, None, watch::channel(Progress::Storing).0),
            Recognition::Memory(repeats) => {
                let remembered = |ticket| Some(Ticket::Remembered(Arc::clone(repeats), ticket));
                match repeats.claim(digest()) {
                    Claim::First(ticket, tell) => {
                        let taken = self.accept_new(body, Some(ticket), tell);
                        Taken { ticket: remembered(ticket), ..taken }
                    }
                    Claim::Repeat(ticket, progress) => {
                        self.counters.pushes_repeated.add();
                        Taken { ticket: remembered(ticket), progress, repeat: true }
                    }
                }
            }
            Recognition::Tokens(tokens) => {
                let (hand, progress, is_new) = self.hands.take(digest(), body.since());
                if is_new {
                    let push = Push { row: body.into_row(), ticket: None, tell: hand.tell.clone() };
                    self.spawn(Arc::clone(self).keep_once(Arc::clone(tokens), push, Arc::clone(&hand)));
                } else {
                    self.counters.pushes_repeated.add();
                }
                Taken { ticket: Some(Ticket::InHand(hand)), progress, repeat: !is_new }
            }
        }
    }

    fn accept_new(
        self: &Arc<Self>,
        body: Held,
        ticket: Option<repeats::Ticket>,
        tell: watch::Sender<Progress>,
    ) -> Taken {
        let progress = tell.subscribe();
        self.hand_over(Push { row: body.into_row(), ticket, tell });
        Taken { ticket: None, progress, repeat: false }
    }

    /// Waits until the push is stored. A try that waits for more than a second, or whose push the spool refused, is held.
    async fn wait(
        &self,
        mut progress: watch::Receiver<Progress>,
        until: Instant,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), Unanswered> {
        let begun = timeout(SLOW, progress.wait_for(|now| *now != Progress::Storing)).await;
        match begun.map(|now| now.map(|now| *now)) {
            Ok(Ok(Progress::Stored)) => return Ok(()),
            Ok(Ok(Progress::Failed) | Err(_)) => return Err(Unanswered::Failed),
            Ok(Ok(_)) | Err(_) => {}
        }
        let _held = self.hold(waiting)?;
        let is_over = |now: &Progress| matches!(now, Progress::Stored | Progress::Failed);
        let stored = timeout_at(until, progress.wait_for(is_over)).await;
        match stored.map(|now| now.map(|now| *now)) {
            Ok(Ok(Progress::Stored)) => Ok(()),
            Ok(_) => Err(Unanswered::Failed),
            Err(_) => Err(waiting.why()),
        }
    }

    /// A permit to hold this try, if fewer than the most are held.
    fn hold(&self, waiting: &mut Waiting<'_>) -> Result<SemaphorePermit<'_>, Unanswered> {
        let held = self.held.try_acquire().map_err(|_| Unanswered::Overload)?;
        waiting.held = true;
        Ok(held)
    }
}

/// An answer on its way out. Dropped, it did not leave.
pub struct Leaving(Option<Ticket>);

impl Leaving {
    /// It was handed to the socket whole: the same bytes are a new message from here on.
    pub fn left(mut self) {
        match self.0.take() {
            Some(Ticket::Remembered(repeats, ticket)) => repeats.answered(ticket),
            Some(Ticket::InHand(hand)) => hand.due.get().into_iter().for_each(Due::left),
            None => {}
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Ticket::Remembered(repeats, ticket)) => repeats.not_answered(ticket),
            Some(Ticket::InHand(hand)) => hand.stayed(),
            None => {}
        }
    }
}

/// Why a push is not stored.
fn unstored(why: Unanswered, medium: Medium) -> &'static str {
    match (medium, why) {
        (Medium::Disk, Unanswered::Full) => "the spool is full: spool.max_bytes",
        (Medium::Disk, Unanswered::Failed) => "the disk refuses to store it",
        (Medium::Disk, Unanswered::Slow) => "the disk takes too long to store it",
        (Medium::Disk, Unanswered::Overload) => "too many others wait for the disk",
        (Medium::Etcd, Unanswered::Full) => {
            "the inbound queue in etcd is full: see why the broker does not take what waits, or raise cluster.max_bytes"
        }
        (Medium::Etcd, Unanswered::Failed) => {
            "etcd does not store it: see `spool` in `ilink2mqtt status` for the cause and what to do"
        }
        (Medium::Etcd, Unanswered::Slow) => {
            "etcd takes too long to store it: more than half of its members must run and reach each other, on disks that are \
             fast enough"
        }
        (Medium::Etcd, Unanswered::Overload) => {
            "too many others wait for etcd: its disks, or the network between its members, are too slow"
        }
    }
}

/// Tells the waiting tries that their pushes are stored, then those who deliver them. One commit stores many pushes: told by the
/// spool's thread, each would wake the runtime's thread separately.
async fn tell_stored(
    mut stored: mpsc::UnboundedReceiver<watch::Sender<Progress>>,
    spool: Arc<dyn Append>,
    fault: CancellationToken,
) {
    let fault = fault.drop_guard();
    let mut waiting = Vec::new();
    while stored.recv_many(&mut waiting, HELD_AT_MOST).await > 0 {
        for tell in waiting.drain(..) {
            let _ = tell.send(Progress::Stored);
        }
        spool.announce(Queue::Inbound);
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
            Some(Progress::Failed) => Unanswered::Failed,
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
    row: NewRow,
    ticket: Option<repeats::Ticket>,
    tell: watch::Sender<Progress>,
}

impl Push {
    /// Tells those who wait why it is not stored yet.
    fn refused(self, why: Unanswered) -> Self {
        let _ = self.tell.send(Progress::Refused(why));
        self
    }

    /// Its time is over; what refused it before that is the cause, if something did.
    fn late(self) -> Self {
        self.tell.send_if_modified(|progress| {
            let is_slow = *progress == Progress::Storing;
            if is_slow {
                *progress = Progress::Refused(Unanswered::Slow);
            }
            is_slow
        });
        self
    }
}
