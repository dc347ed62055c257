//! Publishes results and removes them from the spool once the broker has acknowledged every copy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::record::{Record, StoredResult};
use crate::local::{Base, CommandResult};
use crate::mqtt::Publisher;
use crate::set_aside::{SetAside, Settled, settle};
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
        loop {
            // recv() is cancel-safe; FuturesUnordered keeps what is not finished.
            let seq = tokio::select! {
                () = stop.cancelled() => break,
                Some(()) = under_way.next() => continue,
                seq = ready.recv(), if under_way.len() < UNDER_WAY => seq,
            };
            let Some(seq) = seq else { break };
            if let Some(row) = results.spool.read(Queue::Outbound, seq).await? {
                under_way.push(Arc::clone(&results).publish(seq, row.data));
            }
        }
        let _ = timeout(DRAIN, async { while under_way.next().await.is_some() {} }).await;
        Ok(())
    }

    async fn publish(self: Arc<Self>, seq: u64, row: Bytes) {
        let publications = match Record::decode(&row) {
            Ok(Record::Result(StoredResult { reply_to, json, .. })) => match CommandResult::from_json(&json) {
                Ok(result) => reply_to.publications(&self.base, &result),
                Err(error) => return error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
            },
            Ok(Record::Command(_)) => return error!(seq, "a command stands where its result was expected"),
            Err(error) => return error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
        };
        if settle(&self.publisher, &self.set_aside, publications).await == Settled::All {
            debug!(seq, "a result is delivered");
            self.spool.complete(Queue::Outbound, seq);
        }
    }
}
