//! Several bridges for one account, each a process of its own that can be killed, with an etcd that they share. What nginx does
//! elsewhere is done here: one address for all, which leads to whichever bridge accepts the connection.
//!
//! One etcd is enough to see a bridge die; it survives nothing itself. A bridge that has ended is started again after a while, as
//! a service manager would do it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::scene::say;
use super::tied;

/// Environment variables and their values.
pub(super) type Settings = Vec<(&'static str, String)>;

/// Read instead of the operator's own configuration, which must have no part in the demo.
pub(super) const NO_FILE: &str = "/dev/null";
/// The names of the bridges.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// `cluster.takeover`: short, for who watches.
const TAKEOVER: &str = "3s";
/// So long after its end a bridge is started again: another one has taken over by then.
const AGAIN: Duration = Duration::from_secs(15);
/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long etcd may take to listen.
const ETCD_WITHIN: Duration = Duration::from_secs(30);
/// Who has not ended so long after SIGTERM is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
const NO_ETCD: &str = "\
etcd is not installed (no `etcd` in PATH), and --cluster needs it. On Debian and Ubuntu: sudo apt-get install etcd-server
(the demo starts an etcd of its own: you need not run the package's service). Elsewhere: https://etcd.io/docs/latest/install/";

/// The bridges and their etcd; all of them end with the value.
pub(super) struct Cluster {
    bridges: Vec<Bridge>,
    etcd: Process,
    etcd_at: SocketAddr,
    etcd_log: PathBuf,
    /// Where all of them are reached.
    front: SocketAddr,
}

struct Bridge {
    name: &'static str,
    callback: SocketAddr,
    admin: SocketAddr,
    dir: PathBuf,
    process: Option<Process>,
    not_before: Instant,
}

impl Cluster {
    /// Starts etcd. The bridges are started by [`Self::run`].
    ///
    /// # Errors
    /// If there is no etcd, or it does not start.
    pub(super) async fn start(bridges: u8, dir: &Path) -> io::Result<Self> {
        let (etcd_at, peer, etcd_log) = (free()?, free()?, dir.join("etcd.log"));
        let [client, peer] = [etcd_at, peer].map(|address| format!("http://{address}"));
        let mut command = tied::command("etcd")?;
        command
            .args(["--name", "demo", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("demo={peer}")])
            .stdout(Stdio::null())
            .stderr(File::create(&etcd_log)?);
        let etcd = Process::start(&mut command)?;
        let bridges = NAMES.iter().take(bridges.into()).map(|name| Bridge::new(name, dir));
        let bridges: Vec<_> = bridges.collect::<io::Result<_>>()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let front = listener.local_addr()?;
        tokio::spawn(pass_on(listener, bridges.iter().map(|bridge| bridge.callback).collect()));
        let mut cluster = Self { bridges, etcd, etcd_at, etcd_log, front };
        let listening = async {
            while TcpStream::connect(cluster.etcd_at).await.is_err() && cluster.etcd.ended().is_none() {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(ETCD_WITHIN, listening).await.map_err(|_| io::Error::other("etcd does not listen"))?;
        cluster.look_at_etcd()?;
        Ok(cluster)
    }

    /// What there is, for who begins to watch.
    pub(super) fn told(&self) -> String {
        format!("They share one etcd\n(http://{}); a real cluster has three, on three machines", self.etcd_at)
    }

    /// The names of the bridges, and where their status pages are.
    pub(super) fn pages(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.bridges.iter().map(|bridge| (bridge.name, bridge.admin))
    }

    /// Runs the bridges until `stop`. `leader` is the name of the one that leads, as it says itself.
    ///
    /// # Errors
    /// If etcd ends, or a bridge cannot be run.
    pub(super) async fn run(
        mut self,
        settings: &Settings,
        leader: &watch::Receiver<String>,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let mut settings = settings.clone();
        settings.extend([
            ("ILINK2MQTT_CLUSTER__ENDPOINTS", format!("[\"http://{}\"]", self.etcd_at)),
            ("ILINK2MQTT_CLUSTER__TAKEOVER", TAKEOVER.to_owned()),
            ("ILINK2MQTT_CALLBACK__PUBLIC_URL", format!("http://{}/ilink", self.front)),
            ("ILINK2MQTT_LOG__LEVEL", "warn".to_owned()),
        ]);
        let mut told = String::new();
        let mut tick = interval(LOOK_EVERY);
        let watching = async {
            loop {
                tick.tick().await;
                self.look_at_etcd()?;
                for bridge in &mut self.bridges {
                    bridge.look(&settings)?;
                }
                if let Some(now) = self.who_leads(&leader.borrow()).filter(|now| *now != told) {
                    say(&now);
                    told = now;
                }
            }
        };
        let ended = stop.run_until_cancelled(watching).await.unwrap_or(Ok(()));
        let leader = leader.borrow().clone();
        self.end(&leader).await;
        ended
    }

    fn look_at_etcd(&mut self) -> io::Result<()> {
        let Some(status) = self.etcd.ended() else { return Ok(()) };
        if status.code() == Some(tied::NOT_FOUND.into()) {
            return Err(io::Error::other(NO_ETCD));
        }
        let log = std::fs::read_to_string(&self.etcd_log).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or_default();
        Err(io::Error::other(format!("etcd has ended ({status}); its last words: {last}")))
    }

    /// Who leads and who stands by, with their numbers; none while nobody does.
    fn who_leads(&self, leader: &str) -> Option<String> {
        let running = |bridge: &Bridge| Some((bridge.name, bridge.process.as_ref()?.0.id()));
        let all: Vec<_> = self.bridges.iter().filter_map(running).collect();
        let (name, pid) = all.iter().find(|(name, _)| *name == leader)?;
        let others = all.iter().filter(|(name, _)| *name != leader);
        let others: Vec<_> = others.map(|(name, pid)| format!(", {name} (pid {pid}) stands by")).collect();
        let others = others.concat();
        Some(format!("        demo  {name} (pid {pid}) leads{others}. Kill the leader and watch: kill -9 {pid}"))
    }

    /// Ends all processes: the leader after the others, so that nobody takes over; etcd last.
    async fn end(mut self, leader: &str) {
        self.bridges.sort_by_key(|bridge| bridge.name == leader);
        for bridge in self.bridges {
            if let Some(process) = bridge.process {
                process.end().await;
            }
        }
        self.etcd.end().await;
    }
}

impl Bridge {
    fn new(name: &'static str, dir: &Path) -> io::Result<Self> {
        let (callback, admin, dir) = (free()?, free()?, dir.join(name));
        Ok(Self { name, callback, admin, dir, process: None, not_before: Instant::now() })
    }

    /// Starts it if it is time to, and says if it has ended.
    fn look(&mut self, settings: &Settings) -> io::Result<()> {
        if let Some(status) = self.process.as_mut().and_then(Process::ended) {
            say(&format!("        demo  {} has ended ({status}); it is started again in {AGAIN:?}", self.name));
            self.process = None;
            self.not_before = Instant::now() + AGAIN;
        }
        if self.process.is_none() && Instant::now() >= self.not_before {
            self.process = Some(self.start(settings)?);
        }
        Ok(())
    }

    fn start(&self, settings: &Settings) -> io::Result<Process> {
        let mut command = tied::command(std::env::current_exe()?)?;
        command
            .args(["--config", NO_FILE, "run"])
            .env_clear()
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .env("ILINK2MQTT_STATE_DIR", &self.dir)
            .env("ILINK2MQTT_CALLBACK__LISTEN", self.callback.to_string())
            .env("ILINK2MQTT_ADMIN__LISTEN", self.admin.to_string())
            .env("ILINK2MQTT_CLUSTER__MEMBER", self.name)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        if let Some(log) = process.0.stderr.take() {
            let name = self.name;
            // Ends with the process.
            std::thread::spawn(move || pass_on_log(name, log));
        }
        Ok(process)
    }
}

/// A process of the demo's; it ends with the value.
struct Process(Child);

impl Process {
    /// In a group of its own: Ctrl-C is for the demo, which ends the others one after the other.
    fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).process_group(0).spawn().map(Self)
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    async fn end(mut self) {
        if self.ended().is_none() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        }
        let end = async {
            while self.ended().is_none() {
                sleep(LOOK_EVERY).await;
            }
        };
        let _ = timeout(END_WITHIN, end).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a bridge warns of, with its name; but not that http:// is in clear, because nothing leaves this machine.
fn pass_on_log(name: &str, log: ChildStderr) {
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if !line.contains("ilink.api is http://") {
            let _ = writeln!(io::stderr(), "{name}  {line}");
        }
    }
}

/// An address of loopback on which nobody listens now.
fn free() -> io::Result<SocketAddr> {
    StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Passes each connection on to a bridge that accepts it. If none does, it is cut, and iLink tries again.
async fn pass_on(front: TcpListener, mut bridges: Vec<SocketAddr>) {
    loop {
        let Ok((mut from, _)) = front.accept().await else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        bridges.rotate_left(1);
        let bridges = bridges.clone();
        tokio::spawn(async move {
            for bridge in bridges {
                if let Ok(mut to) = TcpStream::connect(bridge).await {
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                    return;
                }
            }
        });
    }
}
