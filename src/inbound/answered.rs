//! Records which pushes were answered, so that the next run knows it if this process is killed: one byte for each row, in a
//! file of its own.
//!
//! Once the answer to a push has left, the same bytes are a new push (see `repeats`). The next run must know that even if this
//! process is killed right after the answer. To survive a kill, the kernel's memory is enough: a mark is one small write
//! without a sync. A loss of power may lose the marks of the last seconds.
//!
//! The file is a ring of [`PLACES`] bytes after a head, which contains the first row that the ring knows. A row of which it
//! knows nothing counts as answered: the same bytes are then stored once more, which is better than not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::os::files::{self, MODE};

/// The file, in the state directory.
const NAME: &str = "spool.answered";
/// A page of memory.
const PAGE: usize = 4096;
/// How many rows the ring knows: more than arrive while iLink may still repeat one of them.
pub(super) const PLACES: u64 = 1 << 16;
/// The beginning of the head; the number of the first known row follows.
const MAGIC: [u8; 8] = *b"iLMQans1";
const HEAD: usize = 16;
const SIZE: usize = HEAD + (1 << 16);

/// The file with the marks.
#[derive(Debug)]
pub(super) struct Answered {
    path: PathBuf,
    file: Option<File>,
    broken: AtomicBool,
}

/// What the file says.
pub(super) struct Seen {
    content: Vec<u8>,
    highest: u64,
}

impl Answered {
    /// Opens the file in this directory. `highest` is the last row that an earlier run stored.
    pub(super) fn open(directory: &Path, highest: u64) -> Self {
        let path = directory.join(NAME);
        let file = open(&path).or_else(|_| {
            // In a new file, all rows that exist already count as answered.
            let _ = fs::remove_file(&path);
            create(&path, highest + 1)
        });
        Self { path, file: file.ok(), broken: AtomicBool::new(false) }
    }

    /// Removes the file, for a run that makes no marks: old marks would be taken for those of its rows.
    pub(super) fn remove(directory: &Path) {
        let _ = fs::remove_file(directory.join(NAME));
    }

    /// Reads the marks of the rows up to number `highest`.
    pub(super) fn read(&self, highest: u64) -> Seen {
        let content = self.file.as_ref().and_then(|file| read(file).ok()).unwrap_or_default();
        Seen { content, highest }
    }

    /// The answer to this row's push is about to leave.
    pub(super) fn mark(&self, seq: u64) {
        self.write(seq, generation(seq));
    }

    /// Removes the mark: the answer did not leave.
    pub(super) fn take_back(&self, seq: u64) {
        self.write(seq, 0);
    }

    fn write(&self, seq: u64, byte: u8) {
        let Some(file) = &self.file else { return };
        if self.broken.load(Ordering::Relaxed) || file.write_all_at(&[byte], place(seq)).is_ok() {
            return;
        }
        // With gaps in the file, new pushes would be taken for repeats, and lost. Without the file, no push is a repeat.
        if !self.broken.swap(true, Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Seen {
    /// Whether this row's push was answered, or that is not known.
    pub(super) fn is_answered(&self, seq: u64) -> bool {
        let first = self.content.get(MAGIC.len()..HEAD).and_then(|first| first.try_into().ok()).map(u64::from_le_bytes);
        let mark = usize::try_from(place(seq)).ok().and_then(|place| self.content.get(place));
        let (Some(first), Some(mark)) = (first, mark) else { return true };
        seq < first || seq + PLACES <= self.highest || *mark == generation(seq)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let good = file.metadata()?.len() == SIZE as u64 && read(&file)?.starts_with(&MAGIC);
    if good { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn create(path: &Path, first: u64) -> io::Result<File> {
    // All bytes are written, so that a mark never needs new room on the disk.
    let mut content = vec![0; SIZE];
    if let Some(head) = content.first_chunk_mut::<HEAD>() {
        let (magic, number) = head.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        number.copy_from_slice(&first.to_le_bytes());
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(path)?;
    files::give_to_owner_of_directory(path);
    // Page by page: Linux keeps what is written at once as one piece of memory, and would count all 64 KiB of it as written
    // for each mark, though it writes one block.
    for (page, at) in content.chunks(PAGE).zip((0..).step_by(PAGE)) {
        file.write_all_at(page, at)?;
    }
    Ok(file)
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; SIZE];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

fn place(seq: u64) -> u64 {
    HEAD as u64 + seq % PLACES
}

/// The mark of a row: never 0, and different in each round of the ring.
fn generation(seq: u64) -> u8 {
    u8::try_from(seq / PLACES % 255).unwrap_or_default() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_answered(dir: &Path, highest: u64, seq: u64) -> bool {
        Answered::open(dir, highest).read(highest).is_answered(seq)
    }

    #[test]
    fn a_mark_is_seen_by_the_next_run_until_it_is_taken_back() {
        let dir = tempfile::TempDir::new().unwrap();
        let answered = Answered::open(dir.path(), 0);
        answered.mark(1);
        answered.mark(2);
        assert!(is_answered(dir.path(), 3, 1) && is_answered(dir.path(), 3, 2));
        assert!(!is_answered(dir.path(), 3, 3), "another push");
        answered.take_back(1);
        assert!(!is_answered(dir.path(), 3, 1) && is_answered(dir.path(), 3, 2));
    }

    #[test]
    fn what_is_not_known_counts_as_answered() {
        let dir = tempfile::TempDir::new().unwrap();
        let answered = Answered::open(dir.path(), 5);
        assert!(is_answered(dir.path(), 10, 5) && !is_answered(dir.path(), 10, 6), "from before the file was made");
        let highest = 6 + PLACES;
        assert!(is_answered(dir.path(), highest, 6), "its place may be another's");
        assert!(!is_answered(dir.path(), highest, 7));
        answered.mark(7);
        let later = 7 + PLACES;
        assert!(!is_answered(dir.path(), later, later), "the mark is an older row's");
        answered.mark(later);
        assert!(is_answered(dir.path(), later, later));
        Answered::remove(dir.path());
        assert!(is_answered(dir.path(), later, later) && !is_answered(dir.path(), later, later + 1));
    }

    #[test]
    fn what_is_no_file_of_marks_is_replaced() {
        let dir = tempfile::TempDir::new().unwrap();
        fs::write(dir.path().join(NAME), "something else").unwrap();
        let answered = Answered::open(dir.path(), 4);
        answered.mark(6);
        assert!(is_answered(dir.path(), 6, 4) && !is_answered(dir.path(), 6, 5) && is_answered(dir.path(), 6, 6));
        fs::remove_file(dir.path().join(NAME)).unwrap();
        fs::create_dir(dir.path().join(NAME)).unwrap();
        assert!(is_answered(dir.path(), 6, 5), "a directory");
    }
}
