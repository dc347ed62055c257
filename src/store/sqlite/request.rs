//! What the handles ask of the writer.

use crate::store::pending::Lazy;
use crate::store::request::{Op, Reply};
use crate::store::types::{Queue, Row};

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
