//! The bridge's wall clock, set at will: a small library (`clock.c`) is compiled and preloaded into its process.
//!
//! Only the wall clock can be set, as on a real machine: the boot-time and monotonic clocks are not stepped by anybody.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::compile;

/// A clock that can be set.
pub(crate) struct Clock {
    library: PathBuf,
    file: PathBuf,
    offset: i64,
}

impl Clock {
    /// Compiles the library into `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let (library, file) = (dir.join("clock.so"), dir.join("clock.offset"));
        compile("tests/faults/clock.c", &library);
        let clock = Self { library, file, offset: 0 };
        fs::write(&clock.file, clock.offset.to_ne_bytes()).expect("a file");
        clock
    }

    /// What the bridge's environment needs.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("FAULTS_CLOCK", self.file.display().to_string())]
    }

    /// Moves it; at once, also under a running bridge.
    pub(crate) fn step(&mut self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        self.offset += seconds;
        // In place: the file is mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.file).expect("the file");
        file.write_all_at(&self.offset.to_ne_bytes(), 0).expect("it takes eight bytes");
    }
}
