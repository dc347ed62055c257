//! Reports the daemon's state to the service manager (`sd_notify(3)`), and feeds its watchdog.
//!
//! Each report is one datagram to the socket that `NOTIFY_SOCKET` names, sent without blocking: a service manager that does not
//! read must not stop the bridge. It learns what it missed with the next change or the next ping.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Environment;
use crate::observe::log::Seldom;
use crate::observe::progress;
use crate::operate::status::{Report, Reports};

/// How long [`Notifier::ready`] is tried, and how often.
const INSIST: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Says how we are to the service manager, if there is one; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// How often it wants to hear that the loops make progress.
    watchdog: Option<Duration>,
    failed: Seldom,
}

impl Notifier {
    /// For the service manager that this environment names.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let Some(name) = environment.variable("NOTIFY_SOCKET") else { return Self::default() };
        match open(name) {
            Ok((socket, manager)) => {
                let (watchdog, failed) = (watchdog(environment), Seldom::default());
                Self(Some(Arc::new(Inner { socket, manager, watchdog, failed })))
            }
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET cannot be used: the service manager will not learn that the bridge runs; leave the variable to it, or unset it");
                Self::default()
            }
        }
    }

    /// Whether anybody listens.
    fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// All is started: pushes and commands are taken from now on, wherever broker and iLink are.
    ///
    /// It must not get lost, so that it is tried again for a while if the service manager does not read at once.
    pub async fn ready(&self) {
        let began = Instant::now();
        while let Err(error) = self.try_send("READY=1\n") {
            if error.kind() != io::ErrorKind::WouldBlock || began.elapsed() > INSIST {
                return self.failed(&error);
            }
            sleep(PAUSE).await;
        }
    }

    /// The configuration is being read again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}\n"));
    }

    /// The stop has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: what is under way is finished first\n");
    }

    /// How things stand, in one line.
    fn status(&self, line: &str) {
        self.send(&format!("STATUS={line}\n"));
    }

    fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    fn send(&self, news: &str) {
        if let Err(error) = self.try_send(news) {
            self.failed(&error);
        }
    }

    fn try_send(&self, news: &str) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        inner.socket.send_to_addr(news.as_bytes(), &inner.manager).map(|_| ())
    }

    fn failed(&self, error: &io::Error) {
        if self.0.as_ref().is_some_and(|inner| inner.failed.may()) {
            warn!(%error, "could not report to the service manager: look at it (systemctl status); it may restart the bridge");
        }
    }
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

/// How often to ping: twice in the time after which the service manager gives us up. None if no watchdog is meant for us.
fn watchdog(environment: &Environment) -> Option<Duration> {
    let number = |name| environment.variable(name).and_then(OsStr::to_str).map(str::parse::<u64>);
    let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == Ok(u64::from(std::process::id())));
    let limit = number("WATCHDOG_USEC")?.ok().filter(|limit| for_us && *limit > 0)?;
    Some(Duration::from_micros((limit / 2).max(1)))
}

/// Tells the service manager of every change of state, and as often as its watchdog wants that the loops make progress,
/// until `stop`.
pub async fn watch(notifier: Notifier, mut reports: Reports, stop: CancellationToken) {
    if !notifier.is_on() {
        return;
    }
    let pinged = reports.clone();
    let following = async {
        loop {
            let report = Arc::clone(&reports.borrow_and_update());
            // Both only observe.
            tokio::select! {
                () = follow(&notifier, &report) => {}
                Ok(()) = reports.changed() => {}
            }
        }
    };
    // Neither arm ends by itself.
    tokio::select! {
        () = stop.cancelled() => {}
        () = feed(&notifier, || progress::stuck(&pinged.borrow().loops)) => {}
        () = following => {}
    }
}

/// Sends `STATUS=` whenever the line changes.
async fn follow(notifier: &Notifier, report: &Report) {
    let (mut cloud, mut link, mut writable) = (report.cloud.clone(), report.link.clone(), report.spool.writable());
    let mut awaits = report.cluster.as_ref().map(|member| member.awaits.clone());
    let mut told = String::new();
    loop {
        cloud.mark_unchanged();
        link.mark_unchanged();
        writable.mark_unchanged();
        let status = report.line();
        if status != told {
            notifier.status(&status);
            told = status;
        }
        // All arms only observe.
        tokio::select! {
            Ok(()) = cloud.changed() => {}
            Ok(()) = link.changed() => {}
            Ok(()) = writable.changed() => {}
            Some(Ok(())) = async { Some(awaits.as_mut()?.changed().await) } => {}
            else => return std::future::pending().await,
        }
    }
}

/// Pings while no loop is stuck. That this task has its turn shows that the runtime lives; nothing else does it, and nobody
/// else's reachability counts.
async fn feed(notifier: &Notifier, stuck: impl Fn() -> Vec<&'static str>) {
    let Some(every) = notifier.0.as_ref().and_then(|inner| inner.watchdog) else {
        return std::future::pending().await;
    };
    let mut tick = paced(every);
    let mut was_stuck = false;
    loop {
        tick.tick().await;
        let stuck = stuck();
        if stuck.is_empty() {
            notifier.alive();
        } else if !was_stuck {
            warn!(
                loops = stuck.join(", "),
                "no progress for 30 s: the watchdog is not fed, and the service manager will restart the bridge; look for a failing disk"
            );
        }
        was_stuck = !stuck.is_empty();
    }
}

fn paced(every: Duration) -> Interval {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::progress::Progress;

    fn environment(variables: &[(&str, String)]) -> Environment {
        variables.iter().map(|(name, value)| (*name, value.clone())).collect()
    }

    /// A service manager with a watchdog of so many microseconds, and the notifier that talks to it.
    fn manager(watchdog_us: u64) -> (tokio::net::UnixDatagram, Notifier, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let variables = [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", watchdog_us.to_string())];
        (socket, Notifier::of(&environment(&variables)), dir)
    }

    async fn heard(socket: &tokio::net::UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_loop_that_is_stuck_is_not_told_as_alive() {
        let (socket, notifier, _dir) = manager(20_000);
        let (relay, deliver) = (Progress::default(), Progress::default());
        let loops = [("relay", relay.clone()), ("deliver", deliver.clone())];
        let feeding = tokio::spawn(async move { feed(&notifier, || progress::stuck(&loops)).await });
        for _ in 0..3 {
            assert_eq!(heard(&socket).await, "WATCHDOG=1\n");
        }
        deliver.pretend_stuck();
        relay.beat();
        // What was on its way before is read; then there is silence for far more than the watchdog's time.
        let mut late = 0;
        while tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut [0; 64])).await.is_ok() {
            late += 1;
            assert!(late < 1000, "it goes on saying that it lives");
        }
        deliver.rest();
        assert_eq!(heard(&socket).await, "WATCHDOG=1\n");
        feeding.abort();
    }

    #[tokio::test]
    async fn what_is_said_is_what_the_manual_says() {
        let (socket, notifier, _dir) = manager(0);
        notifier.ready().await;
        assert_eq!(heard(&socket).await, "READY=1\n");
        notifier.status("iLink online");
        assert_eq!(heard(&socket).await, "STATUS=iLink online\n");
        notifier.reloading();
        let reloading = heard(&socket).await;
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(at.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        notifier.stopping();
        assert!(heard(&socket).await.starts_with("STOPPING=1\n"));
        // Nobody is there to read: no error, no waiting.
        drop(socket);
        notifier.ready().await;
        Notifier::default().ready().await;
    }

    #[tokio::test]
    async fn readiness_waits_for_a_service_manager_that_is_slow_to_read() {
        let (socket, notifier, _dir) = manager(0);
        while notifier.try_send("STATUS=full\n").is_ok() {}
        let telling = tokio::spawn(async move { notifier.ready().await });
        let mut news = String::new();
        while news != "READY=1\n" {
            news = heard(&socket).await;
        }
        telling.await.unwrap();
    }

    #[tokio::test]
    async fn names_may_be_abstract() {
        let name = format!("ilink2mqtt-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::of(&environment(&[("NOTIFY_SOCKET", format!("@{name}"))])).ready().await;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\n");
    }

    #[test]
    fn the_watchdog_may_be_meant_for_another_process() {
        let own = std::process::id();
        for (usec, pid, every) in [
            (Some("30000000"), None, Some(15_000)),
            (Some("30000000"), Some(own), Some(15_000)),
            (Some("30000000"), Some(own + 1), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, None, None),
        ] {
            let usec = usec.map(|usec| ("WATCHDOG_USEC", usec.to_owned()));
            let pid = pid.map(|pid| ("WATCHDOG_PID", pid.to_string()));
            let variables: Vec<_> = usec.into_iter().chain(pid).collect();
            assert_eq!(watchdog(&environment(&variables)), every.map(Duration::from_millis), "{variables:?}");
        }
    }
}
