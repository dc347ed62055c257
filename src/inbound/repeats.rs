//! Tells iLink's second try of a push from a new push with the same bytes.
//!
//! Pushes carry no message id (manual §4), and iLink sends a body again when it got no answer (§2.2). So a push is a *repeat*
//! when the same bytes were stored, or are being stored, less than 60 s ago and none of the tries was answered: it shares
//! that one's commit. Once a try was answered, the same bytes are a new message: two "ON" in one second are two.
//!
//! This is the memory of it; the spool keeps the digests across a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Stamp;
use crate::counters::Unanswered;

/// How long a stored, unanswered push is remembered: three tries of 5 s each, with room.
pub const WINDOW: Duration = Duration::from_mins(1);

/// SHA-256 of a push's body.
pub type Digest = [u8; 32];

/// How far storing a push has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On its way to the disk.
    Storing,
    /// The spool refused it; it is still being tried.
    Refused(Unanswered),
    /// It is in the spool.
    Stored,
}

/// What a push turned out to be.
#[derive(Debug)]
pub enum Claim {
    /// New: the caller stores it and tells the others through the sender; a closed channel tells them that it gave up.
    First(Ticket, watch::Sender<Progress>),
    /// A further try of a push that is stored or being stored.
    Repeat(Ticket, watch::Receiver<Progress>),
}

/// Names one remembered push, so that a late note about it cannot touch its successor with the same bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// The body's digest.
    pub digest: Digest,
    /// When it was taken: the moment of its key in the spool.
    pub at: Stamp,
    number: u64,
}

struct Entry {
    number: u64,
    at: Stamp,
    progress: watch::Receiver<Progress>,
    /// Tries whose answer is being handed to the socket.
    leaving: u32,
}

impl Entry {
    /// An answer that is leaving counts as given: its receiver may send the next push before its leaving is noted here, and
    /// that one must not be lost.
    fn makes_repeats(&self) -> bool {
        self.leaving == 0 && self.is_remembered()
    }

    fn is_remembered(&self) -> bool {
        *self.progress.borrow() != Progress::Stored || self.at.age() < WINDOW
    }
}

#[derive(Default)]
struct Memory {
    entries: HashMap<Digest, Entry>,
    next: u64,
    sweep_at: usize,
}

/// The memory of unanswered pushes.
pub struct Repeats {
    memory: Mutex<Memory>,
}

/// Below this many entries nothing is swept: a sweep walks all of them.
const SWEEP_FROM: usize = 1024;

impl Repeats {
    /// A memory that starts with what the spool kept of an earlier run.
    #[must_use]
    pub fn new(kept: Vec<(Digest, Stamp)>) -> Self {
        let (_, stored) = watch::channel(Progress::Stored);
        let entries = kept
            .into_iter()
            .map(|(digest, at)| (digest, Entry { number: 0, at, progress: stored.clone(), leaving: 0 }))
            .collect();
        Self { memory: Mutex::new(Memory { entries, next: 1, sweep_at: SWEEP_FROM }) }
    }

    /// Is this a new push, or a further try of one?
    pub fn claim(&self, digest: Digest) -> Claim {
        let mut memory = self.lock();
        if let Some(entry) = memory.entries.get(&digest)
            && entry.makes_repeats()
        {
            let ticket = Ticket { digest, at: entry.at, number: entry.number };
            return Claim::Repeat(ticket, entry.progress.clone());
        }
        memory.sweep();
        let number = memory.next;
        memory.next += 1;
        let (tell, progress) = watch::channel(Progress::Storing);
        let at = Stamp::now();
        memory.entries.insert(digest, Entry { number, at, progress, leaving: 0 });
        Claim::First(Ticket { digest, at, number }, tell)
    }

    /// Gives a push up that could not be stored, unless a try of it still waits: what was never stored makes no repeats.
    /// True if it was given up.
    pub fn give_up(&self, ticket: Ticket, tell: &watch::Sender<Progress>) -> bool {
        let mut memory = self.lock();
        // One receiver is the entry's own. Claims are made under the same lock, so none can slip in between.
        let alone = tell.receiver_count() <= 1;
        if alone {
            memory.entries.remove(&ticket.digest);
        }
        alone
    }

    /// A try of the push was answered: the same bytes are a new message from here on.
    pub fn answered(&self, ticket: Ticket) {
        let mut memory = self.lock();
        if memory.entry(ticket).is_some() {
            memory.entries.remove(&ticket.digest);
        }
    }

    /// An answer to a try of the push is about to leave. Then comes [`Self::answered`] or [`Self::not_answered`]. False if the
    /// same bytes are a newer push already.
    pub fn leaving(&self, ticket: Ticket) -> bool {
        let mut memory = self.lock();
        let entry = memory.entry(ticket);
        entry.map(|entry| entry.leaving += 1).is_some()
    }

    /// The answer did not leave, or too late. If a further try is a repeat as before, `remember` is called, before any such try
    /// can be claimed: its own answer's note must not be taken for the one that is taken back.
    pub fn not_answered(&self, ticket: Ticket, remember: impl FnOnce()) {
        let mut memory = self.lock();
        let Some(entry) = memory.entry(ticket) else { return };
        entry.leaving = entry.leaving.saturating_sub(1);
        if entry.makes_repeats() {
            remember();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Every change under the lock is a single step, so a panic elsewhere leaves nothing half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// The ticket's own entry, if no newer push with the same bytes has taken its place.
    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.entries.get_mut(&ticket.digest).filter(|entry| entry.number == ticket.number)
    }

    /// Forgets what is too old to matter, whenever the memory has doubled since the last time.
    fn sweep(&mut self) {
        if self.entries.len() < self.sweep_at {
            return;
        }
        self.entries.retain(|_, entry| entry.is_remembered());
        self.sweep_at = (self.entries.len() * 2).max(SWEEP_FROM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = [1; 32];
    const B: Digest = [2; 32];

    fn first(repeats: &Repeats, digest: Digest) -> (Ticket, watch::Sender<Progress>) {
        match repeats.claim(digest) {
            Claim::First(ticket, tell) => (ticket, tell),
            Claim::Repeat(..) => panic!("a repeat"),
        }
    }

    fn is_repeat(repeats: &Repeats, digest: Digest) -> bool {
        matches!(repeats.claim(digest), Claim::Repeat(..))
    }

    #[test]
    fn a_second_try_shares_the_first_ones_outcome() {
        let repeats = Repeats::new(vec![]);
        let (_, tell) = first(&repeats, A);
        let Claim::Repeat(_, progress) = repeats.claim(A) else { panic!("not a repeat") };
        assert_eq!(*progress.borrow(), Progress::Storing);
        tell.send(Progress::Stored).unwrap();
        assert_eq!(*progress.borrow(), Progress::Stored);
        assert!(!is_repeat(&repeats, B));
    }

    #[test]
    fn after_an_answer_the_same_bytes_are_new() {
        let repeats = Repeats::new(vec![]);
        let (ticket, tell) = first(&repeats, A);
        tell.send(Progress::Stored).unwrap();
        repeats.answered(ticket);
        assert!(!is_repeat(&repeats, A));
    }

    #[test]
    fn an_answer_that_is_leaving_is_given_unless_it_does_not_leave() {
        let repeats = Repeats::new(vec![]);
        let (ticket, tell) = first(&repeats, A);
        tell.send(Progress::Stored).unwrap();
        assert!(repeats.leaving(ticket));
        let mut remembered = 0;
        repeats.not_answered(ticket, || remembered += 1);
        assert!(is_repeat(&repeats, A));
        assert!(repeats.leaving(ticket));
        let (_new, tell) = first(&repeats, A);
        tell.send(Progress::Stored).unwrap();
        // What becomes of the old answer is nothing to the new push.
        repeats.not_answered(ticket, || remembered += 1);
        assert_eq!(remembered, 1);
        repeats.answered(ticket);
        assert!(!repeats.leaving(ticket));
        assert!(is_repeat(&repeats, A));
    }

    #[test]
    fn a_late_note_about_the_old_push_does_not_touch_the_new_one() {
        let repeats = Repeats::new(vec![]);
        let (old, tell) = first(&repeats, A);
        tell.send(Progress::Stored).unwrap();
        repeats.answered(old);
        let (_new, _tell) = first(&repeats, A);
        repeats.answered(old);
        assert!(is_repeat(&repeats, A));
    }

    #[test]
    fn what_was_never_stored_makes_no_repeats() {
        let repeats = Repeats::new(vec![]);
        let (ticket, tell) = first(&repeats, A);
        assert!(repeats.give_up(ticket, &tell));
        assert!(!is_repeat(&repeats, A));
    }

    #[test]
    fn a_push_is_not_given_up_while_a_try_of_it_waits() {
        let repeats = Repeats::new(vec![]);
        let (ticket, tell) = first(&repeats, A);
        let waiting = tell.subscribe();
        assert!(!repeats.give_up(ticket, &tell));
        drop(waiting);
        assert!(repeats.give_up(ticket, &tell));
    }

    #[test]
    fn an_earlier_runs_unanswered_push_is_still_known() {
        let repeats = Repeats::new(vec![(A, Stamp::now())]);
        assert!(is_repeat(&repeats, A));
    }
}
