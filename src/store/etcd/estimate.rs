//! How much the queues hold, for a member that does not lead: what the leader says, and what was appended here since.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::client::Client;
use super::config::Keys;
use super::error::EtcdError;
use super::wire::Range;
use crate::store::types::{Count, PerQueue, Queue};

/// How often the leader's word is asked for, while rows are appended.
const EVERY: Duration = Duration::from_millis(250);
/// So many appends are told apart by their revision.
const APPENDS_MOST: usize = 256;

/// Up to which revision the leader has seen rows, and what each queue holds: depth and bytes.
type Told = (u64, [(u64, u64); 3]);

/// What is known of how much the queues hold.
pub(super) struct Estimate {
    client: Arc<Client>,
    key: String,
    told: PerQueue<Count>,
    /// What was appended here after that was told, by revision.
    since: VecDeque<(u64, PerQueue<Count>)>,
    told_at: Option<Instant>,
    asking: Option<BoxFuture<'static, Result<Told, EtcdError>>>,
}

impl Estimate {
    pub(super) fn new(client: Arc<Client>, keys: &Keys) -> Self {
        let mut estimate = Self {
            client,
            key: keys.stats(),
            told: PerQueue::default(),
            since: VecDeque::new(),
            told_at: None,
            asking: None,
        };
        estimate.ask(Duration::ZERO);
        estimate
    }

    /// These rows were appended here.
    pub(super) fn appended(&mut self, revision: u64, rows: impl Iterator<Item = (Queue, u64)>) {
        if self.since.len() >= APPENDS_MOST
            && let Some(last) = self.since.back_mut()
        {
            last.0 = revision;
        } else {
            self.since.push_back((revision, PerQueue::default()));
        }
        if let Some((_, counts)) = self.since.back_mut() {
            for (queue, size) in rows {
                counts.get_mut(queue).added(size);
            }
        }
        self.wanted();
    }

    /// Somebody wants to know: it is asked for soon; at once if what is known is old.
    pub(super) fn wanted(&mut self) {
        if self.asking.is_none() {
            self.ask(self.told_at.map_or(Duration::ZERO, |at| EVERY.saturating_sub(at.elapsed())));
        }
    }

    /// What the queues hold.
    pub(super) fn counts(&self) -> PerQueue<Count> {
        let mut counts = self.told;
        for (_, appended) in &self.since {
            for queue in Queue::ALL {
                counts.get_mut(queue).plus(appended.get(queue));
            }
        }
        counts
    }

    /// Returns when more is known. Cancel-safe: what is under way is kept.
    pub(super) async fn next(&mut self) {
        let told = match &mut self.asking {
            Some(asking) => asking.await,
            None => std::future::pending().await,
        };
        self.asking = None;
        self.told_at = Some(Instant::now());
        match told {
            Ok((revision, counts)) => {
                for (queue, (depth, bytes)) in Queue::ALL.into_iter().zip(counts) {
                    *self.told.get_mut(queue) = Count { depth, bytes, ..Count::default() };
                }
                self.since.retain(|(appended, _)| *appended > revision);
                if !self.since.is_empty() {
                    self.ask(EVERY);
                }
            }
            Err(_) => self.ask(EVERY),
        }
    }

    fn ask(&mut self, pause: Duration) {
        let (client, key) = (Arc::clone(&self.client), self.key.clone());
        self.asking = Some(
            async move {
                sleep(pause).await;
                let found = client.range(&Range { key: key.into(), ..Range::default() }).await?;
                let told = found.kvs.first().map(|there| serde_json::from_slice(&there.value.0));
                Ok(told.and_then(Result::ok).unwrap_or_default())
            }
            .boxed(),
        );
    }
}
