//! What the handles ask of the writer.

use std::fmt;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::pending::Lazy;
use super::rows::size;
use crate::store::types::{Key, Queue, Row, SpoolError};

/// What a caller of [`Append::hand_over`](crate::store::Append::hand_over) wants done with the answer.
pub(super) type Then<T> = Box<dyn FnOnce(Result<T, SpoolError>) + Send>;

/// Somebody waiting for an answer. Dropped unanswered, it tells them that the spool has failed.
pub(super) struct Reply<T> {
    to: To<T>,
    /// Frees a place among those who wait.
    _permit: OwnedSemaphorePermit,
}

enum To<T> {
    Waiting(oneshot::Sender<Result<T, SpoolError>>),
    Then(Then<T>),
}

impl<T> Reply<T> {
    pub(super) fn new(sender: oneshot::Sender<Result<T, SpoolError>>, permit: OwnedSemaphorePermit) -> Self {
        Self { to: To::Waiting(sender), _permit: permit }
    }

    pub(super) fn then(then: Then<T>, permit: OwnedSemaphorePermit) -> Self {
        Self { to: To::Then(then), _permit: permit }
    }

    pub(super) fn send(self, answer: Result<T, SpoolError>) {
        match self.to {
            // Who no longer waits has gone their own way.
            To::Waiting(sender) => drop(sender.send(answer)),
            To::Then(then) => then(answer),
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Something to make durable.
#[derive(Debug)]
pub(super) enum Task {
    Append { queue: Queue, data: Bytes, key: Option<Key> },
    Replace { queue: Queue, seq: u64, data: Vec<u8> },
    ForgetSession(u64),
}

/// A task and who waits for it. The answer is the row's number, 0 if there is none.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) task: Task,
    pub(super) reply: Reply<u64>,
}

impl Op {
    /// The queue it adds to and by how much, if it adds.
    pub(super) fn adds(&self) -> Option<(Queue, u64)> {
        match &self.task {
            Task::Append { queue, data, .. } => Some((*queue, size(data))),
            Task::Replace { .. } | Task::ForgetSession(_) => None,
        }
    }

    /// About how many bytes it brings into a batch.
    pub(super) fn weight(&self) -> usize {
        match &self.task {
            Task::Append { data, .. } => data.len(),
            Task::Replace { data, .. } => data.len(),
            Task::ForgetSession(_) => 0,
        }
    }
}

/// Something to read.
#[derive(Debug)]
pub(super) enum Read {
    After { queue: Queue, after: u64, most: (usize, usize), reply: Reply<Vec<Row>> },
    One { queue: Queue, seq: u64, reply: Reply<Option<Row>> },
    Redeliveries { reply: Reply<Vec<(u16, [u8; 32])>> },
    Notes { prefix: String, reply: Reply<Vec<(String, Vec<u8>)>> },
}

/// What goes through the channel.
#[derive(Debug)]
pub(super) enum Request {
    Durable(Op),
    Lazy(Lazy),
    Read(Read),
    Close(Closing),
    #[cfg(test)]
    Inject(Inject),
}

/// Who waits for the end.
#[derive(Debug)]
pub(super) enum Closing {
    Awaited(Reply<()>),
    Unawaited,
}

/// Trouble made by tests.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Inject {
    /// The next commit fails with this extended result code.
    FailCommit(i32),
    /// So many of the next reads fail with this extended result code.
    FailReads(u32, i32),
    /// The disk claims to have this much free.
    Free(u64),
    /// The file may not grow beyond this many pages.
    MaxPages(u32),
    /// Lazy operations get no commit of their own, and nothing is synced.
    Simulate,
    /// Lazy operations that were not stored are forgotten.
    LoseLazy,
}
