//! The bridge's disk, made to fail at will: a small library (`recorder.c` of the disk's own tests) is compiled and preloaded into
//! its process, and does what a file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk that can fail.
pub(crate) struct Disk {
    library: PathBuf,
    orders: PathBuf,
}

/// Compiles a library that is to be preloaded.
pub(crate) fn compile(source: &str, library: &Path) {
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(library);
    compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source)).args(["-ldl", "-lpthread"]);
    let output = compiler.output().expect("a C compiler, which Rust needs as well");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Disk {
    /// Compiles the library into `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let disk = Self { library: dir.join("disk.so"), orders: dir.join("disk.orders") };
        compile("tests/it/disk/recorder.c", &disk.library);
        disk
    }

    /// What the environment of a bridge with this state directory needs, beside `library`, which goes into `LD_PRELOAD`.
    pub(crate) fn environment(&self, state: &Path) -> [(&'static str, String); 2] {
        [("RECORD_ROOT", state.display().to_string()), ("RECORD_FAULT", self.orders.display().to_string())]
    }

    pub(crate) fn library(&self) -> &Path {
        &self.library
    }

    /// Of the syncs of `file` from now on, one fails, after a while.
    pub(crate) fn fail_sync(&self, number: u64, after_ms: u64, file: &str) {
        self.order(&format!("sync#{number}+{after_ms} 5 {file}\n"));
    }

    /// Whether the last order still waits for its occasion.
    pub(crate) fn waits(&self) -> bool {
        self.orders.exists()
    }

    /// Takes the last order back. False if it is being carried out, or has been: there is no way back then.
    pub(crate) fn take_back(&self) -> bool {
        fs::remove_file(&self.orders).is_ok()
    }

    /// Each sync takes so much longer.
    pub(crate) fn hang(&self, ms: u64) {
        self.order(&format!("hang {ms} spool.db\n"));
    }

    /// All is well again; what hangs comes to its end.
    pub(crate) fn heal(&self) {
        let _ = fs::remove_file(&self.orders);
    }

    /// Whole at once: the bridge reads it at any moment.
    fn order(&self, line: &str) {
        let new = self.orders.with_extension("new");
        fs::write(&new, line).and_then(|()| fs::rename(&new, &self.orders)).expect("the logs can be written");
    }
}
