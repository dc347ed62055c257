//! The service as a value: its parts, the queue of pushes for each receiver, and how pushes and handshakes are sent:
//! HTTP client, tries, time limit, outcome (§2.2, §4).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::fault::Faults;
use super::records::{Journal, Outcome, Outgoing, PushRecord, Sent, Try};
use super::world::World;
use crate::cloud::http;
use crate::os::{clock, tls};
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
    http: http::Client,
    world: Mutex<World>,
    journal: Mutex<Journal>,
    faults: Mutex<Faults>,
    lanes: Mutex<HashMap<Uid, mpsc::Sender<PushRecord>>>,
    sent: broadcast::Sender<Sent>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Simulator {
    /// A service with an empty memory. It begins to answer with [`Self::serve`], which may be called once.
    ///
    /// # Errors
    /// When the HTTP client that makes the pushes cannot be built.
    pub fn new(options: Options) -> io::Result<Self> {
        let http = client(options.answer_limit)?;
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

    pub(super) fn http(&self) -> &http::Client {
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

/// An answer longer than this is cut: only its beginning is of interest.
const MAX_ANSWER: usize = 64 << 10;
/// How much of an answer is shown.
const SHOWN_ANSWER: usize = 200;

impl Simulator {
    /// Makes the tries of push `id`, noting each in the journal; says what came of it.
    pub(super) async fn deliver(&self, mut record: PushRecord) -> PushRecord {
        let url = self.world().accounts.callback(&record.to_uid).cloned();
        let Some(url) = url else {
            record.outcome = Outcome::NotRegistered;
            self.note(&record);
            return record;
        };
        let options = self.options();
        let mut outcome = Outcome::Unanswered;
        for _ in 0..options.tries {
            let body = record.body.get().to_owned();
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            let made = attempt(self.http().post(url.as_str(), headers, body), options.answer_limit).await;
            outcome = made.outcome();
            record.tries.push(made);
            self.note(&record);
            let again = match outcome {
                Outcome::Unanswered => true,
                Outcome::ErrorStatus => options.retry_on_error,
                _ => false,
            };
            if !again {
                break;
            }
        }
        record.outcome = outcome;
        tracing::debug!(push.id = record.id, to_uid = %record.to_uid, tries = record.tries.len(), ?outcome, "pushed");
        self.note(&record);
        record
    }

    fn note(&self, record: &PushRecord) {
        if let Some(entry) = self.journal().pushes.entry(record.id) {
            entry.outcome = record.outcome;
            entry.tries.clone_from(&record.tries);
        }
    }
}

async fn attempt(exchange: impl Future<Output = Result<http::Answer, http::Error>>, limit: Duration) -> Try {
    let at = clock::rfc3339(clock::wall_now_ms());
    let started = Instant::now();
    let answered = answer(exchange, limit).await;
    let took_ms = clock::millis(started.elapsed());
    match answered {
        Ok((status, body)) => Try {
            at,
            took_ms,
            status: Some(status.as_u16()),
            code: serde_json::from_slice(&body).ok().and_then(|answer: Value| answer.get("code")?.as_i64()),
            answer: Some(String::from_utf8_lossy(&body).chars().take(SHOWN_ANSWER).collect()),
            error: None,
        },
        Err(error) => Try { at, took_ms, status: None, code: None, answer: None, error: Some(error) },
    }
}

/// The status and the body (cut at 64 KiB) that a callback answers within `limit`, else why there is none.
pub(super) async fn answer(
    exchange: impl Future<Output = Result<http::Answer, http::Error>>,
    limit: Duration,
) -> Result<(StatusCode, Vec<u8>), String> {
    let whole = async {
        let answer = exchange.await?;
        let status = answer.status;
        match answer.read(MAX_ANSWER).await {
            (body, Ok(()) | Err(http::Cut::TooLong(_))) => Ok((status, body)),
            (_, Err(http::Cut::Broken(error))) => Err(error),
        }
    };
    match tokio::time::timeout(limit, whole).await {
        Ok(Err(http::Error::TimedOut)) | Err(_) => Err(format!("no answer within {} ms", clock::millis(limit))),
        Ok(answered) => answered.map_err(|error| error.texts().collect::<Vec<_>>().join(": ")),
    }
}

/// A client whose exchanges take `limit` at most.
///
/// # Errors
/// When TLS cannot be set up.
fn client(limit: Duration) -> io::Result<http::Client> {
    // Callbacks under test have a certificate that nobody vouches for.
    let tls = tls::trusting_anybody().map_err(io::Error::other)?;
    // Each try has a connection of its own: none can fail because an earlier one was closed meanwhile.
    Ok(http::Client::new(http::Options { tls, proxy: None, connect: limit, timeout: limit, keep: None }))
}
