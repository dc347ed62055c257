//! Which pushes were answered, for the case that the process is killed: marks in a file that no commit writes.
//!
//! From the moment its answer leaves, a push makes no repeats, and the next run has to know it even if this one is killed
//! right then. That takes the kernel's memory, not the disk's: a mark is one small write by whoever answers, without the
//! writer and without a sync. That the key is removed from the database too rides with a later commit. The loss of power may
//! take the marks of the last seconds with it; so it may what was committed without a sync.
//!
//! The file is a ring. A mark may be written over once its key has gone from the database; an old one that is left matches
//! nothing, because it names the moment too. Where there is no such file (a full disk, say), the database does it all.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Stamp;

/// Half of a push's digest, mixed with the moment it was taken.
type Mark = [u8; 16];

/// How many the ring has room for: as many as there may be connections. In all they are few pages.
const ROOM: u64 = 1024;
/// So many removals wait for a commit that they can ride with, and then get one.
pub(super) const WAITING_MOST: usize = 512;
const SIZE: usize = 1024 * size_of::<Mark>();

/// The marks.
#[derive(Debug, Default)]
pub(super) struct Answered {
    file: Option<File>,
    /// Marks made by this run.
    made: Mutex<u64>,
    /// Those of them whose keys have gone from the database.
    removed: AtomicU64,
}

impl Answered {
    /// The marks in this file, which is made if it can be.
    pub(super) fn open(path: &Path) -> Self {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            if file.metadata()?.len() != SIZE as u64 {
                file.set_len(0)?;
                // Not a hole: writing over it later must not need room on the disk.
                file.write_all_at(&[0; SIZE], 0)?;
            }
            Ok::<_, io::Error>(file)
        };
        Self { file: open().ok(), ..Self::default() }
    }

    /// Those of `keys` whose pushes were answered.
    pub(super) fn among(&self, keys: impl Iterator<Item = ([u8; 32], Stamp)>) -> Vec<([u8; 32], Stamp)> {
        let Some(marks) = self.file.as_ref().and_then(|file| read(file).ok()) else { return Vec::new() };
        let marks: HashSet<&[u8]> = marks.chunks_exact(size_of::<Mark>()).collect();
        keys.filter(|(digest, at)| marks.contains(&mark(digest, *at)[..])).collect()
    }

    /// Marks a push, and then has its key removed; the removals are handed over in the order of the marks. False if that is not
    /// possible: then nothing was done.
    pub(super) fn note(&self, digest: &[u8; 32], at: Stamp, remove: impl FnOnce()) -> bool {
        let Some(file) = &self.file else { return false };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.saturating_sub(self.removed.load(Ordering::Acquire)) >= ROOM {
            return false;
        }
        let place = *made % ROOM * size_of::<Mark>() as u64;
        if file.write_all_at(&mark(digest, at), place).is_err() {
            return false;
        }
        *made += 1;
        remove();
        true
    }

    /// Takes a mark back, and then has the key put back.
    pub(super) fn take_back(&self, digest: &[u8; 32], at: Stamp, put_back: impl FnOnce()) {
        let _made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file {
            let unwanted = mark(digest, at);
            let marks = read(file).unwrap_or_default();
            for (n, _) in marks.chunks_exact(unwanted.len()).enumerate().filter(|(_, mark)| *mark == unwanted) {
                // Left there, it would have a further try stored once more if the process is killed: rather that than never.
                let _ = file.write_all_at(&[0; size_of::<Mark>()], (n * unwanted.len()) as u64);
            }
        }
        put_back();
    }

    /// So many more keys have gone from the database, the oldest marks' first.
    pub(super) fn removed(&self, keys: u64) {
        self.removed.fetch_add(keys, Ordering::Release);
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut marks = vec![0; SIZE];
    file.read_exact_at(&mut marks, 0)?;
    Ok(marks)
}

fn mark(digest: &[u8; 32], at: Stamp) -> Mark {
    let mut mark = at.moment();
    for (byte, of_digest) in mark.iter_mut().zip(digest) {
        *byte ^= of_digest;
    }
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_marked(path: &Path, digest: [u8; 32], at: Stamp) -> bool {
        !Answered::open(path).among([(digest, at)].into_iter()).is_empty()
    }

    #[test]
    fn a_mark_is_seen_by_the_next_run_until_it_is_taken_back() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, at) = (dir.path().join("marks"), Stamp::now());
        let answered = Answered::open(&path);
        let mut handed = 0;
        assert!(answered.note(&[1; 32], at, || handed += 1) && answered.note(&[2; 32], at, || handed += 1));
        assert_eq!(handed, 2);
        assert!(is_marked(&path, [1; 32], at) && is_marked(&path, [2; 32], at));
        assert!(!is_marked(&path, [3; 32], at), "another push");
        answered.take_back(&[1; 32], at, || handed += 1);
        assert_eq!(handed, 3);
        assert!(!is_marked(&path, [1; 32], at) && is_marked(&path, [2; 32], at));
    }

    #[test]
    fn the_same_bytes_at_another_moment_are_another_push() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("marks");
        let before = postcard::to_stdvec(&(1_u64, 5_u64, 7_u64)).unwrap();
        let before: Stamp = postcard::from_bytes(&before).unwrap();
        assert!(Answered::open(&path).note(&[1; 32], before, || {}));
        assert!(is_marked(&path, [1; 32], before) && !is_marked(&path, [1; 32], Stamp::now()));
    }

    #[test]
    fn a_mark_is_not_written_over_while_its_key_is_in_the_database() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, at) = (dir.path().join("marks"), Stamp::now());
        let answered = Answered::open(&path);
        let digest = |n: u64| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_le_bytes());
            digest
        };
        for n in 0..ROOM {
            assert!(answered.note(&digest(n), at, || {}));
        }
        assert!(!answered.note(&digest(ROOM), at, || panic!("it has no room")));
        answered.removed(1);
        assert!(answered.note(&digest(ROOM), at, || {}));
        assert!(!answered.note(&digest(ROOM + 1), at, || {}));
        assert!(
            is_marked(&path, digest(ROOM), at) && is_marked(&path, digest(1), at) && !is_marked(&path, digest(0), at)
        );
    }

    #[test]
    fn what_is_no_file_of_marks_has_none() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, at) = (dir.path().join("marks"), Stamp::now());
        std::fs::write(&path, "something else").unwrap();
        assert!(!is_marked(&path, [1; 32], at));
        assert!(Answered::open(&path).note(&[1; 32], at, || {}) && is_marked(&path, [1; 32], at));
        assert!(!Answered::open(dir.path()).note(&[1; 32], at, || {}), "a directory");
    }
}
