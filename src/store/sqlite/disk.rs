//! How full the disk is. On a truly full disk even a DELETE fails, so appends stop while some room is left to complete
//! rows. If others take that room too, there is the ballast: a file that only reserves space and can be deleted.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::fault::Fault;
use super::files::Files;

/// Room kept free for completions, results and checkpoints.
const FLOOR: u64 = 4 * 1024 * 1024;

/// The disk that holds the spool.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// The same, open: it is asked before each commit.
    open: Option<File>,
    /// Free bytes to believe in, instead of asking.
    #[cfg(test)]
    pub(super) pretended: Option<u64>,
}

/// In bytes.
struct Space {
    free: u64,
    /// Kept free.
    floor: u64,
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: File::open(dir).ok(),
            #[cfg(test)]
            pretended: None,
        }
    }

    /// None if the file system cannot say.
    fn space(&self) -> Option<Space> {
        let stat = rustix::fs::fstatvfs(self.open.as_ref()?).ok()?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        #[cfg(test)]
        let free = self.pretended.unwrap_or(free);
        // On a tiny partition the floor must not be most of it.
        Some(Space { free, floor: FLOOR.min(total / 8) })
    }

    /// Whether there is room to append; if not, why. The log's share must be free on the disk itself; for the rows the space
    /// will do that completed ones left unused in the file, as `unused` tells in bytes: else a disk that only the spool has
    /// filled would stay full after it was emptied.
    pub(super) fn has_room(&self, unused: impl FnOnce() -> u64) -> Result<(), String> {
        // A file system that cannot say is asked no further: its own "full" is an error like any other.
        let Some(Space { free, floor }) = self.space() else { return Ok(()) };
        if free < floor && (free < floor / 4 || free.saturating_add(unused()) < floor) {
            // Without the number of the moment: the same trouble is to be told once.
            return Err(format!(
                "the disk of {} is nearly full, less than {} KiB are free: free some space on it",
                self.dir.display(),
                floor / 1024
            ));
        }
        Ok(())
    }

    /// Whether that many bytes are free. Yes if the file system cannot say.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.space().is_none_or(|space| space.free >= bytes)
    }

    /// Makes the ballast as large as it should be, or as is possible. Best effort.
    pub(super) fn take_ballast(&self, files: &Files) -> Result<(), Fault> {
        let Some(Space { free, floor }) = self.space() else { return Ok(()) };
        let there = files.ballast_size();
        // The log may grow by this on a full disk, and then is used over and over. Some is left for the small files beside
        // the spool.
        let size = (floor / 4).min(there.saturating_add(free / 8 * 7));
        if size > there { files.take_ballast(size) } else { Ok(()) }
    }
}
