//! A real etcd of a test's own, of one member: its own ports and data.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::mosquitto::free_port;
use super::{DEADLINE, http::http, within};

/// How long it may take until all threads have stopped.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// A running etcd; ended with the value.
pub(crate) struct Etcd {
    child: Child,
    port: u16,
    _data: TempDir,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with these flags besides.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        Self::start_at(free_port(), flags).await
    }

    /// The same on this port.
    pub(crate) async fn start_at(port: u16, flags: &[&str]) -> Self {
        let data = tempfile::Builder::new().prefix("etcd-").tempdir().expect("a temporary directory");
        let peers = free_port();
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let log = std::fs::File::create(data.path().join("log")).expect("a log file");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd cannot be run: apt-get install etcd-server");
        let etcd = Self { child, port, _data: data };
        let (http, health) = (http(), format!("{}/health", etcd.url()));
        within(DEADLINE, "etcd", async || {
            let answer = http.get(&health).send().await.ok()?.text().await.ok()?;
            answer.contains("true").then_some(())
        })
        .await;
        etcd
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops it where it is (SIGSTOP): to its clients, it has no majority.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        // Its threads do not stop at once where the processors are busy.
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < STOP_WAIT, "etcd did not stand still within {STOP_WAIT:?} of SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("etcd runs");
        let stands = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        tasks.flatten().all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stands(&stat)))
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("etcd runs");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
