//! Which pushes were answered, for the case that the process is killed: a byte for each row, in a file that no commit writes.
//!
//! From the moment its answer leaves, a push makes no repeats, and the next run has to know it even if this one is killed
//! right then. That takes the kernel's memory, not the disk's: a mark is one small write by whoever answers, without a sync.
//! The loss of power may take the marks of the last seconds with it.
//!
//! The file is a ring of [`PLACES`] bytes, behind a head that says from which row on it counts. What it cannot say counts as
//! answered: the same bytes are then stored once more, which is better than never.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::os::files::{self, MODE};

/// The file, in the state directory.
const NAME: &str = "spool.answered";
/// Rows that the ring knows of: more than come while iLink still tries one of them again.
pub(super) const PLACES: u64 = 1 << 16;
/// Begins the head; the first row that counts follows.
const MAGIC: [u8; 8] = *b"iLMQans1";
const HEAD: usize = 16;
const SIZE: usize = HEAD + (1 << 16);

/// The marks.
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
    /// The marks in this directory. Rows up to number `highest` were stored before.
    pub(super) fn open(directory: &Path, highest: u64) -> Self {
        let path = directory.join(NAME);
        let file = open(&path).or_else(|_| {
            // Where there is none, all that is there counts as answered.
            let _ = fs::remove_file(&path);
            create(&path, highest + 1)
        });
        Self { path, file: file.ok(), broken: AtomicBool::new(false) }
    }

    /// For a run that makes no marks: the rows it stores must not be held against those of an earlier one.
    pub(super) fn remove(directory: &Path) {
        let _ = fs::remove_file(directory.join(NAME));
    }

    /// What the file says of the rows up to number `highest`.
    pub(super) fn read(&self, highest: u64) -> Seen {
        let content = self.file.as_ref().and_then(|file| read(file).ok()).unwrap_or_default();
        Seen { content, highest }
    }

    /// The answer to this row's push is about to leave.
    pub(super) fn mark(&self, seq: u64) {
        self.write(seq, generation(seq));
    }

    /// It did not leave.
    pub(super) fn take_back(&self, seq: u64) {
        self.write(seq, 0);
    }

    fn write(&self, seq: u64, byte: u8) {
        let Some(file) = &self.file else { return };
        if self.broken.load(Ordering::Relaxed) || file.write_all_at(&[byte], place(seq)).is_ok() {
            return;
        }
        // A file with gaps would have pushes taken for repeats that are none. Without it, none are.
        if !self.broken.swap(true, Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Seen {
    /// Was this row's push answered, or is that not known?
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
    // Not a hole: writing over it later must not need room on the disk.
    let mut content = vec![0; SIZE];
    if let Some(head) = content.first_chunk_mut::<HEAD>() {
        let (magic, number) = head.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        number.copy_from_slice(&first.to_le_bytes());
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(path)?;
    files::give_to_owner_of_directory(path);
    file.write_all_at(&content, 0)?;
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

/// Never 0, and another one each time the ring comes round.
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
