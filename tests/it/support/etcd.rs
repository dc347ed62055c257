//! A real etcd of a test's own, of one member or of several, each of which may be killed: its own ports and data.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::mosquitto::free_port;
use super::{DEADLINE, http::http, within};

/// How long it may take until all threads have stopped.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// A running etcd; ended with the value.
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    scheme: &'static str,
    _data: TempDir,
}

impl Etcd {
    /// Starts one of one member and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with these flags besides.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        Self::start_at(free_port(), flags).await
    }

    /// The same on this port.
    pub(crate) async fn start_at(port: u16, flags: &[&str]) -> Self {
        Self::of(&[port], "http", flags).await
    }

    /// One of three members.
    pub(crate) async fn three() -> Self {
        Self::of(&[(); 3].map(|()| free_port()), "http", &[]).await
    }

    /// The same; clients need a certificate of this authority, and that of the servers is `cert`.
    pub(crate) async fn three_tls(ca: &Path, cert: &Path, key: &Path) -> Self {
        let flags = [("cert-file", cert), ("key-file", key), ("trusted-ca-file", ca)];
        let flags = flags.map(|(name, file)| format!("--{name}={}", file.display()));
        let [cert, key, ca] = flags.each_ref().map(String::as_str);
        Self::of(&[(); 3].map(|()| free_port()), "https", &[cert, key, ca, "--client-cert-auth"]).await
    }

    async fn of(ports: &[u16], scheme: &'static str, flags: &[&str]) -> Self {
        let data = tempfile::Builder::new().prefix("etcd-").tempdir().expect("a temporary directory");
        let mut members = Member::all(data.path(), scheme, ports, flags);
        members.iter_mut().for_each(Member::spawn);
        for member in &members {
            member.is_healthy().await;
        }
        Self { members, scheme, _data: data }
    }

    /// Of one member: where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.members[0].port
    }

    /// For `cluster.endpoints`.
    pub(crate) fn endpoints(&self) -> String {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme, member.port);
        json!(self.members.iter().map(url).collect::<Vec<_>>()).to_string()
    }

    /// Of one member: stops it where it is. To its clients, it has no majority.
    pub(crate) fn pause(&self) {
        self.members[0].pause();
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.members[0].resume();
    }

    /// The member that leads the others.
    pub(crate) async fn leader(&self) -> usize {
        within(DEADLINE, "a leader of etcd", async || {
            for (n, member) in self.members.iter().enumerate() {
                if let Some(status) = member.ask("maintenance/status", &json!({})).await
                    && status["leader"] == status["header"]["member_id"]
                {
                    return Some(n);
                }
            }
            None
        })
        .await
    }
}

/// A member; ended with the value.
pub(crate) struct Member {
    flags: Vec<String>,
    log: PathBuf,
    port: u16,
    /// Where it answers without TLS, for the test itself.
    plain: u16,
    child: Option<Child>,
}

impl Member {
    /// Members that know each other, not running yet, each at one of `ports`. Their data and logs are in `dir`.
    pub(crate) fn all(dir: &Path, scheme: &str, ports: &[u16], more: &[&str]) -> Vec<Self> {
        let name = |n: usize| format!("etcd-{n}");
        let peers: Vec<_> = ports.iter().map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
        let all: Vec<_> = peers.iter().enumerate().map(|(n, peer)| format!("{}={peer}", name(n))).collect();
        let member = |(n, (&port, peer)): (usize, (&u16, &String))| {
            let client = format!("{scheme}://127.0.0.1:{port}");
            let plain = if scheme == "http" { port } else { free_port() };
            let listen = if plain == port { client.clone() } else { format!("{client},http://127.0.0.1:{plain}") };
            let flags = [
                ("name", name(n)),
                ("data-dir", dir.join(name(n)).display().to_string()),
                ("listen-client-urls", listen),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", all.join(",")),
                ("logger", "zap".to_owned()),
            ];
            let flags = flags.into_iter().map(|(name, value)| format!("--{name}={value}"));
            let flags = flags.chain(more.iter().map(|flag| (*flag).to_owned())).collect();
            Self { flags, log: dir.join(format!("{}.log", name(n))), port, plain, child: None }
        };
        ports.iter().zip(&peers).enumerate().map(member).collect()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("etcd runs").id()
    }

    /// Starts it on its data, unless it runs.
    pub(crate) fn spawn(&mut self) {
        if self.child.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new("etcd");
        command.args(&self.flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("etcd cannot be run: apt-get install etcd-server"));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
    }

    /// Stops it where it is (SIGSTOP).
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        // Its threads do not stop at once where the processors are busy.
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < STOP_WAIT, "etcd did not stand still within {STOP_WAIT:?} of SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("etcd runs");
        let stands = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        tasks.flatten().all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stands(&stat)))
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("etcd runs");
        kill_process(Pid::from_child(child), signal).expect("etcd runs");
    }

    /// Asks it, without TLS.
    pub(crate) async fn ask(&self, path: &str, question: &Value) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/v3/{path}", self.plain);
        http().post(url).json(question).send().await.ok()?.json().await.ok()
    }

    /// Waits until it answers.
    pub(crate) async fn is_healthy(&self) {
        let (http, health) = (http(), format!("http://127.0.0.1:{}/health", self.plain));
        within(DEADLINE, "etcd", async || {
            let answer = http.get(&health).send().await.ok()?.text().await.ok()?;
            answer.contains("true").then_some(())
        })
        .await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
