//! The *gate*: the last checks right before a command's request leaves. It checks the deadline, and makes a durable mark that
//! the command may have been sent.
//!
//! The mark is made before the request leaves: if the bridge is killed or loses power then, the next run knows that the command
//! may have been executed. The deadline is checked again after a wait for the disk or for a token, so that no command is sent
//! late.

use std::sync::atomic::{AtomicBool, Ordering};

use super::record::{Command, Mark, Record};
use crate::cloud;
use crate::observe::counters::Counters;
use crate::store::{Queue, SpoolError, Store};

/// The gate of one attempt.
pub(super) struct Gate<'a> {
    spool: &'a dyn Store,
    counters: &'a Counters,
    seq: u64,
    /// The command, with its mark.
    command: &'a Command,
    /// `unknown` and `mark` of the command without this attempt.
    before: (u32, Mark),
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
    /// The gate for the command in row `seq`. While a request is under way, the spool holds the command as it is given here.
    pub(super) fn new(
        spool: &'a dyn Store,
        counters: &'a Counters,
        seq: u64,
        command: &'a Command,
        before: (u32, Mark),
    ) -> Self {
        let (marked, left) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { spool, counters, seq, command, before, marked, left }
    }

    /// Whether a request has left.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether the spool holds the mark.
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
            let row = Record::Command(self.command.clone()).encode();
            self.spool.replace(Queue::Outbound, self.seq, row).await.map_err(Shut::Unmarked)?;
            self.marked.store(true, Ordering::Relaxed);
            self.in_time()?;
        }
        // If the request is repeated with a new token, it is still the same attempt.
        if !self.left.swap(true, Ordering::Relaxed) {
            self.counters.calls.add();
            if self.command.attempts > 1 {
                self.counters.calls_repeated.add();
            }
        }
        Ok(())
    }

    /// iLink has refused the request and not executed it.
    async fn refused(&self) {
        let mut command = self.command.clone();
        (command.unknown, command.mark) = self.before;
        take_back(self.spool, self.seq, command).await;
        self.marked.store(false, Ordering::Relaxed);
    }
}

/// Corrects the mark: the request was not executed, or that is unlikely. At once, so that the next run knows this, too, if the
/// bridge is killed before the next request. If the disk does not take it, as soon as it does.
pub(super) async fn take_back(spool: &dyn Store, seq: u64, unmarked: Command) {
    let row = Record::Command(unmarked).encode();
    if spool.replace(Queue::Outbound, seq, row.clone()).await.is_err() {
        spool.replace_lazily(Queue::Outbound, seq, row);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cloud::Gate as _;
    use crate::os::clock::Stamp;
    use crate::outbound::record::ReplyTo;
    use crate::protocol::Call;
    use crate::store::sqlite::Spool;
    use crate::store::{Append as _, Limits};

    #[tokio::test]
    async fn the_mark_stands_while_a_request_is_under_way_and_no_longer_even_if_the_bridge_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        spool.simulate();
        let reply_to = ReplyTo::only("ilink/call/ham_group/create".to_owned());
        let command = Command::new([7; 16], Stamp::now(), Duration::from_mins(5), reply_to, Call::ListGroups);
        let command = Command { attempts: 2, unknown: 1, mark: Mark::Sent, ..command };
        let seq = spool.append(Queue::Outbound, vec![0].into(), None).await.unwrap();
        let counters = Counters::default();
        let gate = Gate::new(&*spool, &counters, seq, &command, (0, Mark::Unsent));
        for marked in [true, false, true] {
            if marked {
                gate.pass().await.unwrap();
            } else {
                gate.refused().await;
                spool.lose_lazy();
            }
            let row = spool.read(Queue::Outbound, seq).await.unwrap().unwrap();
            let expected = if marked { (1, Mark::Sent) } else { (0, Mark::Unsent) };
            let Record::Command(Command { attempts, unknown, mark, .. }) = Record::decode(&row.data).unwrap() else {
                panic!("it is a command");
            };
            assert_eq!((attempts, (unknown, mark), gate.has_marked()), (2, expected, marked));
        }
        assert!(gate.has_left() && counters.calls.get() == 1);
    }
}
