//! A broker of a test's own: its process, its port and its directory, which outlives the process.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::support::mosquitto::free_port;

/// What a kind of broker is run as: in this directory, listening on this port of 127.0.0.1.
pub(super) type Run = fn(dir: &Path, port: u16) -> Command;

/// A broker that runs or did; ends with the value.
pub(super) struct Broker {
    run: Run,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    pub(super) fn start(run: Run) -> Self {
        let dir = tempfile::Builder::new().prefix("broker-").tempdir().expect("a temporary directory");
        let mut broker = Self { run, dir, port: free_port(), child: None };
        broker.restart();
        broker
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on the same port, with what it kept, after a [`Self::kill`] if it still runs. Clients know when it is up.
    pub(super) fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut command = (self.run)(self.dir.path(), self.port);
        command
            // Whatever it leaves where it was started goes with the directory.
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            // Whatever it starts ends with it.
            .process_group(0);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: run these tests by .ci/brokers"));
        self.child = Some(child);
    }

    /// Ends it at once (SIGKILL), as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process_group(Pid::from_child(&child), Signal::KILL).expect("it runs");
            child.wait().expect("it ends");
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read(self.log_file()).unwrap_or_default();
            eprintln!("--- the broker ---\n{}", String::from_utf8_lossy(&log[log.len().saturating_sub(6000)..]));
        }
    }
}

/// Where `.ci/brokers` unpacks them.
pub(super) fn unpacked(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("BROKERS").expect("BROKERS is not set: run these tests by .ci/brokers")).join(path)
}
