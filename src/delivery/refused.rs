//! What the broker refuses. Refusals for now are shown in the status and told in the log. What is refused for good is *set
//! aside*: stored apart and counted, so that it holds nothing up; the link warns of it and shows it in its state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use super::lanes::HeldUp;
use super::{Part, codec};
use crate::mqtt::{ForNow, NotNow, Refusal};
use crate::observe::counters::Counters;
use crate::observe::log::Seldom;
use crate::os::clock;
use crate::store::{AppendError, Queue, SpoolError, Store, Transient as _};

/// Messages that wait because the broker refused one of them for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Since when.
    pub since: SystemTime,
    /// The last cause.
    pub cause: String,
    /// The same for programs.
    pub how: NotNow,
    /// How much waits.
    pub held_up: HeldUp,
}

/// By the kind of messages; empty when all is well.
pub type AllBusy = BTreeMap<&'static str, Busy>;

/// Shows the refusals for now of one kind of messages.
#[derive(Debug)]
pub struct BusyBoard {
    what: &'static str,
    all: Arc<watch::Sender<AllBusy>>,
    /// Whether this kind is in `all`: can be read without a lock.
    busy: AtomicBool,
    said: Seldom,
}

impl BusyBoard {
    /// A board for the messages named `what`, as people and programs see it.
    #[must_use]
    pub fn new(what: &'static str, all: Arc<watch::Sender<AllBusy>>) -> Self {
        Self { what, all, busy: AtomicBool::new(false), said: Seldom::default() }
    }

    /// Notes a refusal for now.
    pub fn refused(&self, why: &ForNow) {
        let ForNow { cause, how } = why;
        let mut begins = false;
        self.all.send_if_modified(|all| {
            let busy = all.entry(self.what).or_insert_with(|| {
                begins = true;
                let held_up = HeldUp { lanes: 1, rows: 1 };
                Busy { since: SystemTime::now(), cause: String::new(), how: *how, held_up }
            });
            let news = busy.cause != *cause;
            (busy.cause, busy.how) = (cause.clone(), *how);
            news
        });
        self.busy.store(true, Ordering::Relaxed);
        if begins && self.said.may() {
            warn!(
                what = self.what,
                cause,
                "the broker does not take a message for now: it is tried again, and what must come after it waits (logged at most once a minute)"
            );
        }
    }

    /// Shows how much waits now.
    pub fn show(&self, held_up: HeldUp) {
        if !self.busy.load(Ordering::Relaxed) {
            return;
        }
        let over = held_up == HeldUp::default();
        // A change of the numbers alone is no news.
        self.all.send_if_modified(|all| {
            if over {
                all.remove(self.what);
            } else if let Some(busy) = all.get_mut(self.what) {
                busy.held_up = held_up;
            }
            over
        });
        if over {
            self.busy.store(false, Ordering::Relaxed);
            info!(what = self.what, "the broker takes everything again");
        }
    }
}

/// A message of which the broker refused something for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When: milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What was refused.
    pub refused: Vec<RefusedPublish>,
    /// The queue that it goes back to.
    pub queue: Queue,
    /// The row by which it goes back. Empty if the disk has damaged the message meanwhile.
    #[serde(with = "codec::whole")]
    pub row: Bytes,
}

/// One publish that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPublish {
    /// Where to.
    pub topic: String,
    /// The size of its payload.
    pub bytes: u64,
    /// Why, and what to do about it.
    pub why: String,
}

impl Kept {
    /// What is set aside now.
    #[must_use]
    pub fn new(queue: Queue, refused: &[(Part, Refusal)], row: Bytes) -> Self {
        let publish = |(Part { publication, .. }, Refusal { reason, remedy }): &(Part, Refusal)| RefusedPublish {
            topic: publication.topic.clone(),
            bytes: publication.payload.len() as u64,
            why: format!("{reason}; {remedy}"),
        };
        Self { at_ms: clock::wall_now_ms(), refused: refused.iter().map(publish).collect(), queue, row }
    }

    /// What a row of the set-aside store says.
    ///
    /// # Errors
    /// If another version of the bridge wrote it.
    pub fn decode(row: &[u8]) -> Result<Self, postcard::Error> {
        codec::decode(row)
    }

    /// How long ago it was set aside.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(clock::wall_now_ms().saturating_sub(self.at_ms))
    }
}

/// The set-aside store.
#[derive(Clone)]
pub struct SetAside {
    spool: Arc<dyn Store>,
    counters: Arc<Counters>,
    not_kept: Arc<Seldom>,
    once: bool,
}

impl SetAside {
    /// A store in `spool`.
    #[must_use]
    pub fn new(spool: Arc<dyn Store>, counters: Arc<Counters>) -> Self {
        Self { spool, counters, not_kept: Arc::default(), once: false }
    }

    /// The same store, for callers without a row of their own in the spool: if the disk refuses a publish, it is not tried
    /// again.
    #[must_use]
    pub fn trying_once(&self) -> Self {
        Self { once: true, ..self.clone() }
    }

    /// Keeps a message, for as long as it takes while the disk refuses it. True once it is durable; false if the bridge stops
    /// first: then the caller's own row is the only copy.
    pub async fn keep(&self, kept: &Kept) -> bool {
        let row = Bytes::from(codec::encode(kept));
        let append = || self.spool.append(Queue::SetAside, row.clone(), None);
        let stored = if self.once {
            append().await.inspect_err(|error| self.tell(error))
        } else {
            self.spool.patience().retry(append, |error| self.tell(error)).await
        };
        // Full means that it is larger than the whole store. It was counted and warned of, and cannot be kept.
        let is_kept = matches!(stored, Ok(_) | Err(AppendError::Full | AppendError::Spool(SpoolError::TooLarge(_))));
        for _ in kept.refused.iter().filter(|_| is_kept) {
            self.counters.publishes_set_aside.add();
        }
        is_kept
    }

    fn tell(&self, refused: &AppendError) {
        if refused.is_transient() && self.not_kept.may() {
            warn!(%refused, "a refused publish cannot be set aside now; what came with it waits in the spool meanwhile");
        }
    }
}
