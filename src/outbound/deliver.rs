//! The deliver loop: starts attempts at commands, lane by lane, while their endpoints can be called.
//!
//! ```text
//!  accepted ──► lanes ──next──► attempt ──► finished ──► results
//!                 ▲                │ later / closed
//!                 └────────────────┘
//! ```
//!
//! It decides when and in which order commands are attempted; [`super::attempt`] decides what an attempt's outcome means. A
//! *door* is the session's answer to whether an endpoint of iLink may be called now.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse, FusedFuture as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::attempt::{Attempts, Step, Tried};
use super::lanes::Lanes;
use super::record::{Command, Record};
use super::shares::Client;
use crate::cloud::{Door, Doors, Endpoint};
use crate::delivery::routing::Routing;
use crate::observe::progress::Progress;
use crate::os::{clock, tasks};
use crate::protocol::Receiver;
use crate::store::{Queue, Row, SpoolError};

/// At a stop, calls that are under way get so much time.
const DRAIN: Duration = Duration::from_secs(3);
/// The most commands whose expiry is being stored at once. The spool commits them together.
const EXPIRING_AT_MOST: usize = 256;
/// The most rows to read at once of those that were there before, and their bytes.
const READ_ROWS: usize = 512;
const READ_BYTES: usize = 1024 * 1024;

/// What the loop knows of a durable command.
#[derive(Debug)]
pub struct Accepted {
    /// Its row in the outbound queue.
    pub seq: u64,
    /// The client that sent it.
    pub client: Client,
    /// Its lane; calls without a receiver share one.
    pub lane: Option<Receiver>,
    /// The boot-time instant at which it expires.
    pub deadline: Duration,
    /// For `keep = "latest"`: the device and route that it belongs to. An older command of the same that still waits is
    /// dropped.
    pub latest: Option<Arc<str>>,
}

/// The part of the configuration that the loop needs.
pub struct DeliverConfig {
    /// `outbound.concurrency`: the most calls at once.
    pub concurrency: usize,
    /// `outbound.rate_per_s`: the most calls per second; none: no limit.
    pub rate_per_s: Option<u32>,
}

/// How long lanes wait for their endpoint at most, unless its door opens before. No command lives longer.
const SHUT_OUT: Duration = Duration::from_hours(31 * 24);

/// If more newest commands than this are remembered, those that are finished are forgotten.
const LATEST_MOST: usize = 10_000;

type Lane = Option<Receiver>;

/// What a spawned task has done.
struct Ended {
    seq: u64,
    /// Of a call; an expiry has none.
    lane: Option<Arc<Lane>>,
    step: Step,
}

/// The loop.
pub struct Deliver {
    config: DeliverConfig,
    attempts: Arc<Attempts>,
    results: mpsc::UnboundedSender<u64>,
    routing: watch::Receiver<Arc<Routing>>,
    progress: Progress,
    lanes: Lanes<Client, Lane>,
    /// For routes with `keep = "latest"`: the newest command of each device, and its deadline.
    latest: HashMap<Arc<str>, (u64, Duration)>,
    /// Commands that a newer one replaced while they were under way.
    stale: HashMap<u64, (Duration, Arc<str>)>,
    /// What is remembered of commands that were attempted and are not finished.
    tried: HashMap<u64, Tried>,
    tasks: JoinSet<Result<Ended, SpoolError>>,
    calls: usize,
    expiring: usize,
    doors: Doors,
    /// Lanes whose first command waits for its endpoint, and when that wait ends at the latest.
    shut_out: HashMap<Endpoint, VecDeque<(Arc<Lane>, Duration)>>,
    next_call: Instant,
    /// The last row that was there before this loop.
    found: u64,
}

impl Deliver {
    /// A loop that sends `results` the numbers of rows that have become results. It must be made before any command is accepted.
    #[must_use]
    pub fn new(
        config: DeliverConfig,
        attempts: Arc<Attempts>,
        results: mpsc::UnboundedSender<u64>,
        routing: watch::Receiver<Arc<Routing>>,
        progress: Progress,
    ) -> Self {
        Self {
            config,
            found: *attempts.spool.appended(Queue::Outbound).borrow(),
            doors: attempts.session.doors(),
            attempts,
            results,
            routing,
            progress,
            lanes: Lanes::default(),
            latest: HashMap::new(),
            stale: HashMap::new(),
            tried: HashMap::new(),
            tasks: JoinSet::new(),
            calls: 0,
            expiring: 0,
            shut_out: HashMap::new(),
            next_call: Instant::now(),
        }
    }

    /// Runs until `stop`. First it reads what the spool holds, and begins with that while it reads on; what comes meanwhile waits.
    /// `accepted` must exist before the spool is read: then no command is missed, and commands that are in both are taken once.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(
        mut self,
        accepted: mpsc::UnboundedReceiver<Accepted>,
        stop: CancellationToken,
    ) -> Result<(), SpoolError> {
        // What cannot be read for now is given up only at a stop: what is under way still gets its time.
        if let Err(failed @ SpoolError::Failed(_)) = self.work(accepted, stop).await {
            return Err(failed);
        }
        // Who waits for the count at a stop must not wait longer.
        self.attempts.shares.all_found();
        let drain = async {
            while let Some(ended) = self.tasks.join_next().await {
                let _ = self.ended(ended);
            }
        };
        let _ = timeout(DRAIN, drain).await;
        self.tasks.shutdown().await;
        self.attempts.leave_to_spool();
        Ok(())
    }

    async fn work(
        &mut self,
        mut accepted: mpsc::UnboundedReceiver<Accepted>,
        stop: CancellationToken,
    ) -> Result<(), SpoolError> {
        let (mut reading, mut taken_up) = (self.read_after(0), 0);
        while !stop.is_cancelled() {
            self.progress.beat();
            self.start_what_is_due();
            self.progress.rest();
            let wake = self.next_wake();
            // recv(), join_next() and changed() are cancel-safe; the timer only observes; the reading is the same future.
            tokio::select! {
                () = stop.cancelled() => break,
                rows = &mut reading => match self.take_up(rows?) {
                    Some(last) => (reading, taken_up) = (self.read_after(last), last),
                    None => self.attempts.shares.all_found(),
                },
                Some(new) = accepted.recv(), if reading.is_terminated() => {
                    if new.seq > taken_up {
                        self.push(new);
                    }
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                () = self.doors.changed() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        Ok(())
    }

    /// Reads the next rows in the spool.
    fn read_after(&self, last: u64) -> Fuse<BoxFuture<'static, Result<Vec<Row>, SpoolError>>> {
        let spool = Arc::clone(&self.attempts.spool);
        async move { spool.read_after(Queue::Outbound, last, READ_ROWS, READ_BYTES).await }.boxed().fuse()
    }

    /// Takes up rows that were in the spool. Returns the number of the last one, if there are any.
    fn take_up(&mut self, rows: Vec<Row>) -> Option<u64> {
        let last = rows.last()?.seq;
        for row in rows {
            let record = Record::decode(&row.data);
            if let Ok(record) = &record {
                self.count_found(&row, record);
            }
            match record {
                Ok(Record::Result(_)) => {
                    let _ = self.results.send(row.seq);
                }
                Ok(Record::Command(command)) if self.attempts.must_end(&command) => self.end_uncertain(row.seq),
                Ok(Record::Command(command)) => {
                    let client = self.attempts.client(&command.reply_to);
                    let (lane, deadline, latest) =
                        (command.call.receiver(), command.deadline(), self.latest_of(&command));
                    self.push(Accepted { seq: row.seq, client, lane, deadline, latest });
                }
                Err(error) => {
                    error!(seq = row.seq, %error, "a row of the outbound queue cannot be read by this version; it is left alone");
                }
            }
        }
        Some(last)
    }

    /// Counts a row that was there before in its client's share. Who accepts a row counts it.
    fn count_found(&self, row: &Row, record: &Record) {
        let reply_to = match record {
            Record::Command(command) => &command.reply_to,
            Record::Result(result) => &result.reply_to,
        };
        if row.seq <= self.found {
            self.attempts.shares.found(self.attempts.client(reply_to), row.data.len(), row.seq);
        }
    }

    fn push(&mut self, Accepted { seq, client, lane, deadline, latest }: Accepted) {
        if let Some(latest) = latest {
            self.supersede(latest, seq, deadline);
        }
        self.lanes.push(client, lane, seq, deadline);
    }

    /// [`Accepted::latest`] of a command from the spool.
    fn latest_of(&self, command: &Command) -> Option<Arc<str>> {
        let origin = &command.reply_to.topic;
        let (route, _) = self.attempts.base.origin_of_route(origin)?;
        self.routing.borrow().keeps_latest(route).then(|| origin.as_str().into())
    }

    /// Notes the newest command of a device, and drops the one that it replaces.
    fn supersede(&mut self, latest: Arc<str>, seq: u64, deadline: Duration) {
        let origin = Arc::clone(&latest);
        let Some((old, until)) = self.latest.insert(latest, (seq, deadline)) else {
            if self.latest.len() > LATEST_MOST {
                let lanes = &self.lanes;
                self.latest.retain(|_, (one, until)| *one == seq || lanes.contains(*one, *until));
            }
            return;
        };
        if self.lanes.contains(old, until) {
            self.stale.insert(old, (until, origin));
            self.drop_stale(old);
        }
    }

    /// Drops a command that a newer one has replaced. If it is under way, this is done when it comes back unfinished.
    fn drop_stale(&mut self, seq: u64) {
        let Some((deadline, origin)) = self.stale.get(&seq) else { return };
        if !self.lanes.remove(seq, *deadline) {
            return;
        }
        let route = self.attempts.base.origin_of_route(origin).map_or("", |(route, _)| route);
        if let Some((_, state)) = self.routing.borrow().named(route) {
            state.counters.superseded.add();
        }
        self.stale.remove(&seq);
        self.tried.remove(&seq);
        self.attempts.spool.complete(Queue::Outbound, seq);
        self.attempts.shares.gone(seq);
    }

    /// A call was under way when an earlier run ended, and must not be repeated.
    fn end_uncertain(&mut self, seq: u64) {
        let cause = "the bridge stopped while the call was under way".to_owned();
        self.tried.insert(seq, Tried { ambiguous: true, cause, ..Tried::default() });
        self.end(seq);
    }

    fn end(&mut self, seq: u64) {
        self.expiring += 1;
        let tried = self.tried.remove(&seq).unwrap_or_default();
        let attempts = Arc::clone(&self.attempts);
        self.tasks.spawn(async move { Ok(Ended { seq, lane: None, step: attempts.end(seq, tried).await? }) });
    }

    fn start_what_is_due(&mut self) {
        let now = clock::boot_now();
        while self.expiring < EXPIRING_AT_MOST
            && let Some(seq) = self.lanes.expired(now)
        {
            self.end(seq);
        }
        self.lanes.wake(now);
        self.let_in();
        while self.doors.any()
            && self.calls < self.config.concurrency
            && self.lanes.has_ready()
            && self.may_begin()
            && let Some((lane, seq)) = self.lanes.take_next()
        {
            self.calls += 1;
            let tried = self.tried.remove(&seq).unwrap_or_default();
            let attempts = Arc::clone(&self.attempts);
            self.tasks.spawn(async move {
                let step = attempts.attempt(seq, tried).await?;
                Ok(Ended { seq, lane: Some(lane), step })
            });
        }
    }

    /// Puts lanes whose endpoint may be called again back into the line: all of them, or only one.
    fn let_in(&mut self) {
        let Self { doors, shut_out, lanes, .. } = self;
        shut_out.retain(|endpoint, waiting| match doors.at(*endpoint) {
            Door::Closed => true,
            Door::Open => {
                for (lane, until) in waiting.drain(..) {
                    lanes.again(&lane, until);
                }
                false
            }
            Door::One => {
                while waiting.pop_front().is_some_and(|(lane, until)| !lanes.again(&lane, until)) {}
                !waiting.is_empty()
            }
        });
    }

    /// Spaces the calls evenly at the configured rate.
    fn may_begin(&mut self) -> bool {
        let Some(rate) = self.config.rate_per_s else { return true };
        let now = Instant::now();
        if now < self.next_call {
            return false;
        }
        self.next_call = now.max(self.next_call) + Duration::from_secs(1) / rate.max(1);
        true
    }

    fn next_wake(&self) -> Option<Instant> {
        let lanes = self.lanes.next_change().filter(|_| self.expiring < EXPIRING_AT_MOST);
        let lanes = lanes.map(|at| Instant::now() + clock::nap(at, clock::boot_now()));
        let waits_for_its_turn = self.doors.any() && self.calls < self.config.concurrency && self.lanes.has_ready();
        // Also if that moment has passed already: otherwise nothing might wake the loop for a long time.
        let rate = (self.config.rate_per_s.is_some() && waits_for_its_turn).then_some(self.next_call);
        lanes.into_iter().chain(rate).min()
    }

    fn ended(&mut self, ended: Result<Result<Ended, SpoolError>, tokio::task::JoinError>) -> Result<(), SpoolError> {
        let Ended { seq, lane, step } = ended.map_err(|error| {
            tasks::fault(error);
            SpoolError::Failed("the process is ending".to_owned())
        })??;
        let under_way = if lane.is_some() { &mut self.calls } else { &mut self.expiring };
        *under_way -= 1;
        match (step, lane) {
            (step @ (Step::Finished | Step::Gone), lane) => {
                self.stale.remove(&seq);
                if matches!(step, Step::Finished) {
                    let _ = self.results.send(seq);
                } else {
                    self.attempts.shares.gone(seq);
                }
                if let Some(lane) = lane {
                    self.lanes.done(&lane);
                }
            }
            (Step::Later(tried, after), Some(lane)) => {
                self.tried.insert(seq, tried);
                self.lanes.later(&lane, clock::boot_now() + after);
                self.drop_stale(seq);
            }
            (Step::Closed(tried, endpoint), Some(lane)) => {
                self.tried.insert(seq, tried);
                let until = clock::boot_now() + SHUT_OUT;
                self.lanes.later(&lane, until);
                self.shut_out.entry(endpoint).or_default().push_back((lane, until));
                self.drop_stale(seq);
            }
            // An expiry always finishes its command.
            (Step::Later(..) | Step::Closed(..), None) => {}
        }
        Ok(())
    }
}
