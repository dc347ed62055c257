//! How full the disk is. On a truly full disk even a DELETE fails, so appends stop while some room is left for the rest.

use std::path::PathBuf;

/// Room kept free for completions, results and checkpoints.
const FLOOR: u64 = 4 * 1024 * 1024;

/// The disk that holds the spool.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// Free bytes to believe in, instead of asking.
    #[cfg(test)]
    pub(super) pretended: Option<u64>,
}

impl Disk {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            #[cfg(test)]
            pretended: None,
        }
    }

    /// Whether there is room to append; if not, why. The log's share must be free on the disk itself; for the rows the space
    /// will do that completed ones left unused in the file, as `unused` tells in bytes: else a disk that only the spool has
    /// filled would stay full after it was emptied.
    pub(super) fn has_room(&self, unused: impl FnOnce() -> u64) -> Result<(), String> {
        // A file system that cannot say is asked no further: its own "full" is an error like any other.
        let Ok(stat) = rustix::fs::statvfs(&self.dir) else { return Ok(()) };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // On a tiny partition the floor must not be most of it.
        let floor = FLOOR.min(total / 8);
        #[cfg(test)]
        let free = self.pretended.unwrap_or(free);
        if free < floor && (free < floor / 4 || free.saturating_add(unused()) < floor) {
            return Err(format!(
                "the disk is nearly full ({} KiB free, {} KiB are kept): free some space on it",
                free / 1024,
                floor / 1024
            ));
        }
        Ok(())
    }
}
