//! Three members of etcd as processes of their own, which can be killed and started again.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::mosquitto::free_port;

/// A member.
pub(crate) struct Etcd {
    args: Vec<String>,
    log: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Three that know each other, running. Their data and logs are in `dir`.
    pub(crate) fn three(dir: &Path) -> Vec<Self> {
        let peers = [(); 3].map(|()| format!("http://127.0.0.1:{}", free_port()));
        let name = |number: usize| format!("etcd-{number}");
        let all: Vec<_> = peers.iter().enumerate().map(|(number, peer)| format!("{}={peer}", name(number))).collect();
        let mut members = Vec::new();
        for (number, peer) in peers.iter().enumerate() {
            let port = free_port();
            let client = format!("http://127.0.0.1:{port}");
            let data = dir.join(name(number)).display().to_string();
            let args = [
                ("--name", name(number)),
                ("--data-dir", data),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer.clone()),
                ("--initial-cluster", all.join(",")),
                // As the recipe does; so that what a watch asks for may be gone.
                ("--auto-compaction-mode", "revision".to_owned()),
                ("--auto-compaction-retention", "2000".to_owned()),
                ("--logger", "zap".to_owned()),
            ];
            let args = args.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect();
            let log = dir.join(format!("{}.log", name(number)));
            let mut member = Self { args, log, port, child: None };
            member.spawn();
            members.push(member);
        }
        members
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on its data, unless it runs.
    pub(crate) fn spawn(&mut self) {
        if self.child.is_some() {
            return;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new("etcd");
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("etcd cannot be run: apt-get install etcd-server"));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).expect("etcd runs");
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
