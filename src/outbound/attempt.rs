//! One attempt at a command, and what its outcome means.
//!
//! The API has no idempotency key. So a request that iLink may have read, but did not answer, may have been executed. With
//! `outbound.ambiguous = "retry"` it is tried again, up to `outbound.ambiguous_tries` tries in all. With `"report"`, and always
//! for calls that must not be repeated, the command ends `uncertain`. A durable mark before each request (`gate`) keeps this
//! promise, and the count of attempts, also across a crash.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};
use ulid::Ulid;

use super::gate::{Gate, Shut, take_back};
use super::record::{Command, Mark, Record, ReplyTo, StoredResult};
use super::route_book::RouteBook;
use super::shares::{Client, Shares};
use crate::cloud::{Backoff, Endpoint, Executed, Outcome, Session};
use crate::delivery::routing::Routing;
use crate::local::{Base, CommandResult, Status};
use crate::observe::counters::Counters;
use crate::observe::log::Few;
use crate::protocol::{Class, Receiver, ResultCode};
use crate::store::{Queue, Row, SpoolError, Store};

use crate::observe::activity::{Activity, Moment, Passed, Verdict, Way, shown};
use crate::os::clock;
use crate::os::lock;

/// The wait between two tries to store an outcome that the disk does not take.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The wait between two attempts at a command.
const WAIT: Backoff = Backoff::seconds(1, 60);
/// The same if iLink says that it was called too often.
const QUOTA_WAIT: Backoff = Backoff::seconds(30, 300);

/// What to do when a call may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Try again (at least once): each try may make a copy. The most tries in all; without a limit, until the command expires.
    Retry(Option<NonZeroU32>),
    /// Report `uncertain` (at most once).
    Report,
}

/// What is remembered of a command between its attempts.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// How many attempts sent a request. Its repeat with a new token belongs to the same attempt.
    pub attempts: u32,
    /// How many of them iLink has quite possibly executed: these count for `outbound.ambiguous_tries`.
    pub unknown: u32,
    /// Whether it cannot be excluded that iLink has executed one of them, even if that is unlikely.
    pub ambiguous: bool,
    /// iLink's last code.
    pub code: Option<ResultCode>,
    /// What went wrong last.
    pub cause: String,
}

impl Tried {
    /// Adds what the spool knows of attempts in an earlier run.
    fn and_before(self, command: &Command) -> Self {
        Self {
            attempts: self.attempts.max(command.attempts),
            unknown: self.unknown.max(command.unknown),
            ambiguous: self.ambiguous || command.mark != Mark::Unsent,
            ..self
        }
    }

    fn mark(&self) -> Mark {
        if self.ambiguous { Mark::Ambiguous } else { Mark::Unsent }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Step {
    /// The result is durable, and its row waits to be published.
    Finished,
    /// The row is gone or cannot be read: there is nothing to do.
    Gone,
    /// The command must be tried again after this time.
    Later(Tried, Duration),
    /// This endpoint cannot be called now, and the command waits for it.
    Closed(Tried, Endpoint),
}

/// What attempts need.
pub struct Attempts {
    /// Holds the commands.
    pub spool: Arc<dyn Store>,
    /// Calls iLink.
    pub session: Session,
    /// `outbound.ambiguous`.
    pub ambiguous: Ambiguous,
    /// The base topic, by which the commands of routes are recognised.
    pub base: Base,
    /// The routes in force.
    pub routing: watch::Receiver<Arc<Routing>>,
    /// What the routes sent last.
    pub book: RouteBook,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Limits the log lines about commands that did not succeed.
    pub failed: Few,
    /// How much of the queue each client holds.
    pub shares: Arc<Shares>,
    /// Results that are not on the disk yet.
    pub unstored: Unstored,
}

/// Rows with results on their way to the disk, by row number.
pub type Unstored = Mutex<HashMap<u64, Vec<u8>>>;

impl Attempts {
    /// Makes one attempt at the command in row `seq`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn attempt(&self, seq: u64, tried: Tried) -> Result<Step, SpoolError> {
        let Some(mut command) = self.read(seq).await? else { return Ok(Step::Gone) };
        let tried = tried.and_before(&command);
        let once = self.is_for_once(&command);
        (command.attempts, command.unknown) = (tried.attempts + 1, tried.unknown + 1);
        command.mark = if once { Mark::Sent } else { Mark::Ambiguous };
        let gate = Gate::new(&*self.spool, &self.counters, seq, &command, (tried.unknown, tried.mark()));
        let called = self.session.call_through(&gate, &command.call).await;
        let marked = gate.has_marked();
        let tried = Tried { attempts: tried.attempts + u32::from(gate.has_left()), ..tried };
        let outcome = match called {
            Ok(outcome) => outcome,
            Err(Shut::Unmarked(failed @ SpoolError::Failed(_))) => return Err(failed),
            // Without the durable mark the request must not leave. The disk may recover before the command expires.
            Err(Shut::Unmarked(waiting)) => {
                return Ok(Step::Later(Tried { cause: waiting.to_string(), ..tried }, STORE_RETRY));
            }
            Err(Shut::Late) => return self.expire(seq, command, tried).await,
        };
        let mut now = tried.clone();
        let step = match outcome {
            Outcome::Reply(reply) => {
                let id = Ulid::from_bytes(command.id);
                let (attempts, elapsed) = (now.attempts, command.elapsed_ms());
                let result = CommandResult::answered(id, command.reference.clone(), reply, attempts, elapsed);
                return self.finish(seq, command, result).await;
            }
            Outcome::Retry { executed, code, cause, after } => {
                now.unknown += u32::from(executed == Executed::Perhaps);
                now.ambiguous |= executed != Executed::No;
                (now.code, now.cause) = (code.or(tried.code), cause);
                let too_often = executed == Executed::Perhaps && self.is_spent(now.unknown);
                if too_often || (once && executed != Executed::No) {
                    return self.uncertain(seq, command, now).await;
                }
                let wait = if code.is_some_and(|code| code.class() == Class::Quota) { QUOTA_WAIT } else { WAIT };
                let wait = wait.jittered(now.attempts).max(after.unwrap_or_default());
                Step::Later(now.clone(), wait)
            }
            Outcome::NotReady { cause, code, after } => {
                // If a request left, iLink has certainly not executed it.
                (now.code, now.cause) = (code.or(tried.code), cause);
                match after {
                    Some(after) => Step::Later(now.clone(), after),
                    None => Step::Closed(now.clone(), Endpoint::of(&command.call)),
                }
            }
        };
        if marked && (now.unknown, now.mark()) != (command.unknown, command.mark) {
            (command.attempts, command.unknown, command.mark) = (now.attempts, now.unknown, now.mark());
            take_back(&*self.spool, seq, command).await;
        }
        Ok(step)
    }

    /// The client that a command belongs to.
    #[must_use]
    pub fn client(&self, reply_to: &ReplyTo) -> Client {
        self.shares.client(&self.base, &reply_to.topic)
    }

    /// Whether the command must not be sent again once it may have been executed.
    fn is_for_once(&self, command: &Command) -> bool {
        self.ambiguous == Ambiguous::Report || command.call.never_repeat()
    }

    /// Whether the tries that iLink has possibly executed are used up.
    fn is_spent(&self, unknown: u32) -> bool {
        matches!(self.ambiguous, Ambiguous::Retry(Some(most)) if unknown >= most.get())
    }

    /// Whether a command that an earlier run left must not be sent again.
    #[must_use]
    pub fn must_end(&self, command: &Command) -> bool {
        command.mark == Mark::Sent || self.is_spent(command.unknown)
    }

    /// Ends the command in row `seq`, which is not under way, without another attempt: as `uncertain` if an attempt may have
    /// succeeded, otherwise as `expired`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn end(&self, seq: u64, tried: Tried) -> Result<Step, SpoolError> {
        let Some(command) = self.read(seq).await? else { return Ok(Step::Gone) };
        let tried = tried.and_before(&command);
        self.expire(seq, command, tried).await
    }

    async fn read(&self, seq: u64) -> Result<Option<Command>, SpoolError> {
        let Some(Row { data, .. }) = self.spool.read(Queue::Outbound, seq).await? else { return Ok(None) };
        match Record::decode(&data) {
            Ok(Record::Command(command)) => Ok(Some(command)),
            Ok(Record::Result(_)) => Ok(None),
            Err(error) => {
                error!(seq, %error, "a row of the outbound queue cannot be read by this version; it is left alone");
                Ok(None)
            }
        }
    }

    async fn expire(&self, seq: u64, command: Command, tried: Tried) -> Result<Step, SpoolError> {
        if tried.ambiguous {
            return self.uncertain(seq, command, tried).await;
        }
        let Tried { attempts, code, cause, .. } = tried;
        let (id, elapsed) = (Ulid::from_bytes(command.id), command.elapsed_ms());
        let result = CommandResult::expired(id, command.reference.clone(), code, &cause, attempts, elapsed);
        self.finish(seq, command, result).await
    }

    async fn uncertain(&self, seq: u64, command: Command, tried: Tried) -> Result<Step, SpoolError> {
        let Tried { attempts, code, cause, .. } = tried;
        let (id, elapsed) = (Ulid::from_bytes(command.id), command.elapsed_ms());
        let result = CommandResult::uncertain(id, command.reference.clone(), code, &cause, attempts, elapsed);
        self.finish(seq, command, result).await
    }

    /// Replaces the command by its result, in one commit. The command must not be sent again, so if the disk does not take the
    /// result, this is tried until it does.
    async fn finish(&self, seq: u64, command: Command, mut result: CommandResult) -> Result<Step, SpoolError> {
        self.count(&command, &result);
        let row_of = |result: &CommandResult| {
            let (at, reply_to) = (command.at, command.reply_to.clone());
            Record::Result(StoredResult { at, reply_to, json: result.to_json() }).encode()
        };
        let (mut row, mut told, mut whole) = (row_of(&result), false, true);
        loop {
            lock(&self.unstored).insert(seq, row.clone());
            match self.spool.replace(Queue::Outbound, seq, row.clone()).await {
                Ok(()) => {
                    lock(&self.unstored).remove(&seq);
                    return Ok(Step::Finished);
                }
                Err(SpoolError::Failed(why)) => return Err(SpoolError::Failed(why)),
                Err(SpoolError::TooLarge(_)) if std::mem::take(&mut whole) => {
                    result = result.without_data();
                    row = row_of(&result);
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "the result of a call cannot be stored yet; trying again every second");
                    }
                    sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// At a stop: leaves the results that the disk has not taken to the spool, which tries once more when it closes. If that
    /// fails, the command keeps its mark that it may have been executed, which is true.
    pub fn leave_to_spool(&self) {
        let unstored = std::mem::take(&mut *lock(&self.unstored));
        if !unstored.is_empty() {
            let results = unstored.len();
            warn!(
                results,
                "the bridge stops before the disk has taken the results of some calls; the spool tries once more"
            );
        }
        for (seq, row) in unstored {
            self.spool.replace_lazily(Queue::Outbound, seq, row);
        }
    }

    /// A receiver by its name, if it has one.
    fn called(&self, receiver: &Receiver) -> String {
        let routing = self.routing.borrow();
        routing.routes.names().of(receiver).map_or_else(|| receiver.as_str().to_owned(), |name| format!("@{name}"))
    }

    fn count(&self, command: &Command, result: &CommandResult) {
        let counter = match result.status {
            Status::Ok => &self.counters.commands_ok,
            Status::Error => &self.counters.commands_error,
            Status::Expired => &self.counters.commands_expired,
            Status::Uncertain | Status::Rejected => &self.counters.commands_uncertain,
        };
        counter.add();
        self.counters.series.command(command.call.name(), result, command.at.age());
        let (activity, to) = (&self.counters.activity, command.call.receiver().map(|to| self.called(&to)));
        activity.note(passed(command.call.name(), to.as_deref(), command.call.content(), result, activity));
        if result.status != Status::Ok
            && let Some((route, topic)) = self.base.origin_of_route(&command.reply_to.topic)
        {
            self.book.not_delivered(route, topic, &command.call);
            if let Some(state) = self.routing.borrow().state(route) {
                state.counters.failed.add();
            }
        }
        if result.status != Status::Ok
            && let Some(more) = self.failed.line()
        {
            info!(call = command.call.name(), name = %result.name, attempts = result.attempts, more, "a command did not succeed");
        }
    }
}

/// A command as an entry in the list of recent messages. `kind` is the name of its call, `to` its receiver; if it was refused,
/// its topic.
pub(super) fn passed(
    kind: &'static str,
    to: Option<&str>,
    content: Option<&[u8]>,
    result: &CommandResult,
    activity: &Activity,
) -> Passed {
    let verdict = if result.status == Status::Ok { Verdict::Good } else { Verdict::Bad };
    let outcome = match result.status.as_str() {
        status if status == result.name => status.into(),
        status => format!("{status}: {}", result.name).into(),
    };
    Passed {
        at: Moment(clock::wall_now_ms()),
        way: Way::ToIlink,
        kind,
        id: result.id,
        from: None,
        to: to.map(shown),
        bytes: content.map(<[u8]>::len),
        verdict,
        outcome,
        took_ms: result.elapsed_ms,
        content: content.and_then(|content| activity.content(content)),
    }
}
