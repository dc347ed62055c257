//! The relay loop: reads durable pushes in order, publishes them, and completes each one when all its publishes are
//! acknowledged.
//!
//! ```text
//!  spool ──1 read in order──► 2 lane ──3 render, publish──► link ──4 PUBACK──► lane ──5 complete in order──► spool
//!             ▲                 │                                               │
//!             └──by number── waits ◄── refused for now, too late: from here on again
//! ```
//!
//! Each sender has a lane ([`lanes`](crate::delivery::lanes)). Publishes are handed to the link in the order of the spool, and
//! many are under way at once; the link sends them in that order. If the broker refuses one for now, only that sender's lane
//! waits: the publish is tried again, and then everything behind it is sent, or sent again, so that the last copies arrive in
//! the order of acceptance. If a raw message gets too old while it waits, the row is rendered again, as late, in its place. A
//! row is completed when each of its publishes was acknowledged, or refused for good and set aside, and all rows before it in
//! its lane are completed. Rows that are not completed when the process ends are delivered again by the next run, with the same
//! id.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::pictures::Pictures;
use super::presence::{PresenceBook, Retained};
use super::record::{Accepted, Fate, Record, Row, Seen};
use super::repeats::Repeats;
use crate::delivery::Part;
use crate::delivery::courier::{Courier, Owner};
use crate::delivery::lanes::Patience;
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::delivery::routing::Routing;
use crate::delivery::{Answers, Reply};
use crate::local::{Base, Output};
use crate::mqtt::{LinkState, Publisher};
use crate::observe::activity::Passed;
use crate::observe::counters::Counters;
use crate::observe::progress::Progress;
use crate::os::clock;
use crate::protocol::{Kind, Uid};
use crate::store::{Queue, Row as Stored, SpoolError, Store};

/// The most rows to read from the spool at once, and their bytes: the loop holds them in memory until the link takes them.
const READ_ROWS: usize = 128;
const READ_BYTES: usize = 512 * 1024;
/// The most rows under way, whose publishes are not all acknowledged yet: more than the link's window, so that it stays full.
const UNDER_WAY: usize = 256;
/// The most bytes of rows under way; one row always fits.
const UNDER_WAY_BYTES: usize = 2 * 1024 * 1024;

/// What the loop needs to render a push.
pub struct RelayConfig {
    /// The base topic.
    pub base: Base,
    /// Our own uid: its messages fire no route.
    pub uid: Uid,
    /// Which forms are published: `mqtt.output`.
    pub output: Output,
    /// A raw message older than this is late; none: no limit.
    pub raw_max_age: Option<Duration>,
    /// Whose last picture is kept at the broker.
    pub pictures_of: HashSet<Uid>,
    /// How long to wait after refusals for now.
    pub patience: Patience,
}

/// The settings that can change while the bridge runs.
#[derive(Debug, Clone, Default)]
pub struct RelaySettings {
    /// Senders whose messages are commands; empty means all.
    pub allow_from: HashSet<Uid>,
    /// `ilink.subscribe.presence`.
    pub presence: HashSet<Uid>,
}

/// The loop's surroundings.
pub struct Relay {
    /// How to render.
    pub config: RelayConfig,
    /// The settings that can change.
    pub settings: watch::Receiver<Arc<RelaySettings>>,
    /// The routes in force.
    pub routing: watch::Receiver<Arc<Routing>>,
    /// The spool with the inbound queue.
    pub spool: Arc<dyn Store>,
    /// Is told which rows are delivered.
    pub repeats: Option<Arc<Repeats>>,
    /// Publishes.
    pub publisher: Publisher,
    /// The link's state: nothing is published while it is not connected.
    pub link: watch::Receiver<LinkState>,
    /// Keeps what is refused for good.
    pub set_aside: SetAside,
    /// Shows what is refused for now.
    pub busy: BusyBoard,
    /// Where the answers of routes go.
    pub answers: Option<Arc<dyn Answers>>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Whether the loop is stuck.
    pub progress: Progress,
}

impl Relay {
    /// Runs until `stop`, then waits briefly for what is under way.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SpoolError> {
        let relay = Arc::new(self);
        let (mut settings, mut link) = (relay.settings.clone(), relay.link.clone());
        if let Some(repeats) = &relay.repeats {
            repeats.load().await?;
        }
        let configured = settings.borrow_and_update().presence.clone();
        let book = PresenceBook::open(relay.spool.clone(), configured.clone()).await?;
        let mut pictures = Pictures::open(relay.spool.clone(), &relay.config.pictures_of).await?;
        let mut retained = Retained::new(book, relay.config.base.clone(), relay.publisher.clone());
        let mut appended = relay.spool.appended(Queue::Inbound);
        let mut courier = Courier::new(Arc::clone(&relay), relay.config.patience, UNDER_WAY, UNDER_WAY_BYTES);
        let (mut cursor, mut told) = (0, *appended.borrow());
        retained.configure(configured, *appended.borrow());
        let worked: Result<(), SpoolError> = async {
            while !stop.is_cancelled() {
                relay.progress.beat();
                retained.prune();
                // A row that is not announced yet has a sender who is still to be answered, which goes first.
                if appended.has_changed().is_ok_and(|changed| changed) {
                    told = *appended.borrow_and_update();
                }
                // Nothing is rendered while the link is not connected: whether a message is late is decided when it can be sent.
                let connected = link.borrow().connected;
                let book = &mut retained.book;
                let mut render =
                    |row: &mut Row, seq, seen: &mut Seen| relay.render(row, seq, seen, book, &mut pictures);
                let went_on = connected && courier.go_on(&mut render, &stop).await?;
                let room = if connected { courier.room() } else { 0 };
                let rows = match room {
                    0 => Vec::new(),
                    _ if cursor >= told => Vec::new(),
                    room => relay.spool.read_after(Queue::Inbound, cursor, room.min(READ_ROWS), READ_BYTES).await?,
                };
                relay.progress.rest();
                if rows.is_empty() && !went_on {
                    let wake = courier.next_change().filter(|_| connected);
                    let wake = wake.map(|at| Instant::now() + clock::nap(at, clock::boot_now()));
                    // Cancel-safe: each arm only observes (a state, a number, a token, a timer), or takes a finished future out of
                    // a set.
                    tokio::select! {
                        () = courier.settled() => {}
                        Ok(()) = appended.changed(), if room > 0 => {
                            told = *appended.borrow();
                            after_those_that_are_ready().await;
                        }
                        Ok(()) = settings.changed() => {
                            let configured = settings.borrow_and_update().presence.clone();
                            retained.configure(configured, *appended.borrow());
                        }
                        Ok(()) = link.changed() => {}
                        () = retained.cleared() => {}
                        () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                        () = stop.cancelled() => {}
                    }
                }
                for row in rows {
                    cursor = row.seq;
                    let book = &mut retained.book;
                    let render =
                        |row: &mut Row, seq, seen: &mut Seen| relay.render(row, seq, seen, book, &mut pictures);
                    if !courier.take(row, render, &stop).await {
                        break;
                    }
                }
                courier.collect();
            }
            Ok(())
        }
        .await;
        // What cannot be read for now is given up only at a stop: what is under way still gets its time.
        if let Err(failed @ SpoolError::Failed(_)) = worked {
            return Err(failed);
        }
        courier.drain().await;
        Ok(())
    }
}

/// Lets the tasks run that are ready now: the answers to the pushes of the same commit. As tokio's `yield_now`, but the system is
/// not asked for more of them in between.
async fn after_those_that_are_ready() {
    let mut have_run = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut have_run, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A row whose outcome is known.
pub struct Done {
    /// None if it is no push.
    push: Option<(Kind, Duration, Passed)>,
    set_aside: bool,
}

impl Owner for Relay {
    const QUEUE: Queue = Queue::Inbound;
    type Lane = Option<Uid>;
    type Row = Row;
    type Memo = Seen;
    type Done = Done;

    fn decode(&self, row: &Stored) -> Option<Row> {
        match Row::decode(&row.data) {
            Ok(decoded) => Some(decoded),
            Err(error) => {
                error!(
                    seq = row.seq,
                    error, "a row of the inbound queue cannot be read by this version; it is left alone"
                );
                None
            }
        }
    }

    fn lane(row: &Row) -> Option<Uid> {
        row.sender().cloned()
    }

    fn done(&self, row: Row, set_aside: bool) -> Done {
        let push = match row {
            Row::States(_) | Row::StatesAgain(_) => None,
            Row::Push(mut accepted) => {
                if set_aside {
                    accepted.fate = Fate::SetAside;
                }
                let Accepted { push, at, .. } = &*accepted;
                Some((push.message.kind(), at.age(), self.passed(&accepted)))
            }
        };
        Done { push, set_aside }
    }

    fn replies(row: &mut Row) -> Vec<Reply> {
        match row {
            Row::Push(accepted) => std::mem::take(&mut accepted.replies),
            Row::States(_) | Row::StatesAgain(_) => Vec::new(),
        }
    }

    fn answer(&self, reply: Reply) -> BoxFuture<'_, bool> {
        self.answers.as_ref().map_or_else(|| ready(true).boxed(), |answers| answers.answer(reply))
    }

    fn completed(&self, seq: u64, Done { push, set_aside }: Done) {
        if set_aside {
            self.counters.pushes_set_aside.add_if(push.is_some());
        } else {
            self.counters.pushes_delivered.add();
        }
        if let Some((kind, age, passed)) = push {
            if !set_aside {
                self.counters.series.push_delivered(kind, age);
            }
            self.counters.activity.note(passed);
        }
        if let Some(repeats) = &self.repeats {
            repeats.delivered(seq);
        }
        debug!(seq, set_aside, "a push is done with");
    }

    fn again(&self, stored: &[u8], refused: &[&Part]) -> Option<Vec<u8>> {
        Some(Record::decode(stored).ok()?.again(refused).encode())
    }

    fn spool(&self) -> &Arc<dyn Store> {
        &self.spool
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    fn set_aside(&self) -> &SetAside {
        &self.set_aside
    }

    fn busy(&self) -> &BusyBoard {
        &self.busy
    }
}
