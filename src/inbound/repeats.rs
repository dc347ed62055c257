//! Tells a push that iLink sends again from a new push with the same bytes, where one bridge takes all pushes (where several do:
//! `due`).
//!
//! Pushes carry no message id (manual §4), and iLink sends a push again if it got no answer (§2.2); each sending is a *try*. A
//! push is a *repeat* if the same bytes were stored less than 60 s ago, or are being stored, and no try of them was answered.
//! It then shares the first one's commit. Once a try was answered, the same bytes are a new message: two "ON" in one second are
//! two.
//!
//! After a restart, the rows of the inbound queue tell which pushes were stored, and `answered` which of them were answered. A
//! push that was delivered before it was answered leaves a note in the spool, because its row is removed. So a push that is
//! answered at once, as nearly all are, costs one byte in a file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, watch};

use super::answered::{Answered, PLACES, Seen};
use super::record::Record;
use crate::observe::counters::Unanswered;
use crate::os::clock::Stamp;
use crate::os::lock;
use crate::store::{Queue, Row, SpoolError, Store};

/// How long a stored push without an answer is remembered. iLink makes three tries of 5 s each.
pub const WINDOW: Duration = Duration::from_mins(1);

/// The prefix of notes; the number of a row that was delivered and not answered follows.
const NOTE: &str = "repeat/";
/// The most rows and bytes to read at once after a restart.
const READ_ROWS: usize = 256;
const READ_BYTES: usize = 512 * 1024;

/// SHA-256 of a push's body.
pub type Digest = [u8; 32];

/// How far the storing of a push has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On its way to the disk.
    Storing,
    /// The spool refused it; it is still being tried.
    Refused(Unanswered),
    /// It is in the spool.
    Stored,
    /// The spool has failed: nothing comes of it any more.
    Failed,
}

/// What a push turned out to be.
#[derive(Debug)]
pub enum Claim {
    /// A new push. The caller stores it, and reports its progress to further tries through the sender. If it drops the sender,
    /// it has given up.
    First(Ticket, watch::Sender<Progress>),
    /// A further try of a push that is stored, or is being stored.
    Repeat(Ticket, watch::Receiver<Progress>),
}

/// Identifies one remembered push, so that late news about it do not affect a newer push with the same bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    digest: Digest,
    number: u64,
}

struct Entry {
    number: u64,
    at: Stamp,
    progress: watch::Receiver<Progress>,
    /// Its row, once it has one.
    seq: Option<u64>,
    /// How many answers to its tries are about to leave.
    leaving: u32,
    /// Its row is gone.
    delivered: bool,
    /// The spool has a note of it.
    noted: bool,
}

impl Entry {
    /// Whether the same bytes would be a repeat now. An answer that is about to leave counts as given: the receiver may send
    /// its next push before we notice that the answer has left, and that push must not be lost.
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
    /// The entries of stored pushes, by row.
    rows: HashMap<u64, Digest>,
    next: u64,
    sweep_at: usize,
}

/// The memory of unanswered pushes.
pub struct Repeats {
    spool: Arc<dyn Store>,
    answered: Answered,
    /// The newest row of the run before.
    highest: u64,
    loaded: OnceCell<()>,
    memory: Mutex<Memory>,
}

/// Below this many entries nothing is swept: a sweep walks all of them.
const SWEEP_FROM: usize = 1024;

impl Repeats {
    /// The memory of the pushes in `spool`, with the `answered` file in this directory. [`Self::load`] reads what an earlier
    /// run left.
    #[must_use]
    pub fn new(spool: Arc<dyn Store>, directory: &Path) -> Self {
        let highest = *spool.appended(Queue::Inbound).borrow();
        let memory = Mutex::new(Memory { next: 1, sweep_at: SWEEP_FROM, ..Memory::default() });
        Self { answered: Answered::open(directory, highest), spool, highest, loaded: OnceCell::new(), memory }
    }

    /// For a run without such a memory: removes the file of earlier runs, which would be wrong afterwards.
    pub fn none(directory: &Path) {
        Answered::remove(directory);
    }

    /// Reads what an earlier run left. Pushes are neither accepted nor delivered before that.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn load(&self) -> Result<(), SpoolError> {
        self.loaded.get_or_try_init(|| self.read()).await.copied()
    }

    async fn read(&self) -> Result<(), SpoolError> {
        let Self { spool, answered, highest, .. } = self;
        let seen = answered.read(*highest);
        let mut kept = Vec::new();
        for (key, value) in spool.notes(NOTE).await? {
            let seq = key.strip_prefix(NOTE).and_then(|seq| seq.parse().ok());
            match (seq, postcard::from_bytes::<(Digest, Stamp)>(&value)) {
                (Some(seq), Ok((digest, at))) if at.age() < WINDOW && !seen.is_answered(seq) => {
                    kept.push((seq, digest, at, true));
                }
                _ => spool.remove_note(&key),
            }
        }
        let mut after = first_young(&**spool, *highest).await?;
        while let rows = spool.read_after(Queue::Inbound, after, READ_ROWS, READ_BYTES).await?
            && let Some(last) = rows.last()
        {
            after = last.seq;
            kept.extend(rows.iter().filter_map(|row| unanswered(row, &seen)));
        }
        // Of pushes with the same bytes, the last one counts.
        kept.sort_unstable_by_key(|(seq, ..)| *seq);
        let (_, progress) = watch::channel(Progress::Stored);
        let mut memory = lock(&self.memory);
        for (seq, digest, at, delivered) in kept {
            let (seq, noted) = (Some(seq), delivered);
            let entry = Entry { number: 0, at, progress: progress.clone(), seq, leaving: 0, delivered, noted };
            self.put(&mut memory, digest, entry);
        }
        Ok(())
    }

    /// Decides whether this is a new push or a repeat.
    pub fn claim(&self, digest: Digest) -> Claim {
        let mut memory = lock(&self.memory);
        if let Some(entry) = memory.entries.get(&digest)
            && entry.makes_repeats()
        {
            return Claim::Repeat(Ticket { digest, number: entry.number }, entry.progress.clone());
        }
        self.sweep(&mut memory);
        let number = memory.next;
        memory.next += 1;
        let (tell, progress) = watch::channel(Progress::Storing);
        let (seq, at) = (None, Stamp::now());
        let entry = Entry { number, at, progress, seq, leaving: 0, delivered: false, noted: false };
        self.put(&mut memory, digest, entry);
        Claim::First(Ticket { digest, number }, tell)
    }

    /// The push is stored, in this row. Must be called before anybody else is told.
    pub fn stored(&self, ticket: Ticket, seq: u64) {
        let mut memory = lock(&self.memory);
        if let Some(entry) = memory.entry(ticket) {
            entry.seq = Some(seq);
            memory.rows.insert(seq, ticket.digest);
        }
    }

    /// Gives up a push that could not be stored, unless one of its tries still waits. A push that was never stored makes no
    /// repeats. Returns true if it was given up.
    pub fn give_up(&self, ticket: Ticket, tell: &watch::Sender<Progress>) -> bool {
        let mut memory = lock(&self.memory);
        // One receiver belongs to the entry itself. Claims are made under the same lock, so that no new one can come in
        // between.
        let alone = tell.receiver_count() <= 1;
        if alone {
            memory.entries.remove(&ticket.digest);
        }
        alone
    }

    /// A try of the push was answered: from now on the same bytes are a new message.
    pub fn answered(&self, ticket: Ticket) {
        let mut memory = lock(&self.memory);
        if memory.entry(ticket).is_some() {
            self.take(&mut memory, &ticket.digest);
        }
    }

    /// An answer to a try of the push is about to leave. [`Self::answered`] or [`Self::not_answered`] must follow.
    ///
    /// From now on the next run takes the push as answered. If the bridge is killed right after the answer left, the next push
    /// with the same bytes is a new one and must not be lost. If it is killed right before, a further try is stored a second
    /// time, which is better than a lost push.
    pub fn leaving(&self, ticket: Ticket) {
        let seq = {
            let mut memory = lock(&self.memory);
            // Without an entry, the same bytes are a newer push already, because an answer to this one has left.
            let Some(entry) = memory.entry(ticket) else { return };
            entry.leaving += 1;
            entry.seq
        };
        if let Some(seq) = seq {
            self.answered.mark(seq);
        }
    }

    /// The answer did not leave, or left too late: a further try is a repeat, as before.
    pub fn not_answered(&self, ticket: Ticket) {
        let mut memory = lock(&self.memory);
        let Some(entry) = memory.entry(ticket) else { return };
        entry.leaving = entry.leaving.saturating_sub(1);
        if entry.makes_repeats()
            && let Some(seq) = entry.seq
        {
            // Done under the lock, so that it cannot remove the mark of a later try.
            self.answered.take_back(seq);
            if entry.delivered {
                self.note(ticket.digest, entry);
            }
        }
    }

    /// The push in this row is delivered, and the row is about to be removed.
    pub fn delivered(&self, seq: u64) {
        let mut memory = lock(&self.memory);
        let Some(digest) = memory.rows.get(&seq).copied() else { return };
        if let Some(entry) = memory.entries.get_mut(&digest) {
            entry.delivered = true;
            if entry.makes_repeats() {
                self.note(digest, entry);
            }
        }
    }

    fn note(&self, digest: Digest, entry: &mut Entry) {
        if let (Some(seq), false) = (entry.seq, entry.noted)
            && let Ok(value) = postcard::to_stdvec(&(digest, entry.at))
        {
            self.spool.put_note(&note(seq), value);
            entry.noted = true;
        }
    }

    fn put(&self, memory: &mut Memory, digest: Digest, entry: Entry) {
        self.take(memory, &digest);
        if let Some(seq) = entry.seq {
            memory.rows.insert(seq, digest);
        }
        memory.entries.insert(digest, entry);
    }

    fn take(&self, memory: &mut Memory, digest: &Digest) {
        if let Some(entry) = memory.entries.remove(digest) {
            self.forget(&mut memory.rows, &entry);
        }
    }

    fn forget(&self, rows: &mut HashMap<u64, Digest>, entry: &Entry) {
        let Some(seq) = entry.seq else { return };
        rows.remove(&seq);
        if entry.noted {
            self.spool.remove_note(&note(seq));
        }
    }

    /// Forgets what is too old, whenever the memory has doubled since the last time.
    fn sweep(&self, memory: &mut Memory) {
        if memory.entries.len() < memory.sweep_at {
            return;
        }
        let Memory { entries, rows, sweep_at, .. } = memory;
        entries.retain(|_, entry| {
            let keep = entry.is_remembered();
            if !keep {
                self.forget(rows, entry);
            }
            keep
        });
        *sweep_at = (entries.len() * 2).max(SWEEP_FROM);
    }
}

impl Memory {
    /// The entry of this ticket, if no newer push with the same bytes has replaced it.
    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.entries.get_mut(&ticket.digest).filter(|entry| entry.number == ticket.number)
    }
}

/// The row after which all rows are to be read: earlier ones are too old, or nothing is known of them.
async fn first_young(spool: &dyn Store, highest: u64) -> Result<u64, SpoolError> {
    let mut back = READ_ROWS as u64;
    loop {
        let after = highest.saturating_sub(back);
        let first = spool.read_after(Queue::Inbound, after, 1, READ_BYTES).await?;
        let is_old = |row: &Row| matches!(Record::decode(&row.data), Ok(Record::Push { at, .. }) if at.age() >= WINDOW);
        if after == 0 || back >= PLACES || first.first().is_some_and(is_old) {
            return Ok(after);
        }
        back *= 4;
    }
}

fn note(seq: u64) -> String {
    format!("{NOTE}{seq}")
}

/// The push in a row, if it was not answered and may still be repeated.
fn unanswered(row: &Row, seen: &Seen) -> Option<(u64, Digest, Stamp, bool)> {
    if seen.is_answered(row.seq) {
        return None;
    }
    match Record::decode(&row.data) {
        Ok(Record::Push { at, body, .. }) if at.age() < WINDOW => {
            Some((row.seq, Sha256::digest(&body).into(), at, false))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
