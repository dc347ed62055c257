//! What the broker refuses for good is set aside: kept, counted, and in nobody's way. The link warns of it and tells it in
//! its state.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tracing::warn;

use crate::local::Publication;
use crate::mqtt::Refusal;
use crate::observe::counters::Counters;
use crate::observe::log::Seldom;
use crate::os::clock;
use crate::store::{Queue, SpoolError, Store};

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
        let kept = matches!(stored, Ok(_) | Err(SpoolError::Full));
        if kept {
            self.counters.publishes_set_aside.add();
        }
        kept
    }

    fn tell(&self, refused: &SpoolError) {
        if matches!(refused, SpoolError::Unwritable(_)) && self.not_kept.may() {
            warn!(%refused, "a refused publish cannot be set aside now; what came with it waits in the spool meanwhile");
        }
    }
}

/// How long ago a row of the store was set aside.
#[must_use]
pub fn age(row: &[u8]) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct SetAsideAt {
        at_ms: u64,
    }
    let SetAsideAt { at_ms } = serde_json::from_slice(row).ok()?;
    Some(Duration::from_millis(clock::wall_now_ms().saturating_sub(at_ms)))
}
