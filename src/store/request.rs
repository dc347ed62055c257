//! What the handles of a store ask of its writer: a durable change, and who waits for it.

use std::fmt;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::types::{AppendError, Key, Queue, SpoolError, row_size};

/// Somebody waiting for an answer. Dropped unanswered, it tells them that the spool has failed.
pub(super) struct Reply<T, E = SpoolError> {
    to: To<T, E>,
    /// Frees a place among those who wait.
    _permit: OwnedSemaphorePermit,
}

enum To<T, E> {
    Waiting(oneshot::Sender<Result<T, E>>),
    /// What a caller of [`Append::hand_over`](crate::store::Append::hand_over) wants done with the answer.
    Then(Box<dyn FnOnce(Result<T, E>) + Send>),
}

impl<T, E> Reply<T, E> {
    pub(super) fn new(sender: oneshot::Sender<Result<T, E>>, permit: OwnedSemaphorePermit) -> Self {
        Self { to: To::Waiting(sender), _permit: permit }
    }

    pub(super) fn then(then: Box<dyn FnOnce(Result<T, E>) + Send>, permit: OwnedSemaphorePermit) -> Self {
        Self { to: To::Then(then), _permit: permit }
    }

    pub(super) fn send(self, answer: Result<T, E>) {
        match self.to {
            // Who no longer waits has gone their own way.
            To::Waiting(sender) => drop(sender.send(answer)),
            To::Then(then) => then(answer),
        }
    }
}

impl<T, E> fmt::Debug for Reply<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Something to make durable, and who waits for it.
#[derive(Debug)]
pub(super) enum Op {
    /// May be refused because the queue is full. The answer is the row's number.
    Append(New, Reply<u64, AppendError>),
    Replace {
        queue: Queue,
        seq: u64,
        data: Vec<u8>,
        reply: Reply<()>,
    },
    ForgetSession(u64, Reply<()>),
    /// What is lazy so far.
    Flush(Reply<()>),
}

/// A row to be added.
#[derive(Debug)]
pub(super) struct New {
    pub(super) queue: Queue,
    pub(super) data: Bytes,
    pub(super) key: Option<Key>,
}

impl Op {
    /// The queue it adds to and by how much, if it adds.
    pub(super) fn adds(&self) -> Option<(Queue, u64)> {
        match self {
            Self::Append(new, _) => Some((new.queue, row_size(&new.data))),
            Self::Replace { .. } | Self::ForgetSession(..) | Self::Flush(_) => None,
        }
    }

    /// Whether it is a row whose caller announces it.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(self, Self::Append(_, Reply { to: To::Then(_), .. }))
    }

    /// About how many bytes it brings into a batch.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Append(new, _) => new.data.len(),
            Self::Replace { data, .. } => data.len(),
            Self::ForgetSession(..) | Self::Flush(_) => 0,
        }
    }

    /// It is stored. Gives the row that it added, if it did.
    pub(super) fn stored(self, seq: u64) -> Option<(New, u64)> {
        match self {
            Self::Append(new, reply) => {
                reply.send(Ok(seq));
                return Some((new, seq));
            }
            Self::Replace { reply, .. } | Self::ForgetSession(_, reply) | Self::Flush(reply) => reply.send(Ok(())),
        }
        None
    }

    /// It was not stored.
    pub(super) fn refused(self, error: SpoolError) {
        match self {
            Self::Append(_, reply) => reply.send(Err(error.into())),
            Self::Replace { reply, .. } | Self::ForgetSession(_, reply) | Self::Flush(reply) => reply.send(Err(error)),
        }
    }
}
