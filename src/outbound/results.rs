//! Publishes results, and removes each from the spool once the broker has acknowledged all its copies.
//!
//! Results on one topic keep their order: they form a lane ([`lanes`](crate::delivery::lanes)). If the broker refuses one for
//! now, only that lane waits.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::record::{Record, StoredResult};
use super::shares::Shares;
use crate::delivery::Part;
use crate::delivery::courier::{Courier, Owner};
use crate::delivery::lanes::{Memo, Patience};
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::local::{Base, CommandResult};
use crate::mqtt::Publisher;
use crate::os::clock;
use crate::store::{Queue, Row as Stored, SpoolError, Store};

/// The most results under way; each holds its row in memory.
const UNDER_WAY: usize = 64;
/// The most bytes of their rows.
const UNDER_WAY_BYTES: usize = 16 * 1024 * 1024;

/// The loop's surroundings.
pub struct Results {
    /// The base topic.
    pub base: Base,
    /// Holds the results.
    pub spool: Arc<dyn Store>,
    /// Publishes them.
    pub publisher: Publisher,
    /// Keeps what the broker refuses for good.
    pub set_aside: SetAside,
    /// Shows what it refuses for now.
    pub busy: BusyBoard,
    /// How long to wait after refusals for now.
    pub patience: Patience,
    /// How much of the queue each client holds.
    pub shares: Arc<Shares>,
}

/// The topics of a result's copies that the broker has, while other copies must be sent again.
#[derive(Debug, Default)]
pub struct SettledTopics(Vec<String>);

impl Memo for SettledTopics {
    fn settle(&mut self, taken: Vec<Part>, _late: bool) {
        self.0.extend(taken.into_iter().map(|part| part.publication.topic));
    }

    fn unsettle(&mut self) {
        self.0.clear();
    }
}

impl Results {
    /// Publishes each row whose number arrives on `ready`, until that closes or `stop`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(self, ready: mpsc::UnboundedReceiver<u64>, stop: CancellationToken) -> Result<(), SpoolError> {
        let results = Arc::new(self);
        let mut courier = Courier::new(Arc::clone(&results), results.patience, UNDER_WAY, UNDER_WAY_BYTES);
        // What cannot be read for now is given up only at a stop: what is under way still gets its time.
        if let Err(failed @ SpoolError::Failed(_)) = results.work(&mut courier, ready, stop).await {
            return Err(failed);
        }
        courier.drain().await;
        Ok(())
    }

    async fn work(
        &self,
        courier: &mut Courier<Self>,
        mut ready: mpsc::UnboundedReceiver<u64>,
        stop: CancellationToken,
    ) -> Result<(), SpoolError> {
        let render = |row: &mut StoredResult, _, settled: &mut SettledTopics| self.parts(row, settled);
        while !stop.is_cancelled() {
            if courier.go_on(render, &stop).await? {
                continue;
            }
            let room = courier.room();
            let wake = courier.next_change().map(|at| Instant::now() + clock::nap(at, clock::boot_now()));
            // Cancel-safe: recv() and settled() are, and the others only observe.
            let seq = tokio::select! {
                () = stop.cancelled() => break,
                () = courier.settled() => continue,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => continue,
                seq = ready.recv(), if room > 0 => seq,
            };
            let Some(seq) = seq else { break };
            let Some(row) = self.spool.read(Queue::Outbound, seq).await? else {
                self.lost(seq);
                continue;
            };
            if !courier.take(row, render, &stop).await {
                break;
            }
        }
        Ok(())
    }

    fn parts(&self, row: &StoredResult, settled: &SettledTopics) -> Vec<Part> {
        let Ok(result) = CommandResult::from_json(&row.json) else { return Vec::new() };
        let publications = row.reply_to.publications(&self.base, &result);
        let left = publications.into_iter().filter(|publication| !settled.0.contains(&publication.topic));
        left.map(Part::plain).collect()
    }
}

impl Owner for Results {
    const QUEUE: Queue = Queue::Outbound;
    /// The topic of the command, from which the topics of its results follow.
    type Lane = String;
    type Row = StoredResult;
    type Memo = SettledTopics;
    type Done = bool;

    fn decode(&self, row: &Stored) -> Option<StoredResult> {
        let seq = row.seq;
        match Record::decode(&row.data) {
            Ok(Record::Result(result)) => match CommandResult::from_json(&result.json) {
                Ok(_) => return Some(result),
                Err(error) => error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
            },
            Ok(Record::Command(_)) => error!(seq, "a command stands where its result was expected"),
            Err(error) => error!(seq, %error, "a stored result cannot be read; it stays in the spool"),
        }
        None
    }

    fn lane(row: &StoredResult) -> String {
        row.reply_to.topic.clone()
    }

    fn done(&self, _row: StoredResult, set_aside: bool) -> bool {
        set_aside
    }

    fn completed(&self, seq: u64, set_aside: bool) {
        debug!(seq, set_aside, "a result is done with");
        self.shares.gone(seq);
    }

    fn lost(&self, seq: u64) {
        self.shares.gone(seq);
    }

    /// As it was: all copies of a result have the same id.
    fn again(&self, stored: &[u8], _refused: &[&Part]) -> Option<Vec<u8>> {
        Some(stored.to_vec())
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
