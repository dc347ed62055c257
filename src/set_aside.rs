//! What the broker refuses for good is set aside: kept, counted, warned of once, and in nobody's way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tracing::{error, warn};

use crate::clock;
use crate::counters::Counters;
use crate::local::Publication;
use crate::mqtt::{Delivery, Publisher, Refusal};
use crate::spool::{Spool, SpoolError};

/// Characters of a refused topic that are logged.
const TOPIC_SHOWN: usize = 200;

/// The set-aside store.
#[derive(Clone)]
pub struct SetAside {
    spool: Spool,
    counters: Arc<Counters>,
    warned: Arc<Mutex<HashSet<(String, String)>>>,
}

impl SetAside {
    /// A store in `spool`.
    #[must_use]
    pub fn new(spool: Spool, counters: Arc<Counters>) -> Self {
        Self { spool, counters, warned: Arc::default() }
    }

    /// Keeps a refused publish. True once it is durable; false leaves the caller's own row as the only copy.
    pub async fn keep(&self, refused: &Publication, refusal: &Refusal) -> bool {
        self.counters.publishes_set_aside.add();
        self.warn_once(refused, refusal);
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
                error!(%failed, topic = refused.topic, "could not set a refused publish aside; it is tried again after a restart");
                false
            }
        }
    }

    /// One warning for each reason and kind of topic, the first two levels: a bridge without rights must not fill the log.
    fn warn_once(&self, refused: &Publication, refusal: &Refusal) {
        let kind: String = refused.topic.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let new = {
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            warned.len() < 1000 && warned.insert((refusal.reason.clone(), kind))
        };
        if new {
            // A topic may be refused for its length: 65 KB of it are no line for a log.
            let topic: String = refused.topic.chars().take(TOPIC_SHOWN).collect();
            warn!(
                topic,
                reason = refusal.reason,
                remedy = refusal.remedy,
                "the broker refused a publish for good; it is set aside (further ones like it are only counted)"
            );
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

/// Publishes a group without deadlines and waits for the fate of each.
pub async fn settle(publisher: &Publisher, set_aside: &SetAside, publications: Vec<Publication>) -> Settled {
    let mut sent = Vec::with_capacity(publications.len());
    for publication in publications {
        let completion = publisher.publish(publication.clone()).await;
        sent.push((publication, completion));
    }
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
