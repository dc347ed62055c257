//! The service as a value: its parts, and the lanes that pushes wait in.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client;
use super::fault::Faults;
use super::journal::Journal;
use super::odd::Odd;
use super::options::Options;
use super::records::{Outcome, Outgoing, PushRecord, Sent};
use super::world::World;
use crate::cloud::http::Client;
use crate::os::clock;
use crate::protocol::Uid;

/// Pushes that may wait for one receiver: a dead callback holds each up for 15 s, and memory has an end.
const LANE_CAPACITY: usize = 1000;
/// Messages that a slow [`Simulator::sent`] listener may be behind.
const SENT_CAPACITY: usize = 1000;

/// A handle on a simulated service, for those in the same process; clones are the same service.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    options: Options,
    http: Client,
    world: Mutex<World>,
    journal: Mutex<Journal>,
    faults: Mutex<Faults>,
    lanes: Mutex<HashMap<Uid, mpsc::Sender<PushRecord>>>,
    sent: broadcast::Sender<Sent>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What a call is answered with.
pub(super) enum Answer {
    /// 200 and this JSON.
    Reply(Map<String, Value>),
    /// A fault's HTTP status.
    Status(u16),
    /// 200 and a fault's noise.
    Garbage,
    /// 200 and this JSON, written oddly.
    Odd(Odd, Map<String, Value>),
    /// What stands in front of the service: this HTTP status, and when to come again.
    Gateway(u16, Option<u32>),
    /// Somewhere else.
    Redirect,
    /// Nothing: the connection is closed.
    Nothing,
}

impl Simulator {
    /// A service with an empty memory. It begins to answer with [`Self::serve`], which may be called once.
    ///
    /// # Errors
    /// When the HTTP client that makes the pushes cannot be built.
    pub fn new(options: Options) -> io::Result<Self> {
        let http = client::new(options.answer_limit)?;
        Ok(Self(Arc::new(Inner {
            options,
            http,
            world: Mutex::default(),
            journal: Mutex::default(),
            faults: Mutex::default(),
            lanes: Mutex::default(),
            sent: broadcast::Sender::new(SENT_CAPACITY),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }

    /// The messages that clients send from now on: to users, to groups and to topics.
    #[must_use]
    pub fn sent(&self) -> broadcast::Receiver<Sent> {
        self.0.sent.subscribe()
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(super) fn http(&self) -> &Client {
        &self.0.http
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.0.world)
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        locked(&self.0.journal)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        locked(&self.0.faults)
    }

    /// Runs `task` until the service stops.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<T>> {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move { stop.run_until_cancelled(task).await })
    }

    pub(super) fn tell(&self, sent: Sent) {
        // Nobody listening is no error.
        let _ = self.0.sent.send(sent);
    }

    /// Cuts what is under way.
    pub(super) async fn end(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Notes a push that is about to be made or to wait.
    pub(super) fn record(&self, push: Outgoing) -> PushRecord {
        let mut journal = self.journal();
        let record = PushRecord {
            id: journal.pushes.total(),
            at: clock::rfc3339(clock::wall_now_ms()),
            to_uid: push.to,
            body: push.body,
            outcome: Outcome::Pending,
            tries: Vec::new(),
        };
        let bytes = record.body.get().len() + 1000;
        journal.pushes.note(record.clone(), bytes);
        record
    }

    /// Puts a push at the end of its receiver's lane.
    pub(super) fn enqueue(&self, push: Outgoing) {
        let to = push.to.clone();
        let record = self.record(push);
        let id = record.id;
        let lane = locked(&self.0.lanes).entry(to).or_insert_with(|| self.start_lane()).clone();
        if lane.try_send(record).is_err()
            && let Some(entry) = self.journal().pushes.entry(id)
        {
            tracing::warn!(push.id = id, "too many pushes wait for this receiver; this one is dropped");
            entry.outcome = Outcome::QueueFull;
        }
    }

    fn start_lane(&self) -> mpsc::Sender<PushRecord> {
        let (lane, mut waiting) = mpsc::channel(LANE_CAPACITY);
        let service = self.clone();
        self.spawn(async move {
            while let Some(record) = waiting.recv().await {
                service.deliver(record).await;
            }
        });
        lane
    }
}

/// A thread that panicked while it held one of these locks left nothing half done that matters to a simulation.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
