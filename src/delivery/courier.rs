//! Publishes the rows of one queue: takes them from the spool, sends them when their lanes allow it, and completes them in
//! order or sets them aside. Each direction has one courier.

use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::lanes::{Lanes, Memo, Outcome, Patience, Ticket, Verdict};
use super::refused::BusyBoard;
use super::{Part, Reply, Settled, hand_over, settle};
use crate::delivery::refused::{Kept, SetAside};
use crate::mqtt::{ForNow, Publisher, Refusal};
use crate::observe::log::clipped;
use crate::os::clock;
use crate::store::{Queue, Row as Stored, SpoolError, Store};

/// The most rows that may wait in memory, as numbers only, and the most lanes that may be held up: some megabytes in all. If
/// there are more, the broker takes next to nothing, and further rows stay unread in the spool.
const WAITING: usize = 250_000;
const HELD_UP: usize = 10_000;
/// The most waiting rows to send in one go, before new ones have a turn.
const TURN: usize = 32;
/// How long a stopping loop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(3);

/// The direction whose rows a courier publishes.
pub trait Owner: Send + Sync + 'static {
    /// The queue of the rows.
    const QUEUE: Queue;
    /// What names a lane.
    type Lane: Eq + Hash + Clone + Send + Sync;
    /// A decoded row.
    type Row: Send;
    /// What is remembered of a row until it is sent again.
    type Memo: Memo + Send;
    /// What is remembered of a row whose outcome is known, until all rows before it in its lane are completed.
    type Done: Send;

    /// Decodes a row. If it cannot be read, logs that and returns none: the row stays in the spool.
    fn decode(&self, row: &Stored) -> Option<Self::Row>;
    /// The row's lane.
    fn lane(row: &Self::Row) -> Self::Lane;
    /// The row's outcome is known. `set_aside`: the broker refused one of its own publishes for good.
    fn done(&self, row: Self::Row, set_aside: bool) -> Self::Done;
    /// What is answered when it is done with, beside what its publishes bring.
    #[must_use]
    fn replies(_: &mut Self::Row) -> Vec<Reply> {
        Vec::new()
    }
    /// Makes an answer durable; false if the store has failed.
    fn answer(&self, _: Reply) -> BoxFuture<'_, bool> {
        ready(true).boxed()
    }
    /// The row is about to be completed.
    fn completed(&self, seq: u64, done: Self::Done);
    /// The row is no longer there, or cannot be read any more: it is never completed.
    fn lost(&self, _seq: u64) {}
    /// The row by which a message comes back later, of which these parts were refused for good.
    fn again(&self, stored: &[u8], refused: &[&Part]) -> Option<Vec<u8>>;

    /// The spool that holds them.
    fn spool(&self) -> &Arc<dyn Store>;
    /// Publishes them.
    fn publisher(&self) -> &Publisher;
    /// Keeps what is refused for good.
    fn set_aside(&self) -> &SetAside;
    /// Shows what is refused for now.
    fn busy(&self) -> &BusyBoard;
}

/// A row whose outcome is known.
struct Ended<O: Owner> {
    ticket: Ticket<O::Lane>,
    row: O::Row,
    size: usize,
    settled: Settled,
}

struct Done<D> {
    row: D,
    refused: Vec<(Part, Refusal)>,
    replies: Vec<Reply>,
}

/// The rows that were taken from the spool and are not completed yet.
pub struct Courier<O: Owner> {
    owner: Arc<O>,
    lanes: Lanes<O::Lane, O::Memo, Done<O::Done>>,
    under_way: FuturesUnordered<BoxFuture<'static, Ended<O>>>,
    /// Publishes that are being set aside, and answers that are being stored; each resolves to its bytes.
    keeping: FuturesUnordered<BoxFuture<'static, usize>>,
    /// Ends when the last row that has answers has stored them.
    answered: oneshot::Receiver<()>,
    /// The bytes of rows under way, and of publishes that are being set aside.
    bytes: usize,
    most_rows: usize,
    most_bytes: usize,
}

impl<O: Owner> Courier<O> {
    /// An idle courier. At most `most_rows` rows and `most_bytes` bytes are under way at once; one row always fits.
    #[must_use]
    pub fn new(owner: Arc<O>, patience: Patience, most_rows: usize, most_bytes: usize) -> Self {
        let (under_way, keeping) = (FuturesUnordered::new(), FuturesUnordered::new());
        // Nothing is answered yet: its other end is gone.
        let (_, answered) = oneshot::channel();
        Self { owner, lanes: Lanes::new(patience), under_way, keeping, answered, bytes: 0, most_rows, most_bytes }
    }

    /// How many more rows may be sent.
    fn places(&self) -> usize {
        let taken = self.lanes.under_way() + self.keeping.len();
        if self.bytes < self.most_bytes { self.most_rows.saturating_sub(taken) } else { 0 }
    }

    /// How many more rows may be taken from the spool.
    #[must_use]
    pub fn room(&self) -> usize {
        let held_up = self.lanes.held_up();
        if held_up.rows < WAITING && held_up.lanes < HELD_UP { self.places() } else { 0 }
    }

    /// When the next lane that is held up may be tried again.
    #[must_use]
    pub fn next_change(&self) -> Option<Duration> {
        self.lanes.next_change().filter(|_| self.places() > 0)
    }

    /// Takes a row that was read from the spool: sends the parts that `render` makes of it, or lets it wait in its lane.
    /// Returns false if `stop` came first.
    pub async fn take(
        &mut self,
        stored: Stored,
        render: impl FnOnce(&mut O::Row, u64, &mut O::Memo) -> Vec<Part> + Send,
        stop: &CancellationToken,
    ) -> bool {
        let Some(row) = self.owner.decode(&stored) else { return true };
        match self.lanes.arrive(&O::lane(&row), stored.seq) {
            Some(ticket) => self.send(ticket, row, stored.data.len(), render, stop).await,
            None => true,
        }
    }

    /// Sends some of the waiting rows that may be sent now. Returns true if there were any.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn go_on(
        &mut self,
        mut render: impl FnMut(&mut O::Row, u64, &mut O::Memo) -> Vec<Part> + Send,
        stop: &CancellationToken,
    ) -> Result<bool, SpoolError> {
        for number in 0..TURN {
            if self.places() == 0 {
                return Ok(number > 0);
            }
            let Some(ticket) = self.lanes.next(clock::boot_now()) else { return Ok(number > 0) };
            let stored = self.owner.spool().read(O::QUEUE, ticket.seq).await?;
            let row = stored.and_then(|stored| Some((self.owner.decode(&stored)?, stored.data.len())));
            let Some((row, size)) = row else {
                // It was damaged meanwhile; the spool has logged that.
                self.lanes.lost(&ticket);
                self.owner.lost(ticket.seq);
                continue;
            };
            if !self.send(ticket, row, size, &mut render, stop).await {
                break;
            }
        }
        Ok(true)
    }

    /// Hands one row's parts to the link. Returns false if `stop` came first.
    async fn send(
        &mut self,
        ticket: Ticket<O::Lane>,
        mut row: O::Row,
        size: usize,
        render: impl FnOnce(&mut O::Row, u64, &mut O::Memo) -> Vec<Part> + Send,
        stop: &CancellationToken,
    ) -> bool {
        let owner = Arc::clone(&self.owner);
        let Some(memo) = self.lanes.memo(&ticket) else { return true };
        let parts = render(&mut row, ticket.seq, memo);
        self.bytes += size;
        let handling = ticket.handling.clone();
        let mut giving = pin!(hand_over(owner.publisher(), parts, &handling));
        // Outcomes of other rows are handled while this one waits for the link; usually it need not wait. Cancel-safe: `giving`
        // is borrowed, and `stop` drops it only between two publishes; what was not handed over stays in the spool.
        let sent = loop {
            tokio::select! {
                biased;
                sent = &mut giving => break sent,
                () = self.settled() => {}
                () = stop.cancelled() => return false,
            }
        };
        let settled = async move {
            let settled = settle(sent, &ticket.handling).await;
            Ended { ticket, row, size, settled }
        };
        self.under_way.push(settled.boxed());
        true
    }

    /// Handles the next outcome; waits while there is none.
    ///
    /// Cancel-safe.
    pub async fn settled(&mut self) {
        // Cancel-safe: both arms take one finished future out of a set.
        tokio::select! {
            Some(ended) = self.under_way.next() => self.ended(ended),
            Some(bytes) = self.keeping.next() => self.bytes -= bytes,
            else => std::future::pending().await,
        }
    }

    /// Handles all outcomes that are known already.
    pub fn collect(&mut self) {
        while let Some(Some(ended)) = self.under_way.next().now_or_never() {
            self.ended(ended);
        }
        while let Some(Some(bytes)) = self.keeping.next().now_or_never() {
            self.bytes -= bytes;
        }
    }

    /// Waits briefly for what is under way.
    pub async fn drain(&mut self) {
        let all = async {
            while !self.under_way.is_empty() || !self.keeping.is_empty() {
                self.settled().await;
            }
        };
        let _ = timeout(DRAIN, all).await;
    }

    fn ended(&mut self, Ended { ticket, row, size, settled }: Ended<O>) {
        self.bytes -= size;
        let now = clock::boot_now();
        match settled {
            Settled::All { refused, acked, replies } => {
                let done = self.done(row, refused, replies);
                self.lanes.settled(&ticket, Outcome::Done { done, acked }, now);
            }
            Settled::Again { taken, late } => {
                self.lanes.settled(&ticket, Outcome::Again { taken, late }, now);
            }
            Settled::ForNow { taken, left, why } => {
                self.owner.busy().refused(&why);
                // If it is condemned, its lane forgets it and what the broker took of it.
                let replies = taken.iter().filter_map(|part| part.reply.as_deref().cloned()).collect();
                let outcome = Outcome::ForNow { taken, why: why.clone() };
                if self.lanes.settled(&ticket, outcome, now) == Verdict::Condemned {
                    let done = self.done(row, condemned(left, &why), replies);
                    self.complete(ticket.seq, done);
                }
            }
            Settled::Stopped => return,
        }
        while let Some((seq, done)) = self.lanes.finished() {
            self.complete(seq, done);
        }
        self.owner.busy().show(self.lanes.held_up());
    }

    fn done(&self, mut row: O::Row, refused: Vec<(Part, Refusal)>, mut replies: Vec<Reply>) -> Done<O::Done> {
        // A refused publish of a route is counted as the route's failure.
        let set_aside = refused.iter().any(|(part, _)| part.route.is_none());
        replies.extend(O::replies(&mut row));
        Done { row: self.owner.done(row, set_aside), refused, replies }
    }

    /// Completes a row; all rows before it in its lane are completed. Its answers are made durable first: a crash in between
    /// gives a copy, and loses nothing. Answers are stored in the order of the rows, or they would arrive in another.
    fn complete(&mut self, seq: u64, Done { row, refused, replies }: Done<O::Done>) {
        self.owner.completed(seq, row);
        if refused.is_empty() && replies.is_empty() {
            return self.owner.spool().complete(O::QUEUE, seq);
        }
        let bytes = refused.iter().map(|(part, _)| part.publication.payload.len()).sum();
        self.bytes += bytes;
        let owner = Arc::clone(&self.owner);
        let turn = (!replies.is_empty()).then(|| {
            let (done, answered) = oneshot::channel();
            (std::mem::replace(&mut self.answered, answered), done)
        });
        let keeping = async move {
            for route in refused.iter().filter_map(|(part, _)| part.route.as_ref()) {
                route.counters.failed.add();
            }
            let mut kept = refused.is_empty() || keep(&*owner, seq, &refused).await;
            let turn = match turn {
                // Its sender is dropped, and sends nothing.
                Some((before, done)) => Some((before.await.err(), done)),
                None => None,
            };
            for reply in replies {
                kept &= owner.answer(reply).await;
            }
            drop(turn);
            if kept {
                owner.spool().complete(O::QUEUE, seq);
            }
            bytes
        };
        self.keeping.push(keeping.boxed());
    }
}

/// Sets a message aside. Its row is read once more: what is under way carries no copy of it.
async fn keep<O: Owner>(owner: &O, seq: u64, refused: &[(Part, Refusal)]) -> bool {
    // An error: the bridge stops, and the row stays.
    let Ok(stored) = owner.spool().read(O::QUEUE, seq).await else { return false };
    let parts: Vec<&Part> = refused.iter().map(|(part, _)| part).collect();
    let row = stored.and_then(|stored| owner.again(&stored.data, &parts)).unwrap_or_default();
    owner.set_aside().keep(&Kept::new(O::QUEUE, refused, row.into())).await
}

/// These parts failed each time they were sent, while others were taken.
fn condemned(left: Vec<Part>, why: &ForNow) -> Vec<(Part, Refusal)> {
    let reason = format!("again and again, while others are taken: {}", why.cause);
    let refusal = Refusal { reason, remedy: "look for the reason in the broker's log".to_owned() };
    if let Some(Part { publication, .. }) = left.first() {
        warn!(
            topic = clipped(&publication.topic),
            reason = refusal.reason,
            remedy = refusal.remedy,
            "one message fails again and again while others are accepted: it is set aside"
        );
    }
    left.into_iter().map(|part| (part, refusal.clone())).collect()
}

#[cfg(test)]
mod tests;
