//! Stores: what is admitted goes into one commit, and its callers are answered only after that.

use std::mem;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::db::Syncs;
use super::super::fault::Fault;
use super::{Refused, Stop, Writer};
use crate::store::fullness::beyond;
use crate::store::request::{New, Op};
use crate::store::shared::add;
use crate::store::types::{AppendError, NotStored, PerQueue, Queue, Row, SpoolError, WhyNot, row_size};

/// While the disk refuses, how often it is tried again without being asked.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// A log beyond this is not ours alone: another program keeps a reading transaction open.
const LOG_TOO_LARGE: u64 = 64 * 1024 * 1024;

/// Whether what is appended there comes from outside. What is set aside was in the spool before, and leaves it in exchange: like
/// completions it uses the room that is kept free.
fn is_new(queue: Queue) -> bool {
    queue != Queue::SetAside
}

impl Writer {
    /// Refuses what has no room, before the disk is touched. The rest is to be stored.
    pub(super) fn admit(&mut self, ops: Vec<Op>) -> Result<Vec<Op>, Stop> {
        let room = self.room();
        let exceeds = |(queue, size)| self.exceeds(queue, size, 0);
        if ops.iter().filter_map(Op::adds).any(exceeds) && self.pending.completed().next().is_some() {
            // Completions still pending make room.
            self.store(Vec::new())?;
        }
        let mut adding = PerQueue::<u64>::default();
        let mut admitted = Vec::with_capacity(ops.len());
        let mut refused = Vec::new();
        for op in ops {
            let Op::Append(new, reply) = op else {
                admitted.push(op);
                continue;
            };
            let (queue, size) = (new.queue, row_size(&new.data));
            if self.exceeds(queue, size, *adding.get(queue)) {
                self.fullness.refused(queue, size);
                refused.push((reply, AppendError::Full));
            } else if let (Err(cause), true) = (&room, is_new(queue)) {
                refused.push((reply, SpoolError::Unwritable(cause.clone()).into()));
            } else {
                *adding.get_mut(queue) += size;
                admitted.push(Op::Append(new, reply));
            }
        }
        match room {
            // Else nothing can be stored, for a reason that is told already.
            Err(cause) if !self.is_stuck() => self.refuse_rows(cause),
            // What is admitted here counts against the limit only once it is stored, and then it is shown.
            _ if admitted.is_empty() || refused.is_empty() => self.show_writable(),
            _ => {}
        }
        for (reply, error) in refused {
            reply.send(Err(error));
        }
        Ok(admitted)
    }

    /// Whether rows may be added; if not, why.
    pub(super) fn room(&self) -> Result<(), String> {
        self.disk.has_room(|| self.db.unused().unwrap_or(0))
    }

    /// Whether a row of this size has no place in a queue to which so much is about to be added.
    fn exceeds(&self, queue: Queue, size: u64, adding: u64) -> bool {
        let limit = *self.limits.get(queue);
        match queue {
            // The oldest make room, unless it is larger than the whole store.
            Queue::SetAside => size > limit,
            _ => beyond(queue, self.db.counts.get(queue), adding.saturating_add(size), limit),
        }
    }

    /// Stores and answers `ops`, and stores what is pending with them.
    pub(super) fn store(&mut self, mut ops: Vec<Op>) -> Result<(), Stop> {
        let mut log_tried = false;
        while !(ops.is_empty() && self.pending.is_empty()) {
            let sync = if ops.is_empty() { Syncs::Later } else { Syncs::Now };
            match self.db.commit(&ops, &self.pending, &self.limits, sync).map_err(|fault| self.judged(fault)) {
                Ok(committed) => {
                    // The sync of somebody else's file may have failed meanwhile.
                    if let Some(cause) = self.shared.failure.get() {
                        return Err(self.fail(cause));
                    }
                    self.pending.clear();
                    self.grown = Some(Instant::now());
                    add(&self.shared.set_aside_dropped, committed.dropped);
                    let synced =
                        if sync == Syncs::Now { &self.shared.commits_synced } else { &self.shared.commits_lazy };
                    add(synced, 1);
                    let new = self.shared.count(&self.db.counts);
                    if self.refused.is_some() && ops.iter().any(|op| op.adds().is_some_and(|(queue, _)| is_new(queue)))
                    {
                        self.accept_again();
                    }
                    self.show_writable();
                    let are_handed_over = ops.iter().all(Op::is_handed_over);
                    // Whoever handed a row over knows its number before anybody can read and complete it.
                    self.fresh.stored(ops.into_iter().zip(committed.seqs).filter_map(
                        |(op, seq)| match op.stored(seq) {
                            Some((New { queue: Queue::Inbound, data, .. }, seq)) => Some(Row { seq, data }),
                            _ => None,
                        },
                    ));
                    if !are_handed_over {
                        self.shared.wake(&new);
                    }
                    break;
                }
                Err(full) if full.is_full() && self.make_do(&mut log_tried)? => {}
                Err(Fault::Unwritable(cause) | Fault::Unread(cause)) => {
                    let cause = self.placed(&cause);
                    // Results may still fit where new rows do not: once more without those.
                    let (adding, rest): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.adds().is_some());
                    let refused = if adding.is_empty() { (rest, Vec::new()) } else { (adding, rest) };
                    self.refuse(cause.clone());
                    for op in refused.0 {
                        op.refused(SpoolError::Unwritable(cause.clone()));
                    }
                    ops = refused.1;
                    if ops.is_empty() {
                        break;
                    }
                }
                Err(Fault::Damaged(cause)) => self.rebuild(&cause)?,
                Err(Fault::Fatal(cause)) => return Err(self.fail(cause)),
            }
        }
        self.shorten_log()?;
        self.watch_log();
        Ok(())
    }

    /// Makes a little room on a full disk, first by the log, unless that was tried; false if there is none to be made.
    fn make_do(&mut self, log_tried: &mut bool) -> Result<bool, Stop> {
        // An empty one has nothing to give.
        let by_log = !mem::replace(log_tried, true) && self.files.log_size() > 0 && self.reuse_log()?;
        Ok(by_log || self.files.drop_ballast())
    }

    fn reuse_log(&mut self) -> Result<bool, Stop> {
        match self.db.reuse_log().map_err(Fault::from) {
            Ok(reused) => Ok(reused),
            Err(Fault::Fatal(cause)) => Err(self.fail(cause)),
            // What else is wrong, the commit tells.
            Err(_) => Ok(false),
        }
    }

    /// Moves the log into the database if it is long. Those whose commit made it so have their answer.
    fn shorten_log(&mut self) -> Result<(), Stop> {
        match self.db.checkpoint_if_long().map_err(|error| self.judged(error.into())) {
            Ok(()) => {}
            Err(Fault::Fatal(cause)) => return Err(self.fail(cause)),
            Err(Fault::Damaged(cause)) => self.rebuild(&cause)?,
            // Commits go on as long as the log can grow; then they say it.
            Err(Fault::Unwritable(cause) | Fault::Unread(cause)) => {
                let cause = self.placed(&cause);
                if !self.told.contains(&cause) {
                    warn!(cause, "the spool's log cannot be moved into its database; trying again");
                    self.told.push(cause);
                }
            }
        }
        Ok(())
    }

    /// The cause, with the place it is about.
    pub(super) fn placed(&self, cause: &str) -> String {
        format!("{}: {cause}", self.files.main.display())
    }

    /// Nothing can be stored now.
    pub(super) fn refuse(&mut self, cause: String) {
        self.refuse_some(cause, false);
    }

    /// No more rows are taken; all else is still stored.
    pub(super) fn refuse_rows(&mut self, cause: String) {
        self.refuse_some(cause, true);
    }

    fn refuse_some(&mut self, cause: String, only_rows: bool) {
        self.refused = Some(Refused { cause: cause.clone(), again: Instant::now() + RETRY_EVERY, only_rows });
        self.show_writable();
        if !self.told.contains(&cause) {
            warn!(cause, "the spool cannot be written; trying again");
            self.told.push(cause);
        }
    }

    pub(super) fn accept_again(&mut self) {
        self.refused = None;
        self.told.clear();
        self.show_writable();
        info!("the spool can be written again");
    }

    pub(super) fn show_writable(&mut self) {
        let (mut now, changes) = self.fullness.look(&self.db.counts, &self.limits);
        if let Some(cause) = self.unreadable.as_ref().or(self.refused.as_ref().map(|refused| &refused.cause)) {
            now = Err(NotStored { cause: cause.clone(), why: WhyNot::Refused });
        }
        self.shared.set_writable(now);
        // Whoever reads the line and then asks is told the same.
        changes.log();
    }

    fn watch_log(&mut self) {
        if !self.reader_warned && self.db.log_size() > LOG_TOO_LARGE {
            self.reader_warned = true;
            warn!("another program keeps reading the spool's database: its log grows without bound");
        }
    }
}
