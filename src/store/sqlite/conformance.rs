//! This store, as the subject of the conformance tests.

use std::path::Path;
use std::sync::Arc;

use rusqlite::ffi;
use tempfile::TempDir;

use super::writer::Inject;
use super::{Recovered, Spool};
use crate::store::conformance::{Subject, suite};
use crate::store::{Append as _, Limits, Store};

struct OnDisk {
    spool: Arc<Spool>,
    limits: Limits,
    dir: TempDir,
}

impl OnDisk {
    fn open(dir: TempDir, limits: Limits) -> Self {
        let (spool, recovered) = Spool::open(dir.path(), limits).expect("it opens");
        assert_eq!(recovered, Recovered::default());
        Self { spool, limits, dir }
    }
}

/// What a crash leaves: the files as they are, without the process's knowledge of them.
fn crashed(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    // The log first: a checkpoint between the two then does no harm.
    for name in ["spool.db-wal", "spool.db"] {
        if dir.join(name).exists() {
            std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

impl Subject for OnDisk {
    async fn create(limits: Limits) -> Self {
        Self::open(TempDir::new().unwrap(), limits)
    }

    fn store(&self) -> Arc<dyn Store> {
        self.spool.clone()
    }

    async fn reopen(self) -> Self {
        self.spool.close().await;
        Self::open(self.dir, self.limits)
    }

    async fn crash(self) -> Self {
        let copy = crashed(self.dir.path());
        // Nobody looks at the original any more.
        self.spool.close().await;
        Self::open(copy, self.limits)
    }

    fn fail_next_sync(&self) {
        self.spool.inject(Inject::FailCommit(ffi::SQLITE_IOERR_FSYNC));
    }

    fn fail_next_read(&self) {
        self.spool.inject(Inject::FailReads(1, ffi::SQLITE_BUSY));
    }

    fn fill(&self, full: bool) {
        self.spool.inject(Inject::Free(if full { 1000 } else { 1 << 40 }));
    }
}

suite!(OnDisk);
