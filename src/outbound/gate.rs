//! What a command has to pass right before its request leaves: its deadline, and the durable mark that it may have been sent.
//!
//! The mark comes first: should the bridge be killed or lose its power in the same moment, the next run knows that the command
//! may have been executed. What has to wait for the disk, or for a token, is looked at again after that: a command that was to
//! open a door is not sent late.

use std::sync::atomic::{AtomicBool, Ordering};

use super::record::{Command, Record};
use crate::cloud;
use crate::counters::Counters;
use crate::spool::{Queue, Spool, SpoolError};

/// The gate of one attempt.
pub(super) struct Gate<'a> {
    spool: &'a Spool,
    counters: &'a Counters,
    seq: u64,
    /// With its mark.
    command: &'a Command,
    marked: AtomicBool,
    left: AtomicBool,
}

/// Why a request must not leave.
#[derive(Debug)]
pub(super) enum Shut {
    /// The command has expired.
    Late,
    /// The disk did not take the mark.
    Unmarked(SpoolError),
}

impl<'a> Gate<'a> {
    /// For command number `seq`, which from its first request on is to be found in the spool as it is here.
    pub(super) fn new(spool: &'a Spool, counters: &'a Counters, seq: u64, command: &'a Command) -> Self {
        Self { spool, counters, seq, command, marked: AtomicBool::new(false), left: AtomicBool::new(false) }
    }

    /// Has a request left?
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Does the spool hold the mark?
    pub(super) fn has_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    fn in_time(&self) -> Result<(), Shut> {
        if self.command.has_expired() { Err(Shut::Late) } else { Ok(()) }
    }
}

impl cloud::Gate for Gate<'_> {
    type Shut = Shut;

    async fn pass(&self) -> Result<(), Shut> {
        self.in_time()?;
        if !self.has_marked() {
            let row = Record::Command(self.command.clone()).encode().unwrap_or_default();
            self.spool.replace(Queue::Outbound, self.seq, row).await.map_err(Shut::Unmarked)?;
            self.marked.store(true, Ordering::Relaxed);
            self.in_time()?;
        }
        // Repeated within one attempt, because iLink wanted a new token, it is one attempt.
        if !self.left.swap(true, Ordering::Relaxed) {
            self.counters.calls.add();
            if self.command.attempts > 1 {
                self.counters.calls_repeated.add();
            }
        }
        Ok(())
    }
}
