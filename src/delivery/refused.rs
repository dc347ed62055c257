//! What the broker refuses. What it does not take for now is told to those who look and to the log. What it refuses for good is
//! set aside: kept, counted, and in nobody's way; the link warns of it and tells it in its state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::watch;
use tracing::{info, warn};

use super::lanes::HeldUp;
use crate::local::Publication;
use crate::mqtt::{ForNow, NotNow, Refusal};
use crate::observe::counters::Counters;
use crate::observe::log::Seldom;
use crate::os::clock;
use crate::store::{AppendError, Queue, Store, Transient as _};

/// Messages wait because the broker refused one before them for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Since when.
    pub since: SystemTime,
    /// What it said last.
    pub cause: String,
    /// The same for programs.
    pub how: NotNow,
    /// What waits.
    pub held_up: HeldUp,
}

/// By whose messages they are; empty when all is well.
pub type AllBusy = BTreeMap<&'static str, Busy>;

/// Tells it of one kind of messages.
#[derive(Debug)]
pub struct BusyBoard {
    what: &'static str,
    all: Arc<watch::Sender<AllBusy>>,
    /// Whether there is anything to tell, without a look at the others'.
    busy: AtomicBool,
    said: Seldom,
}

impl BusyBoard {
    /// A board for `what`, which is a name for people and programs.
    #[must_use]
    pub fn new(what: &'static str, all: Arc<watch::Sender<AllBusy>>) -> Self {
        Self { what, all, busy: AtomicBool::new(false), said: Seldom::default() }
    }

    /// Something was refused for now.
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
                "the broker does not take a message for now: it is tried again, and what must come after it waits (said once a minute at most)"
            );
        }
    }

    /// So much is held up now.
    pub fn show(&self, held_up: HeldUp) {
        if !self.busy.load(Ordering::Relaxed) {
            return;
        }
        let over = held_up == HeldUp::default();
        // How many they are is no news by itself.
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

    /// The same store, for who has no row that waits meanwhile: what the disk refuses is not tried again.
    #[must_use]
    pub fn trying_once(&self) -> Self {
        Self { once: true, ..self.clone() }
    }

    /// Keeps a refused publish, for as long as it takes while the disk refuses it. True once it is durable; false if the bridge
    /// stops first: then the caller's own row is the only copy.
    pub async fn keep(&self, refused: &Publication, refusal: &Refusal) -> bool {
        let row = serde_json::json!({
            "at_ms": clock::wall_now_ms(),
            "topic": refused.topic,
            "reason": refusal.reason,
            "payload_base64": STANDARD.encode(&refused.payload),
        });
        let row = Bytes::from(row.to_string());
        let append = || self.spool.append(Queue::SetAside, row.clone(), None);
        let stored = if self.once {
            append().await.inspect_err(|error| self.tell(error))
        } else {
            self.spool.patience().retry(append, |error| self.tell(error)).await
        };
        // Full: larger than the whole store, counted and warned of, and there is nowhere to keep it.
        let kept = matches!(stored, Ok(_) | Err(AppendError::Full));
        if kept {
            self.counters.publishes_set_aside.add();
        }
        kept
    }

    fn tell(&self, refused: &AppendError) {
        if refused.is_transient() && self.not_kept.may() {
            warn!(%refused, "a refused publish cannot be set aside now; what came with it waits in the spool meanwhile");
        }
    }
}

/// How long ago a row of the store was set aside.
#[must_use]
pub fn set_aside_age(row: &[u8]) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct SetAsideAt {
        at_ms: u64,
    }
    let SetAsideAt { at_ms } = serde_json::from_slice(row).ok()?;
    Some(Duration::from_millis(clock::wall_now_ms().saturating_sub(at_ms)))
}
