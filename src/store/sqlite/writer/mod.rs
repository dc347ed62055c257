//! The writer: the one thread that accesses the database.
//!
//! It takes everything that is waiting, stores it in one commit, then answers. What arrives during that commit makes
//! the next one: the higher the load, the more each sync carries. It sleeps without a timer unless something is due.
//!
//! Its loop is here; `store` commits, `read` reads, `upkeep` does what nobody asks for.

mod read;
mod store;
mod upkeep;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::db::Db;
use super::disk::Disk;
use super::files::Files;
use super::fresh::Fresh;
use super::inbox::{Inbox, LAZY_WAIT};
use super::pending::{Lazy, Pending};
use crate::store::fullness::Fullness;
use crate::store::request::{Op, Reply};
use crate::store::shared::Shared;
use crate::store::types::{Limits, Medium, Queue, Row};

/// The most one commit carries. What is beyond waits for the next.
const BATCH_REQUESTS: usize = 1024;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Nothing was committed for this long: time to checkpoint, and then to rest.
const IDLE_AFTER: Duration = Duration::from_secs(2);

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
    /// Since when.
    Lazy(Lazy, Instant),
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

/// The writer must end: after a failure already told to all, or because it was closed.
pub(super) struct Stop;

/// The state of the writer.
pub(super) struct Writer {
    db: Db,
    files: Files,
    limits: Limits,
    disk: Disk,
    inbox: Inbox<Request>,
    shared: Arc<Shared>,
    fresh: Arc<Fresh>,
    pending: Pending,
    /// What is in the way of storing.
    refused: Option<Refused>,
    /// What is in the way of reading.
    unreadable: Option<String>,
    /// Since when the disk does not give back what it holds.
    unread_since: Option<Instant>,
    /// The causes that the log has since it could be written last.
    told: Vec<String>,
    /// Whether there is ballast, or was. It is taken when at rest: a start is to be quick.
    ballast: bool,
    fullness: Fullness,
    /// When the log last grew; `None` once it is empty.
    grown: Option<Instant>,
    /// Whether the operator knows that another program keeps the log from being emptied.
    reader_warned: bool,
    #[cfg(test)]
    delays_lazy: bool,
}

/// Why nothing can be stored now.
struct Refused {
    cause: String,
    /// When it is tried again.
    again: Instant,
    /// It is only new rows that are refused.
    only_rows: bool,
}

/// What one turn takes from the channel.
#[derive(Default)]
struct Turn {
    ops: Vec<Op>,
    reads: Vec<Read>,
    taken: usize,
    bytes: usize,
    close: Option<Closing>,
}

impl Turn {
    fn is_full(&self) -> bool {
        self.taken >= BATCH_REQUESTS || self.bytes >= BATCH_BYTES || self.close.is_some()
    }
}

impl Writer {
    pub(super) fn new(
        db: Db,
        files: Files,
        limits: Limits,
        inbox: Inbox<Request>,
        shared: Arc<Shared>,
        fresh: Arc<Fresh>,
    ) -> Self {
        let disk = Disk::new(&files.dir);
        let grown = (files.log_size() > 0).then(Instant::now);
        shared.show(&db.counts);
        let pending = Pending::default();
        let ballast = files.ballast_size() > 0;
        Self {
            db,
            files,
            limits,
            disk,
            inbox,
            shared,
            fresh,
            pending,
            refused: None,
            unreadable: None,
            unread_since: None,
            told: Vec::new(),
            ballast,
            fullness: Fullness::new(Medium::Disk),
            grown,
            reader_warned: false,
            #[cfg(test)]
            delays_lazy: false,
        }
    }

    /// Works until closed or failed. The last handle closes it.
    pub(super) fn run(mut self) {
        if let Err(cause) = self.room() {
            self.refuse_rows(cause);
        }
        loop {
            let mut turn = Turn::default();
            let mut next = self.inbox.next(self.due());
            while let Some(request) = next {
                self.take(request, &mut turn);
                next = if turn.is_full() { None } else { self.inbox.try_next() };
            }
            let close = turn.close.take();
            if self.serve(turn).is_err() {
                return;
            }
            if let Some(closing) = close {
                self.finish();
                if let Closing::Awaited(reply) = closing {
                    reply.send(Ok(()));
                }
                return;
            }
        }
    }

    /// When to wake without being asked; `None`: nothing to do, sleep.
    fn due(&self) -> Option<Instant> {
        let again = self.refused.as_ref().map(|refused| refused.again);
        if self.is_stuck() {
            return again;
        }
        let lazy = self.lazy_since().map(|since| since + LAZY_WAIT);
        let own = lazy.or(self.grown.map(|grown| grown + IDLE_AFTER));
        again.into_iter().chain(own).min()
    }

    /// Since when lazy operations wait for a commit of their own.
    fn lazy_since(&self) -> Option<Instant> {
        #[cfg(test)]
        if self.delays_lazy {
            return None;
        }
        self.pending.since()
    }

    /// Whether nothing at all can be stored.
    fn is_stuck(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| !refused.only_rows)
    }

    fn take(&mut self, request: Request, turn: &mut Turn) {
        turn.taken += 1;
        match request {
            Request::Durable(op) => {
                if let Op::Replace { queue, seq, .. } = &op {
                    self.pending.supersede(*queue, *seq);
                }
                turn.bytes = turn.bytes.saturating_add(op.weight());
                turn.ops.push(op);
            }
            Request::Lazy(lazy, at) => self.pending.add(lazy, at),
            Request::Read(read) => turn.reads.push(read),
            Request::Close(reply) => turn.close = Some(reply),
            #[cfg(test)]
            Request::Inject(inject) => self.inject(inject),
        }
    }

    fn serve(&mut self, turn: Turn) -> Result<(), Stop> {
        if !turn.ops.is_empty() {
            let ops = self.admit(turn.ops)?;
            self.store(ops)?;
        }
        for read in turn.reads {
            self.read(read)?;
        }
        self.chores()
    }

    #[cfg(test)]
    fn inject(&mut self, inject: Inject) {
        match inject {
            Inject::FailCommit(code) => self.db.fail_commit = Some(code),
            Inject::FailReads(times, code) => self.db.fail_reads = (times, code),
            Inject::Free(free) => self.disk.pretended = Some(free),
            Inject::Simulate => (self.delays_lazy, self.db.never_syncs) = (true, true),
            Inject::LoseLazy => self.pending = Pending::default(),
            Inject::MaxPages(pages) => self.db.conn.pragma_update(None, "max_page_count", pages).unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox;
    use super::*;
    use crate::os::files::Failure;
    use crate::store::sqlite::pending::Change;
    use crate::store::sqlite::recovery;

    #[test]
    fn a_timer_runs_only_while_something_is_due() {
        let dir = tempfile::TempDir::new().unwrap();
        let (db, files, _) = recovery::open(dir.path()).unwrap();
        let limits = Limits { inbound: 1000, outbound: 1000, set_aside: 1000 };
        let (_requests, inbox) = inbox::inbox();
        let mut writer =
            Writer::new(db, files, limits, inbox, Arc::new(Shared::new(Failure::default())), Arc::default());
        assert_eq!(writer.due(), None, "a new one is in order");
        let pass = |writer: &mut Writer, time| {
            writer.grown = writer.grown.and_then(|grown| grown.checked_sub(time));
            assert!(writer.chores().is_ok());
        };
        writer.pending.add(Lazy::Row(Queue::Inbound, 1, Change::Complete), Instant::now());
        assert!(writer.due().is_some_and(|due| due <= Instant::now() + LAZY_WAIT));
        assert!(writer.store(Vec::new()).is_ok());
        assert!(writer.due().is_some_and(|due| due > Instant::now() + LAZY_WAIT), "to checkpoint");
        pass(&mut writer, IDLE_AFTER);
        assert_eq!(writer.due(), None);
        assert_eq!(writer.files.log_size(), 0);
    }
}
