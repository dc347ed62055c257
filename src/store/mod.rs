//! The durable queues: what is accepted is stored here before its sender is answered, and stays until it is completed.
//!
//! Rows are bytes. A store knows nothing of pushes, commands or results, nor of when a row is due. The rest of the
//! bridge knows the traits alone; `app` chooses the implementation: [`sqlite`] for a single bridge, [`etcd`] for
//! several. The `conformance` tests hold for any store.
//!
//! There are three traits, because several bridges may share one account. Each of them takes pushes in, so each may
//! [`Append`], and have what it appends known to the others ([`Tokens`]). Only the leader does the rest, by the whole [`Store`]. A single bridge does both.
//!
//! # What every store promises
//!
//! - **Durable** calls ([`Append::append`], [`Append::hand_over`], [`Store::replace`], [`Store::forget_session`], [`Store::flush`]) are
//!   answered once their change survives a crash of the process and of the machine. Each is one atomic commit, a row
//!   together with its [`Key`]. If a future is dropped before it returned, its change may or may not have been made.
//! - **Lazy** calls ([`Store::complete`], [`Store::replace_lazily`], [`Store::forget_redeliveries`], notes) return at
//!   once and cannot fail. Reads see their change at once. Changes are stored in the order of the calls, at the latest
//!   with the next durable change of this handle, or by themselves soon after. A crash may undo those not stored yet;
//!   then a delivery is repeated, and nothing else is lost. A change that a later one supersedes need not be stored at
//!   all.
//! - **Order.** Each queue numbers its rows. Numbers grow in the order in which the rows are stored. No number is ever
//!   given twice, not even after the queue was emptied or the store reopened. The rows of one caller are stored in the
//!   order of its calls. Once a number has been told, by an answer, [`Store::appended`] or a read, no row with a
//!   smaller one appears.
//! - **Full** is decided before anything is stored: by bytes ([`Append::limit`]), in [`Queue::Outbound`] also by
//!   [`MAX_COMMANDS`]. A lazy completion makes room at once. [`Queue::SetAside`] is never full: its oldest rows are
//!   dropped.
//! - **Refused for now** ([`SpoolError::Unwritable`]: no room on the disk, locked, unreachable): nothing was stored,
//!   and asking again is safe. Rows that are there can still be read, replaced and completed as far as possible. The
//!   trouble passes by itself. If nobody's help is needed for that ([`Append::passes`]), rows of [`Queue::Outbound`] that were
//!   appended after a refused one and before its answer are refused with it: whoever asks again in the same order has them
//!   stored in that order.
//! - **Too large** ([`SpoolError::TooLarge`]): as before, but asking again is of no use. Of a lazy change it is logged, and the
//!   row or note stays as it was.
//! - **Failed** ([`SpoolError::Failed`]): from here on it is unknown what is stored, as after a sync that failed. No
//!   call is answered any more, and [`Append::failed`] resolves. The process has to end; the next one reads what is
//!   there.
//! - **Damage** costs the damaged rows alone. They are left out, counted and reported. A row that is read is the row
//!   that was written.
//!
//! # What is left to a store
//!
//! - Numbers may have gaps and begin anywhere above 0. No caller may count on `seq + 1`, nor compute a depth from
//!   numbers.
//! - Callers may share a commit, and completions of neighbouring rows may be stored as one range.
//! - Where several bridges append, [`Store::appended`] moves and [`Append::stats`] change without a call of this
//!   bridge, and the limits hold for all together, perhaps a little late.
//! - A leader that was deposed is refused every change of [`Store`]; for its handle that counts as failed.

#[cfg(test)]
pub(crate) mod conformance;
pub mod etcd;
mod fullness;
mod request;
mod shared;
pub mod sqlite;
mod types;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use types::{
    AppendError, Counters, Key, Limits, MAX_COMMANDS, Medium, NotStored, Once, Patience, Queue, QueueStats,
    ROW_OVERHEAD, Row, SpoolError, Token, Transient, WhyNot,
};

/// What is asked of a store, on its way.
pub type Answer<'a, T, E = SpoolError> = BoxFuture<'a, Result<T, E>>;

/// What is to be done with the outcome of [`Append::hand_over`].
pub type Then = Box<dyn FnOnce(Result<u64, AppendError>) + Send>;

/// Taking rows in: what every bridge of an account may do.
pub trait Append: Debug + Send + Sync + 'static {
    /// Stores `data` as the newest row of `queue`, with `key` in the same commit, and gives the row's number. Durable when
    /// it returns. In [`Queue::SetAside`] the oldest rows make room.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; but for `Failed`, nothing was stored. `Full` in [`Queue::SetAside`]: larger than all of it.
    fn append(&self, queue: Queue, data: Bytes, key: Option<Key>) -> Answer<'_, u64, AppendError>;

    /// As [`Self::append`], for who must not wait: `then` is called with the outcome by a thread of the store, and must be
    /// quick; it is dropped instead if the store has failed. What has no place among those who wait already is given back.
    ///
    /// # Errors
    ///
    /// `then`, uncalled: [`Self::append`] waits for a place.
    fn hand_over(&self, queue: Queue, data: Bytes, key: Option<Key>, then: Then) -> Result<(), Then>;

    /// Wakes who waits for new rows of `queue`: to be called when those that were handed over are stored, and whoever waits for
    /// that was told. A row of [`Self::append`] needs no such call.
    fn announce(&self, queue: Queue);

    /// What the rows are kept on.
    fn medium(&self) -> Medium;

    /// Whether what is refused for this cause is taken by and by, without anybody's help. No I/O.
    fn passes(&self, cause: &str) -> bool;

    /// How much a queue holds, as of the last commit. No I/O.
    fn stats(&self, queue: Queue) -> QueueStats;

    /// The most that a queue may hold, in bytes as counted by [`QueueStats::bytes`].
    fn limit(&self, queue: Queue) -> u64;

    /// What has happened since the store was opened. No I/O.
    fn counters(&self) -> Counters;

    /// Whether appends are being stored; if not, why. What is refused for now is tried again every few seconds, so that this
    /// changes without anybody appending.
    fn writable(&self) -> watch::Receiver<Result<(), NotStored>>;

    /// As [`Self::writable`] has it now, and whether anything that shares the store's fate has failed. No I/O.
    ///
    /// # Errors
    ///
    /// Why nothing is stored.
    fn stores(&self) -> Result<(), NotStored>;

    /// Resolves, with the cause, once the store has failed; never after a clean close.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Whether it has failed. No I/O.
    fn has_failed(&self) -> bool;

    /// Whether everybody who asks for something waits, and a restart would not help: a damaged database is being rebuilt, or
    /// it cannot be read now.
    fn waits_for_the_disk(&self) -> Arc<AtomicBool>;

    /// Stores what is still lazy and ends it. Every call from then on gets [`SpoolError::Failed`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Taking rows in once, where several bridges do so.
///
/// A [`Token`] is stored with a row. While it is there, a row with a token of this name is stored only by replacing it; of several
/// who replace the same version, one succeeds. A token that nobody ends goes by itself, after some minutes.
pub trait Tokens: Append {
    /// As [`Append::append`] to [`Queue::Inbound`], with this token in the same commit. If the token is not the version that
    /// this one replaces, nothing is stored, and a full queue is no error. After `until`, by the boot-time clock, storing it is
    /// not tried any more.
    ///
    /// # Errors
    ///
    /// As [`Append::append`].
    fn append_once(&self, data: Bytes, token: Token, until: Duration) -> Answer<'_, Once, AppendError>;

    /// Puts the token alone, in the place of the version that it replaces. Gives its own version; none if another was there.
    /// Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; but for `Failed`, it is as it was.
    fn put(&self, token: Token) -> Answer<'_, Option<u64>>;

    /// Removes the token of this name if it is of this version, or empties it, lazily. Until then, by the boot-time clock, nobody
    /// else replaces it.
    fn end(&self, name: [u8; 32], version: u64, until: Duration);
}

/// All that is done with the rows: by the one bridge that leads.
///
/// Reads are tried again while the rows cannot be read for now, until [`Self::patience`] ends: they give `Failed`, or after that
/// end `Unwritable`.
pub trait Store: Append {
    /// The rows of `queue` after number `after` (0: from the start), oldest first: at most `max_rows` with at most `max_bytes`
    /// of data, but one if there is one.
    ///
    /// # Errors
    ///
    /// As all reads.
    fn read_after(&self, queue: Queue, after: u64, max_rows: usize, max_bytes: usize) -> Answer<'_, Vec<Row>>;

    /// One row, if it is there.
    ///
    /// # Errors
    ///
    /// As all reads.
    fn read(&self, queue: Queue, seq: u64) -> Answer<'_, Option<Row>>;

    /// The oldest row, for who only looks: asked once.
    ///
    /// # Errors
    ///
    /// [`SpoolError`].
    fn oldest(&self, queue: Queue) -> Answer<'_, Option<Row>>;

    /// The highest number stored in `queue`: wakes who reads it, but see [`Append::announce`]. It is told no later than the row's
    /// own answer. After opening, that of the run before.
    fn appended(&self, queue: Queue) -> watch::Receiver<u64>;

    /// Removes a row, lazily. From then on no change brings it back.
    fn complete(&self, queue: Queue, seq: u64);

    /// Replaces a row's data in one commit: a command by its result, say. Durable when it returns, and allowed when the queue is
    /// full. A row that is not there stays so.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; but for `Failed`, the row is as it was.
    fn replace(&self, queue: Queue, seq: u64, data: Vec<u8>) -> Answer<'_, ()>;

    /// Returns when all lazy changes that were asked for before are durable: for who says that something was done.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]; but for `Failed`, they are still to be stored.
    fn flush(&self) -> Answer<'_, ()>;

    /// As [`Self::replace`], but lazily.
    fn replace_lazily(&self, queue: Queue, seq: u64, data: Vec<u8>);

    /// The [`Key`]s that are alive, by packet id: one for each, the latest.
    ///
    /// # Errors
    ///
    /// As all reads.
    fn redeliveries(&self) -> Answer<'_, Vec<(u16, [u8; 32])>>;

    /// Forgets every [`Key`]: a new MQTT session began with connection `began`. From then on those of earlier connections are
    /// not kept, although their rows are. Durable when it returns.
    ///
    /// # Errors
    ///
    /// As [`Self::replace`].
    fn forget_session(&self, began: u64) -> Answer<'_, ()>;

    /// Forgets the [`Key`] of each of these packet ids, lazily; not those stored from now on.
    fn forget_redeliveries(&self, pkids: Vec<u16>);

    /// Keeps a small value under `key`, lazily. Notes are few and not counted against any limit.
    fn put_note(&self, key: &str, value: Vec<u8>);

    /// Removes what is kept under `key`, lazily.
    fn remove_note(&self, key: &str);

    /// The notes whose key starts with `prefix`, by key.
    ///
    /// # Errors
    ///
    /// As all reads.
    fn notes(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>>;

    /// How long what is refused for now is tried again.
    fn patience(&self) -> &Patience;
}
