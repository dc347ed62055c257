//! Publishes results and removes them from the spool once the broker has acknowledged every copy.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::record::{Record, StoredResult};
use crate::local::{Base, CommandResult, Publication};
use crate::mqtt::Publisher;
use crate::set_aside::{Sent, SetAside, Settled, hand_over, settle};
use crate::spool::{Queue, Spool, SpoolError};

/// Results being published at once: each holds its row in memory.
const UNDER_WAY: usize = 64;
/// How long a stopping loop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(3);

/// The loop's surroundings.
pub struct Results {
    /// The base topic.
    pub base: Base,
    /// Where results wait.
    pub spool: Spool,
    /// Where they go.
    pub publisher: Publisher,
    /// For what the broker refuses.
    pub set_aside: SetAside,
}

impl Results {
    /// Publishes each row whose number arrives on `ready`, until that closes or `stop`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(self, mut ready: mpsc::UnboundedReceiver<u64>, stop: CancellationToken) -> Result<(), SpoolError> {
        let results = Arc::new(self);
        let mut under_way = FuturesUnordered::new();
        'ready: loop {
            // recv() is cancel-safe; FuturesUnordered keeps what is not finished.
            let seq = tokio::select! {
                () = stop.cancelled() => break,
                Some(()) = under_way.next() => continue,
                seq = ready.recv(), if under_way.len() < UNDER_WAY => seq,
            };
            let Some(seq) = seq else { break };
            let Some(row) = results.spool.read(Queue::Outbound, seq).await? else { continue };
            let Some(publications) = results.publications(seq, &row.data) else { continue };
            // Handed over one after the other: side by side, results of one receiver could overtake each other. Cancel-safe:
            // `handing` is borrowed, and dropped by `stop` only; what was not handed over stays in the spool.
            let mut handing = pin!(hand_over(&results.publisher, publications));
            let sent = loop {
                tokio::select! {
                    sent = &mut handing => break sent,
                    Some(()) = under_way.next() => {}
                    () = stop.cancelled() => break 'ready,
                }
            };
            under_way.push(Arc::clone(&results).complete(seq, sent));
        }
        let _ = timeout(DRAIN, async { while under_way.next().await.is_some() {} }).await;
        Ok(())
    }

    /// What a row is to be published as; none if it is no result that can be read.
    fn publications(&self, seq: u64, row: &[u8]) -> Option<Vec<Publication>> {
        match Record::decode(row) {
            Ok(Record::Result(StoredResult { reply_to, json, .. })) => match CommandResult::from_json(&json) {
                Ok(result) => return Some(reply_to.publications(&self.base, &result)),
                Err(error) => error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
            },
            Ok(Record::Command(_)) => error!(seq, "a command stands where its result was expected"),
            Err(error) => error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
        }
        None
    }

    /// Removes the row once every copy is settled.
    async fn complete(self: Arc<Self>, seq: u64, sent: Sent) {
        if settle(&self.set_aside, sent).await == Settled::All {
            debug!(seq, "a result is delivered");
            self.spool.complete(Queue::Outbound, seq);
        }
    }
}
