//! etcd of the tests: one that they share, and others of their own.
//!
//! A missing etcd fails the test: what a test did not see, it must not claim.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::DEADLINE;

/// How long it may take until all threads have stopped.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Starts etcd and waits until nobody holds the other end of its standard input any more: then it ends etcd, by its number,
/// however its own parent has ended.
const KEEPER: &str = r#"
dir=$1; shift
"$@" >"$dir/log" 2>&1 &
echo $!
read -r _
kill -9 $! 2>/dev/null
rm -rf "$dir"
"#;

/// An etcd of one member. It ends with the value, or with the process.
pub(crate) struct Server {
    keeper: Child,
    pid: Pid,
    port: u16,
    scheme: &'static str,
    dir: TempDir,
}

/// The one that all tests share, as a URL.
pub(crate) fn shared() -> &'static str {
    static SHARED: OnceLock<(Server, String)> = OnceLock::new();
    &SHARED
        .get_or_init(|| {
            let server = Server::start(&[]);
            let url = server.url();
            (server, url)
        })
        .1
}

impl Server {
    /// Starts one with these flags besides.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut log = String::new();
        // Between finding a port and etcd's bind another process may take it.
        for _ in 0..20 {
            let mut server = Self::spawn(flags);
            if server.is_up() {
                return server;
            }
            log = std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            if !log.contains("address already in use") {
                break;
            }
        }
        panic!(
            "etcd did not start; is it installed (`apt-get install etcd-server`; tests/run does so by itself)?\n{log}"
        );
    }

    fn spawn(flags: &[&str]) -> Self {
        let mut named = tempfile::Builder::new();
        named.prefix("etcd-");
        // In memory, where there is such a place: what the tests look at is not the disk.
        let dir = named.tempdir_in("/dev/shm").or_else(|_| named.tempdir()).unwrap();
        let (port, peers) = (free_port(), free_port());
        let scheme = if flags.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        let (clients, peers) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(dir.path())
            .args(["etcd", "--name", "one", "--logger", "zap", "--log-level", "warn", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .arg(format!("--initial-cluster=one={peers}"))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut first = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let pid = Pid::from_raw(first.trim().parse().expect("a process's number")).unwrap();
        Self { keeper, pid, port, scheme, dir }
    }

    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if self.scheme == "https" && TcpStream::connect(("127.0.0.1", self.port)).is_ok() || self.is_healthy() {
                return true;
            }
            if rustix::process::test_kill_process(self.pid).is_err() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains(r#""health":"true""#)
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Stops it where it is: its connections stand, and nothing answers.
    pub(crate) fn pause(&self) {
        rustix::process::kill_process(self.pid, Signal::STOP).unwrap();
        // Its threads do not stop at once where the processors are busy.
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < STOP_WAIT, "etcd did not stand still within {STOP_WAIT:?} of SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_nonzero())).unwrap();
        let stands = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        tasks.flatten().all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stands(&stat)))
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        rustix::process::kill_process(self.pid, Signal::CONT).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The keeper does the rest.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
