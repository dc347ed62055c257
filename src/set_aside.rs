//! What the broker refuses for good is set aside: kept, counted, and in nobody's way. The link warns of it and tells it in
//! its state.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tracing::error;

use crate::clock;
use crate::counters::Counters;
use crate::local::Publication;
use crate::log::Seldom;
use crate::mqtt::{Completion, Delivery, Publisher, Refusal};
use crate::spool::{Spool, SpoolError};

/// The set-aside store.
#[derive(Clone)]
pub struct SetAside {
    spool: Spool,
    counters: Arc<Counters>,
    not_kept: Arc<Seldom>,
}

impl SetAside {
    /// A store in `spool`.
    #[must_use]
    pub fn new(spool: Spool, counters: Arc<Counters>) -> Self {
        Self { spool, counters, not_kept: Arc::default() }
    }

    /// Keeps a refused publish. True once it is durable; false leaves the caller's own row as the only copy.
    pub async fn keep(&self, refused: &Publication, refusal: &Refusal) -> bool {
        self.counters.publishes_set_aside.add();
        let row = serde_json::json!({
            "at_ms": clock::wall_now_ms(),
            "topic": refused.topic,
            "reason": refusal.reason,
            "payload_base64": STANDARD.encode(&refused.payload),
        });
        match self.spool.set_aside(row.to_string().into_bytes()).await {
            // Full: larger than the whole store, counted and warned of, and there is nowhere to keep it.
            Ok(()) | Err(SpoolError::Full) => true,
            Err(failed) => {
                if self.not_kept.may() {
                    error!(%failed, "could not set a refused publish aside; it is tried again after a restart");
                }
                false
            }
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

/// What became of a group of publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Each was acknowledged by the broker, or refused and set aside.
    All,
    /// One was refused and could not be set aside.
    NotKept,
    /// The link stopped first.
    Stopped,
}

/// Publishes that the link has taken, with what will tell their fate.
pub type Sent = Vec<(Publication, Completion)>;

/// Hands a group without deadlines to the link: in the order of the calls, if the next one waits for this one.
///
/// Cancel-safe: what was not handed over is dropped.
pub async fn hand_over(publisher: &Publisher, publications: Vec<Publication>) -> Sent {
    let mut sent = Vec::with_capacity(publications.len());
    for publication in publications {
        let completion = publisher.publish(publication.clone()).await;
        sent.push((publication, completion));
    }
    sent
}

/// Waits for the fate of each.
pub async fn settle(set_aside: &SetAside, sent: Sent) -> Settled {
    let mut settled = Settled::All;
    for (publication, completion) in sent {
        match completion.await {
            Delivery::Acked { .. } | Delivery::Expired => {}
            Delivery::Refused(refusal) => {
                if !set_aside.keep(&publication, &refusal).await {
                    settled = Settled::NotKept;
                }
            }
            Delivery::Closed => return Settled::Stopped,
        }
    }
    settled
}
