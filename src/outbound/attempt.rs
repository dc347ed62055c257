//! One attempt at a command, and what its outcome means.
//!
//! The API has no idempotency key: a request that may have been read and was not answered may have been executed. With
//! `outbound.ambiguous = "retry"` it is tried again; with `"report"`, and always for calls that must not be repeated, it ends
//! `uncertain`, and a durable mark made before the request sees to that across a crash too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};
use ulid::Ulid;

use super::passed::passed;
use super::record::{Command, Mark, Record, StoredResult};
use super::route_book::RouteBook;
use crate::cloud::{Backoff, Endpoint, Executed, Outcome, Session};
use crate::counters::Counters;
use crate::local::{Base, CommandResult, Status};
use crate::log::Few;
use crate::protocol::{Class, Receiver, ResultCode};
use crate::routing::Routing;
use crate::spool::{Queue, Row, Spool, SpoolError};

/// Between two tries to store an outcome on a disk that does not take it.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Between two attempts at a command.
const WAIT: Backoff = Backoff::seconds(1, 60);
/// The same when iLink says that it was called too often.
const QUOTA_WAIT: Backoff = Backoff::seconds(30, 300);

/// What to do when a call may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Try again: at least once.
    Retry,
    /// Report `uncertain`: at most once.
    Report,
}

/// What is remembered of a command between its attempts.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// Requests made.
    pub attempts: u32,
    /// Whether one of them may have been executed.
    pub ambiguous: bool,
    /// iLink's last code.
    pub code: Option<ResultCode>,
    /// What went wrong last.
    pub cause: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Step {
    /// The result is durable, and its row waits to be published.
    Finished,
    /// The row is gone or unreadable: there is nothing to do.
    Gone,
    /// To be tried again.
    Later(Tried, Duration),
    /// This endpoint cannot be called now; nothing was sent.
    Closed(Tried, Endpoint),
}

/// What attempts need.
pub struct Attempts {
    /// Where commands are.
    pub spool: Spool,
    /// Who calls.
    pub session: Session,
    /// `outbound.ambiguous`.
    pub ambiguous: Ambiguous,
    /// The base topic, by which a route's command is known.
    pub base: Base,
    /// The routes in force.
    pub routing: watch::Receiver<Arc<Routing>>,
    /// What they sent last.
    pub book: RouteBook,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// For lines on commands that did not succeed.
    pub failed: Few,
}

impl Attempts {
    /// Attempts command number `seq`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn attempt(&self, seq: u64, mut tried: Tried) -> Result<Step, SpoolError> {
        let Some(mut command) = self.read(seq).await? else { return Ok(Step::Gone) };
        tried.attempts = tried.attempts.max(command.attempts);
        tried.ambiguous |= command.mark != Mark::Unsent;
        if command.has_expired() {
            return self.expire(seq, command, tried).await;
        }
        let endpoint = Endpoint::of(&command.call);
        if let Some(cause) = self.session.closed(endpoint) {
            return Ok(Step::Closed(Tried { cause, ..tried }, endpoint));
        }
        let once = self.ambiguous == Ambiguous::Report || command.call.never_repeat();
        let before = command.mark;
        command.attempts = tried.attempts + 1;
        if once {
            command.mark = Mark::Sent;
            if let Err(error) = self.spool.replace(Queue::Outbound, seq, encode(&command)).await {
                return match error {
                    SpoolError::Failed(_) => Err(error),
                    // Without the mark it must not be sent; the disk may recover before the command expires.
                    waiting => Ok(Step::Later(Tried { cause: waiting.to_string(), ..tried }, STORE_RETRY)),
                };
            }
        } else {
            command.mark = Mark::Ambiguous;
            self.spool.replace_lazily(Queue::Outbound, seq, encode(&command));
        }
        self.counters.calls.add();
        if command.attempts > 1 {
            self.counters.calls_repeated.add();
        }
        match self.session.call(&command.call).await {
            Outcome::Reply(reply) => {
                let id = Ulid::from_bytes(command.id);
                let (attempts, elapsed) = (command.attempts, command.elapsed_ms());
                let result = CommandResult::answered(id, command.reference.clone(), reply, attempts, elapsed);
                self.finish(seq, command, result).await
            }
            Outcome::Retry { executed, code, cause, after } => {
                let ambiguous = executed != Executed::No;
                tried = Tried {
                    attempts: command.attempts,
                    ambiguous: tried.ambiguous | ambiguous,
                    code: code.or(tried.code),
                    cause,
                };
                if ambiguous && once {
                    return self.uncertain(seq, command, tried).await;
                }
                command.mark = if tried.ambiguous { Mark::Ambiguous } else { Mark::Unsent };
                self.spool.replace_lazily(Queue::Outbound, seq, encode(&command));
                let wait = if code.is_some_and(|code| code.class() == Class::Quota) { QUOTA_WAIT } else { WAIT };
                let wait = wait.jittered(tried.attempts).max(after.unwrap_or_default());
                Ok(Step::Later(tried, wait))
            }
            Outcome::NotReady { cause, code, after } => {
                if code.is_some() {
                    // It was posted, and certainly not executed.
                    (tried.attempts, tried.code) = (command.attempts, code);
                }
                tried.cause = cause;
                command.attempts = tried.attempts;
                command.mark = before;
                self.spool.replace_lazily(Queue::Outbound, seq, encode(&command));
                Ok(match after {
                    Some(after) => Step::Later(tried, after),
                    None => Step::Closed(tried, endpoint),
                })
            }
        }
    }

    /// Ends command number `seq`, on which nobody works, without another attempt: `uncertain` if one may have succeeded,
    /// else `expired`.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn end(&self, seq: u64, mut tried: Tried) -> Result<Step, SpoolError> {
        let Some(command) = self.read(seq).await? else { return Ok(Step::Gone) };
        tried.attempts = tried.attempts.max(command.attempts);
        tried.ambiguous |= command.mark != Mark::Unsent;
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

    /// Replaces the command by its result, in one commit. The outcome is known from here on, so a disk that does not take it
    /// is asked until it does: the command must not be sent again.
    async fn finish(&self, seq: u64, command: Command, result: CommandResult) -> Result<Step, SpoolError> {
        self.count(&command, &result);
        let row = Record::Result(StoredResult { at: command.at, reply_to: command.reply_to, json: result.to_json() });
        let Ok(row) = row.encode() else { return Ok(Step::Gone) };
        let mut told = false;
        loop {
            match self.spool.replace(Queue::Outbound, seq, row.clone()).await {
                Ok(()) => return Ok(Step::Finished),
                Err(SpoolError::Failed(why)) => return Err(SpoolError::Failed(why)),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "the result of a call cannot be stored yet; it is tried every second");
                    }
                    sleep(STORE_RETRY).await;
                }
            }
        }
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
        let (trail, to) = (&self.counters.trail, command.call.receiver());
        let to = to.as_ref().map(Receiver::as_str);
        trail.note(passed(command.call.name(), to, command.call.content(), result, trail));
        if result.status != Status::Ok
            && let Some((route, topic)) = self.base.origin_of_route(&command.reply_to.topic)
        {
            self.book.not_delivered(route, topic, &command.call);
            if let Some((_, state)) = self.routing.borrow().named(route) {
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

fn encode(command: &Command) -> Vec<u8> {
    // No value of this type fails to serialise; an empty row would be read as damaged, never as something else.
    Record::Command(command.clone()).encode().unwrap_or_default()
}
