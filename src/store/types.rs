//! The types that callers of a store use: queues, limits, keys, rows, errors, and the patience to ask again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// What a row costs beyond its data: counted against the cap, so that a flood of empty rows is bounded too.
pub const ROW_OVERHEAD: u64 = 32;

/// Outbound rows, however small: the deliver loop keeps up to 400 bytes of each in memory (measured, each to a receiver of its
/// own), so that these bound it to 100 MB. By bytes alone a flood of the smallest commands came to fifteen times as many.
pub const MAX_COMMANDS: u64 = 250_000;

/// One of the three durable queues. Each numbers its rows and never gives a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Queue {
    /// iLink → MQTT.
    Inbound,
    /// MQTT → iLink.
    Outbound,
    /// What was refused for good. When it is full, the oldest makes room.
    SetAside,
}

impl Queue {
    pub(super) const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::SetAside];

    /// The queue's name, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::SetAside => "set_aside",
        }
    }
}

/// One `T` for each queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerQueue<T> {
    /// That of [`Queue::Inbound`].
    pub inbound: T,
    /// That of [`Queue::Outbound`].
    pub outbound: T,
    /// That of [`Queue::SetAside`].
    pub set_aside: T,
}

/// The most each queue may hold, in bytes: its rows' data and [`ROW_OVERHEAD`] for each.
pub type Limits = PerQueue<u64>;

impl<T> PerQueue<T> {
    pub(super) fn get(&self, queue: Queue) -> &T {
        match queue {
            Queue::Inbound => &self.inbound,
            Queue::Outbound => &self.outbound,
            Queue::SetAside => &self.set_aside,
        }
    }

    pub(super) fn get_mut(&mut self, queue: Queue) -> &mut T {
        match queue {
            Queue::Inbound => &mut self.inbound,
            Queue::Outbound => &mut self.outbound,
            Queue::SetAside => &mut self.set_aside,
        }
    }
}

/// What a queue holds and which number it gives next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) next: u64,
    pub(super) depth: u64,
    pub(super) bytes: u64,
}

impl Default for Count {
    fn default() -> Self {
        Self { next: 1, depth: 0, bytes: 0 }
    }
}

impl Count {
    pub(super) fn added(&mut self, size: u64) {
        self.depth += 1;
        self.bytes += size;
    }

    /// With so much more; the next number stays.
    pub(super) fn plus(&mut self, more: &Self) {
        self.depth += more.depth;
        self.bytes += more.bytes;
    }

    pub(super) fn removed(&mut self, rows: u64, bytes: u64) {
        self.depth = self.depth.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// How much a row with this data counts against the cap.
pub(super) fn row_size(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX).saturating_add(ROW_OVERHEAD)
}

/// By which a redelivered command is known again after a restart. Stored in the same commit as its row; forgotten on request,
/// with the MQTT session, or when its packet id is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The command's packet id.
    pub pkid: u16,
    /// Of its bytes.
    pub digest: [u8; 32],
    /// The connection that delivered it, by this run's count; not kept.
    pub connection: u64,
}

/// What is put with a row, so that it is stored once: see [`Tokens`](super::Tokens).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// One of a kind.
    pub name: [u8; 32],
    /// For whoever finds it.
    pub value: Bytes,
    /// The version in whose place it is put; 0: it must not be there.
    pub replaces: u64,
}

/// What came of appending a row with a [`Token`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once {
    /// It is stored, and the token with it.
    Stored {
        /// The row's number.
        row: u64,
        /// The token's version.
        version: u64,
    },
    /// It is not: the token was not as expected.
    Known {
        /// Its version; 0: one was to be replaced, and there is none.
        version: u64,
        /// Its value.
        value: Bytes,
    },
    /// It is not, nor will it be: its time was over.
    Late,
}

/// A row of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number in its queue.
    pub seq: u64,
    /// What was stored.
    pub data: Bytes,
}

/// What a store keeps its rows on: what it needs from an operator differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// This machine's disk.
    Disk,
    /// An etcd that several bridges share.
    Etcd,
}

impl Medium {
    /// The setting that bounds a queue.
    #[must_use]
    pub const fn limit_key(self) -> &'static str {
        match self {
            Self::Disk => "spool.max_bytes",
            Self::Etcd => "cluster.max_bytes",
        }
    }
}

/// How much a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Rows.
    pub depth: u64,
    /// Bytes, as counted against the cap.
    pub bytes: u64,
}

/// What has happened since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows found damaged and left out, those found while opening included.
    pub damaged_rows: u64,
    /// Times the database was found damaged and rebuilt from what was readable, while opening included.
    pub rebuilds: u64,
    /// Rows the set-aside store dropped to make room.
    pub set_aside_dropped: u64,
    /// Commits followed by a sync.
    pub commits_synced: u64,
    /// Commits of lazy operations alone, left to the next sync.
    pub commits_lazy: u64,
}

/// Why a row was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue's cap is reached: try again once it has drained.
    #[error("the queue is full")]
    Full,
    /// As with everything else that is asked of the spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Why the spool could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The disk does not take it now (full, read-only, locked): nothing was stored, trying again later is safe.
    #[error("the spool cannot be written: {0}")]
    Unwritable(String),
    /// It is larger than the store ever takes: nothing was stored, and asking again is of no use.
    #[error("the spool cannot hold it: {0}")]
    TooLarge(String),
    /// The spool has failed or was closed; nothing is stored any more. The process should stop.
    #[error("the spool has failed: {0}")]
    Failed(String),
}

/// Nothing more is stored: for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStored {
    /// In plain words, with the remedy.
    pub cause: String,
    /// The same for programs.
    pub why: WhyNot,
}

/// Why nothing more is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// A queue holds all that it may.
    Full,
    /// The disk refuses for now: it is tried again.
    Refused,
    /// It has failed, for good: the process ends.
    Failed,
}

impl WhyNot {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Full, Self::Refused, Self::Failed];

    /// Its name in `bridge/health` and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// An error that may be over when the same is asked again.
pub trait Transient {
    /// Whether it is one of those.
    fn is_transient(&self) -> bool;
}

impl Transient for SpoolError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unwritable(_))
    }
}

impl Transient for AppendError {
    /// A full queue is not: it may stay full for as long as the broker or iLink is away.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Spool(error) if error.is_transient())
    }
}

/// The first pause between two tries, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How long what is refused for now is tried again: until the bridge stops.
#[derive(Debug, Default)]
pub struct Patience {
    ended: CancellationToken,
}

impl Patience {
    /// The bridge stops: whatever is refused is no longer tried again.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Tries until it is no longer refused; `refused` is told the cause each time.
    ///
    /// # Errors
    ///
    /// As the attempt; a transient error only after [`Self::end`].
    pub async fn retry<T, E, F>(&self, attempt: impl Fn() -> F, refused: impl Fn(&E)) -> Result<T, E>
    where
        E: Transient,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = FIRST;
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => {
                    refused(&error);
                    if self.ended.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(error);
                    }
                    pause = (pause * 2).min(LONGEST);
                }
                outcome => return outcome,
            }
        }
    }
}
