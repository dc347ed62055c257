//! A real Mosquitto of a test's own: its own port, configuration and persistence directory.
//!
//! It is what the link and the black-box tests talk to. It can be stopped, killed and started again on the same port
//! with the same persistence, as an operator's broker would be. A missing Mosquitto fails the test: what a test did
//! not see, it must not claim.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpSocket;

/// How long a broker may take to start on a loaded machine.
const START_LIMIT: Duration = super::DEADLINE;

/// A running broker; ends with the value.
pub(crate) struct Mosquitto {
    program: PathBuf,
    dir: TempDir,
    extra_conf: String,
    port: u16,
    child: Option<Running>,
    log: Arc<Mutex<String>>,
}

/// The process; `up` gets a message when it serves and closes when it has ended.
struct Running {
    child: Child,
    up: mpsc::Receiver<()>,
}

impl Mosquitto {
    /// Starts a broker on a free loopback port. `extra_conf` is appended to the configuration file (after the plain
    /// listener, so that a second `listener` with its TLS options may follow) and replaces defaults of the same key.
    pub(crate) fn start(extra_conf: &str) -> Self {
        let mut broker = Self {
            program: program(),
            dir: tempfile::Builder::new().prefix("mosquitto-").tempdir().expect("a temporary directory"),
            extra_conf: extra_conf.to_owned(),
            port: 0,
            child: None,
            log: Arc::default(),
        };
        // Between finding a port and the broker's bind another process may take it.
        for _ in 0..20 {
            broker.port = free_port();
            if broker.spawn() {
                return broker;
            }
            if !broker.log().contains("Address already in use") {
                break;
            }
        }
        panic!("mosquitto did not start:\n{}", broker.log());
    }

    /// The port of the plain listener on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The directory of its configuration and persistence, for files named in `extra_conf`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has logged so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it as an operator would (SIGTERM): it saves its persistence first.
    pub(crate) fn stop(&mut self) {
        let Some(Running { mut child, up }) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        // Mosquitto forgets a signal that comes just after it said that it is running, so it may have to be told again.
        let ended = (0..20).any(|_| {
            // Already gone is fine.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            matches!(up.recv_timeout(Duration::from_secs(1)), Err(mpsc::RecvTimeoutError::Disconnected))
        });
        if !ended {
            let _ = child.kill();
        }
        child.wait().expect("mosquitto ends");
        assert!(ended, "mosquitto does not stop:\n{}", self.log());
    }

    /// Ends it at once (SIGKILL): what it had not saved is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(Running { mut child, .. }) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("mosquitto ends");
        }
    }

    /// Stops it where it is (SIGSTOP): its connections stand, and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Has it read its ACL again (SIGHUP).
    pub(crate) fn reload(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = &self.child.as_ref().expect("it runs").child;
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("the process is there");
    }

    /// Starts it on the same port with the same persistence, after a `stop` if it still runs.
    pub(crate) fn restart(&mut self) {
        self.stop();
        assert!(self.spawn(), "mosquitto did not start again:\n{}", self.log());
    }

    fn spawn(&mut self) -> bool {
        let conf = self.dir.path().join("mosquitto.conf");
        std::fs::write(&conf, self.conf()).expect("a configuration file");
        let mut child = Command::new(&self.program)
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{} cannot be run: {e}", self.program.display()));
        let stderr = child.stderr.take().expect("a pipe");
        let (running, started) = mpsc::channel();
        let log = Arc::clone(&self.log);
        // Ends with the broker, which closes the pipe; dropping `running` is the sign that it ended.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let is_up = line.contains("mosquitto version") && line.ends_with("running");
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                drop(log);
                if is_up {
                    let _ = running.send(());
                }
            }
        });
        let is_up = started.recv_timeout(START_LIMIT).is_ok();
        self.child = Some(Running { child, up: started });
        if !is_up {
            self.kill();
        }
        is_up
    }

    fn conf(&self) -> String {
        let dir = self.dir.path().display();
        let defaults = [
            ("log_dest", "stderr".to_owned()),
            ("log_type", "all".to_owned()),
            ("user", if rustix::process::geteuid().is_root() { "root".to_owned() } else { String::new() }),
            ("allow_anonymous", "true".to_owned()),
            ("persistence", "true".to_owned()),
            ("persistence_location", format!("{dir}/")),
            // Not 0, "no limit": with that Mosquitto 2.0 closes the connection after each publish that its ACL refuses.
            ("max_queued_messages", "1000000".to_owned()),
            ("set_tcp_nodelay", "true".to_owned()),
        ];
        let mut conf = String::new();
        for (key, value) in defaults {
            let overridden = self.extra_conf.lines().any(|line| line.split_whitespace().next() == Some(key));
            if !overridden && !value.is_empty() {
                writeln!(conf, "{key} {value}").expect("a string takes all");
            }
        }
        writeln!(conf, "listener {} 127.0.0.1", self.port).expect("a string takes all");
        conf.push_str(&self.extra_conf);
        conf.push('\n');
        conf
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            super::show_end(&format!("mosquitto on port {}", self.port), &self.log());
        }
    }
}

/// A loopback port that is free now and that no outgoing connection takes meanwhile.
///
/// Port 0 would give one of the ephemeral range. That will not do for a server that is stopped and started again on
/// its port: a client that keeps trying the port of a stopped server can be given that same port as its own source
/// port and then talks to itself.
///
/// For a server that will be there. Where nobody is to be, see [`Deserted`](super::deserted::Deserted).
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    // Test processes that run at the same time start at different places.
    let offset = u16::try_from(std::process::id().wrapping_mul(7919) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}

/// Bound for a moment, and not listened on: a process that another test starts just now inherits the socket until it
/// becomes another program, and a listening one would keep the port taken for so long.
fn is_free(port: u16) -> bool {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket option");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
        .map(|dir| dir.join("mosquitto"))
        .find(|file| file.is_file())
        .expect("mosquitto is not installed; `apt-get install mosquitto` (tests/run does so by itself)")
}

#[test]
fn restart_keeps_the_port() {
    let mut broker = Mosquitto::start("");
    let port = broker.port();
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    broker.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    broker.restart();
    assert_eq!(broker.port(), port);
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("it accepts again");
    assert!(broker.url().ends_with(&port.to_string()));
    assert!(broker.dir().is_dir());
}
