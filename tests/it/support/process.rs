//! A child process of the program under test: its output kept, ended by its own handle.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{DEADLINE, within};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ilink2mqtt");

/// What a service manager sets for the services it starts.
const SERVICE_MANAGERS: [&str; 9] = [
    "STATE_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "JOURNAL_STREAM",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// A running process; killed with the value.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    // Files, not pipes: what it has printed is there at once, and no reader of ours can lag behind on a busy machine.
    stdout: File,
    stderr: File,
}

impl Process {
    /// Runs the program with these arguments and an environment that holds nothing of the caller's configuration.
    pub(crate) fn start<I, S>(name: &'static str, args: I, env: &[(&str, &str)]) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::spawn(name, command(PROGRAM, args, env))
    }

    /// As [`Self::start`], with at most so many open files.
    pub(crate) fn start_with_open_files(name: &'static str, limit: u32, args: &[&str], env: &[(&str, &str)]) -> Self {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        Self::spawn(name, command("sh", ["-c", &script, PROGRAM].iter().chain(args), env))
    }

    /// As [`Self::start`], as if its standard error were the journal.
    pub(crate) fn start_in_journal(name: &'static str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let script = "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec \"$0\" \"$@\"";
        Self::spawn(name, command("sh", ["-c", script, PROGRAM].iter().chain(args), env))
    }

    /// As [`Self::start`], on a terminal of its own, which is closed with the process.
    pub(crate) fn start_on_terminal(name: &'static str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let line = [&[PROGRAM], args].concat().join(" ");
        Self::spawn(name, command("script", ["-qefc", &line, "/dev/null"], env))
    }

    /// As [`Self::start`], with a listening socket called `socket_name` handed over as a service manager does.
    pub(crate) fn start_with_socket(
        name: &'static str,
        (socket_name, socket): (&str, &TcpListener),
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        // The first descriptor handed over is 3, and the variable names the process that is meant.
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let mut command = command("sh", ["-c", script, PROGRAM].iter().chain(args), env);
        command.env("LISTEN_FDNAMES", socket_name);
        if !env.iter().any(|(name, _)| *name == "LISTEN_FDS") {
            command.env("LISTEN_FDS", "1");
        }
        let socket = socket.try_clone().expect("a descriptor");
        Self::spawn_reading(name, command, Stdio::from(OwnedFd::from(socket)))
    }

    fn spawn(name: &'static str, command: Command) -> Self {
        Self::spawn_reading(name, command, Stdio::null())
    }

    fn spawn_reading(name: &'static str, mut command: Command, stdin: Stdio) -> Self {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
        let [out, err] = [&stdout, &stderr].map(|file| file.try_clone().expect("a descriptor"));
        let child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("{PROGRAM} cannot be run: {e}"));
        Self { name, child, stdout, stderr }
    }

    /// Everything it has printed so far, one stream after the other.
    pub(crate) fn output(&self) -> String {
        content(&self.stdout) + &content(&self.stderr)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it was, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Sends SIGTERM, SIGHUP…
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Stops it (SIGSTOP) and waits until all of it stands still.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        let pid = rustix::process::Pid::from_child(&self.child);
        let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED)
            .expect("a child of ours")
            .expect("a change of its state");
        assert!(status.stopped(), "{} ended:\n{}", self.name, self.output());
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        self.child.wait().expect("a child of ours");
    }

    /// Waits until it ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let name = self.name;
        let what = format!("the end of {name}");
        within(DEADLINE, &what, async || self.child.try_wait().expect("a child of ours")).await
    }

    /// Waits until its output holds this text.
    pub(crate) async fn printed(&self, text: &str) {
        let what = format!("{} to print {text:?}", self.name);
        within(DEADLINE, &what, async || self.output().contains(text).then_some(())).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            super::show_end(self.name, &self.output());
            return;
        }
        let output = self.output();
        let unknown = super::messages::unknown(&output);
        assert!(unknown.is_empty(), "deploy/messages.md does not have what {} said: {unknown:#?}", self.name);
    }
}

/// What a command that ends by itself printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    /// Both streams, for messages that may be on either.
    pub(crate) text: String,
}

/// Runs the program to its end.
pub(crate) async fn finish<I, S>(args: I, env: &[(&str, &str)]) -> Finished
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut process = Process::start("command", args, env);
    let code = process.ended().await.code();
    Finished { code, stdout: content(&process.stdout), text: process.output() }
}

fn command<I, S>(program: &str, args: I, env: &[(&str, &str)]) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| name.starts_with("ILINK2MQTT_"));
        let is_the_service_managers = name.to_str().is_some_and(|name| SERVICE_MANAGERS.contains(&name));
        if is_ours || is_the_service_managers {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "1").envs(env.iter().copied());
    command
}

/// What a process has written to this file so far; its own place in the file stays where it is.
fn content(file: &File) -> String {
    let size = file.metadata().expect("an open file").len();
    let mut bytes = vec![0; usize::try_from(size).expect("it fits into memory")];
    file.read_exact_at(&mut bytes, 0).expect("an open file");
    String::from_utf8_lossy(&bytes).into_owned()
}
