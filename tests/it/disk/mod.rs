//! Power cuts and disks: what was promised is there whatever the disk kept of what was not synced, and a disk that is full,
//! read-only, damaged or somebody else's is met without loss and said in words.
//!
//! `recorder.c`, preloaded into a process, records its file operations and what goes through its sockets; [`recording`] reads
//! that; [`platter`] is the disk on which they are replayed up to a moment, and which then loses power. More cuts than usual:
//! `DISK_CUTS=4000 cargo test --test it disk:: -- --nocapture`. [`small_disk`] is one that can be filled; as root,
//! `SMALL_DISK=ext4` makes it one of those.

mod bridge_cuts;
mod child;
mod damage;
mod failed_syncs;
mod failing;
mod full;
mod hanging;
mod platter;
mod promises;
pub(crate) mod recording;
mod small_disk;
mod spool_cuts;
mod told;

use std::path::Path;

use platter::Platter;
use tempfile::TempDir;

/// The record is complete if repeating it gives the same files.
fn assert_complete(platter: &Platter, dir: &Path) {
    let replayed = platter.now();
    let mut compared = 0;
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with("-shm") || name == "control.sock" {
            continue;
        }
        let real = std::fs::read(entry.path()).unwrap();
        assert!(
            replayed.get(&name).is_some_and(|content| *content == real),
            "{name} differs: the record is not complete"
        );
        compared += 1;
    }
    assert_eq!(replayed.keys().filter(|name| !name.ends_with("-shm")).count(), compared);
    assert!(compared >= 2);
}

/// Points in an ordinary run of the tests; more with `DISK_CUTS`.
fn wanted() -> usize {
    std::env::var("DISK_CUTS").map_or(320, |text| text.parse().expect("DISK_CUTS is a number"))
}

/// A directory for one power cut's remains: in memory if possible, because what is opened there is synced over and over.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    TempDir::new_in(memory).or_else(|_| TempDir::new()).expect("a temporary directory")
}
