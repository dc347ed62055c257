//! What the daemon tells the service manager, read at a real `NOTIFY_SOCKET`.

use std::cell::RefCell;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::blackbox::world::World;
use crate::support::DEADLINE;
use crate::support::bridge::Bridge;
use crate::support::deserted::Deserted;
use crate::support::sim::Sim;

/// The service manager's end.
struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
    /// The last `STATUS=` heard: it comes once for each change, and may come before `READY=1`.
    status: RefCell<String>,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { dir, socket, status: RefCell::default() }
    }

    fn of(&self, bridge: Bridge) -> Bridge {
        bridge.with_env("NOTIFY_SOCKET", self.dir.path().join("notify").to_str().unwrap())
    }

    async fn heard(&self) -> String {
        let mut buffer = [0; 8192];
        let length = tokio::time::timeout(DEADLINE, self.socket.recv(&mut buffer)).await.expect("news").unwrap();
        let news = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some(status) = news.lines().find_map(|line| line.strip_prefix("STATUS=")) {
            self.status.replace(status.to_owned());
        }
        news
    }

    /// Reads on until `is` holds for the state as last told, which may have been told already.
    async fn until_status(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let reading = async {
            while !is(&self.status.borrow()) {
                self.heard().await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, reading).await;
        let status = self.status.borrow().clone();
        assert!(found.is_ok(), "waited for {what}; the last status: {status}");
        status
    }

    /// Reads on until `is` holds for a piece of news; all that came, that one last.
    async fn until(&self, what: &str, is: impl Fn(&str) -> bool) -> Vec<String> {
        let mut all = Vec::new();
        let reading = async {
            loop {
                let news = self.heard().await;
                let found = is(&news);
                all.push(news);
                if found {
                    return;
                }
            }
        };
        let found = tokio::time::timeout(DEADLINE, reading).await;
        assert!(found.is_ok(), "waited for {what} in {all:?}");
        all
    }
}

fn says(line: &'static str) -> impl Fn(&str) -> bool {
    move |news| news.lines().any(|said| said == line)
}

#[tokio::test]
async fn a_life_as_the_service_manager_hears_it() {
    let manager = Manager::new();
    let mut world = World::prepared(&[], |bridge| manager.of(bridge)).await;
    world.bridge.spawn();
    let first = manager.until("READY=1", says("READY=1")).await;
    assert!(!first.iter().any(|news| news.contains("WATCHDOG=1")), "no watchdog was asked for: {first:?}");
    manager.until_status("all is well", |status| status == "iLink online; ready: broker, subscriptions, spool").await;

    world.sim.kill();
    world.client.publish("ilink/send/user/413/text", "x").await;
    // A first attempt may have met a connection of before that had just ended.
    let refused = |status: &str| status.starts_with("iLink offline: ") && status.contains("refuses connections");
    manager.until_status("the cause", refused).await;

    world.bridge.process().signal(Signal::HUP);
    let reload = manager.until("RELOADING=1", says("RELOADING=1")).await;
    let at = reload.last().unwrap().lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    manager.until("READY=1 after it", says("READY=1")).await;

    world.bridge.process().signal(Signal::TERM);
    manager.until("STOPPING=1", says("STOPPING=1")).await;
    assert_eq!(world.bridge.process().ended().await.code(), Some(0));
}

#[tokio::test]
async fn ready_and_alive_though_nobody_can_be_reached() {
    let manager = Manager::new();
    let bridge = Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[]));
    let mut bridge = manager.of(bridge).with_env("WATCHDOG_USEC", "200000");
    bridge.spawn();
    manager.until("READY=1", says("READY=1")).await;
    let cause = |status: &str| status.contains("broker not ready: ") && status.contains("refuses");
    manager.until_status("the broker's cause", cause).await;
    for _ in 0..5 {
        manager.until("WATCHDOG=1", says("WATCHDOG=1")).await;
    }
    // A process that stands still does not say that it lives.
    bridge.process().pause();
    let mut buffer = [0; 8192];
    while manager.socket.try_recv(&mut buffer).is_ok() {}
    let silence = tokio::time::timeout(std::time::Duration::from_secs(1), manager.socket.recv(&mut buffer)).await;
    assert!(silence.is_err(), "it was heard though it stands still");
    bridge.process().resume();
    manager.until("WATCHDOG=1 again", says("WATCHDOG=1")).await;
    assert_eq!(bridge.stop().await.code(), Some(0));
}

#[tokio::test]
async fn not_ready_and_why_while_a_member_of_a_cluster_waits_for_etcd() {
    let (manager, nobody) = (Manager::new(), Deserted::new());
    let endpoints = format!("[\"{}\"]", nobody.url("http"));
    let bridge = Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[])).with_toml("cluster.endpoints", &endpoints);
    let mut bridge = manager.of(bridge).with_env("WATCHDOG_USEC", "200000");
    bridge.spawn();
    let waits = |news: &str| news.contains("STATUS=waits for etcd, has not begun: etcd at ");
    let mut all = manager.until("why it waits", waits).await;
    all.extend(manager.until("WATCHDOG=1", says("WATCHDOG=1")).await);
    assert!(!all.iter().any(|news| news.contains("READY=1")), "{all:?}");
    assert_eq!(bridge.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_watchdog_meant_for_another_process_is_not_fed() {
    let manager = Manager::new();
    let bridge = Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[]));
    let mut bridge = manager.of(bridge).with_env("WATCHDOG_USEC", "10000").with_env("WATCHDOG_PID", "1");
    bridge.spawn();
    manager.until("READY=1", says("READY=1")).await;
    bridge.process().signal(Signal::TERM);
    let all = manager.until("STOPPING=1", says("STOPPING=1")).await;
    assert!(!all.iter().any(|news| news.contains("WATCHDOG")), "{all:?}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_never_ready() {
    let manager = Manager::new();
    let mut bridge = manager.of(Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[])).with("mqtt.output", "xml"));
    bridge.spawn();
    assert_eq!(bridge.process().ended().await.code(), Some(64));
    let mut buffer = [0; 64];
    assert!(manager.socket.try_recv(&mut buffer).is_err());
}
