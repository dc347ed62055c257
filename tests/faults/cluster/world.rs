//! The processes of a cluster and what stands between them: three etcd, three bridges, one broker, the simulated service.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::http_tap::{HttpTap, What};
use crate::mqtt_tap::MqttTap;
use crate::proxy::{Blind, Proxy, Trouble};
use crate::records::{Loss, Place, Recorder, Records};
use crate::support::bridge::{Bridge, SECRET};
use crate::support::etcd::Member as Etcd;
use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::sim::Sim;
use crate::world::{API_TIMEOUT, GENEROUS, queues_are_empty, ready, save};

/// The members, in the order of their numbers.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

/// A bridge and its connections.
pub(crate) struct Member {
    pub(crate) bridge: Bridge,
    pub(crate) clock: Clock,
    /// To the broker.
    pub(crate) link: Proxy,
    /// To each etcd.
    pub(crate) etcds: Vec<Proxy>,
    _api: Proxy,
    callback: Proxy,
}

/// The processes.
pub(crate) struct Cluster {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) broker: Mosquitto,
    pub(crate) sim: Sim,
    pub(crate) etcds: Vec<Etcd>,
    pub(crate) members: Vec<Member>,
    /// The one URL that iLink knows.
    _balancer: Proxy,
    logs: PathBuf,
}

impl Cluster {
    /// Starts all but the bridges. Logs go to `logs`.
    pub(crate) async fn start(logs: &Path, log_level: &str, takeover: Duration) -> Self {
        let recorder = Arc::new(Recorder::new());
        recorder.lock().is_cluster = true;
        // As the recipe does; so that what a watch asks for may be gone.
        let flags = ["--auto-compaction-mode=revision", "--auto-compaction-retention=2000"];
        let mut etcds = Etcd::all(logs, "http", &[(); 3].map(|()| free_port()), &flags);
        etcds.iter_mut().for_each(Etcd::spawn);
        let (broker, sim) = (Mosquitto::start(""), Sim::start(&[]).await);
        let bridges = NAMES.map(|name| {
            Bridge::new(&broker, &sim)
                .with("cluster.member", name)
                .with("cluster.takeover", &format!("{}ms", takeover.as_millis()))
                .with("mqtt.session_expiry", "1h")
                .with("ilink.timeout", &format!("{}s", API_TIMEOUT.as_secs()))
                .with_toml("ilink.subscribe.topics", r#"[{ subject = "home/door", qos = 1 }]"#)
                .with("log.level", log_level)
        });
        let callbacks = bridges.iter().map(Bridge::callback_port).collect();
        let shared = Arc::clone(&recorder);
        let balancer =
            Proxy::balance(callbacks, move || Box::new(HttpTap::new(&shared, What::Callback, usize::MAX))).await;
        let mut members = Vec::new();
        for (number, bridge) in bridges.into_iter().enumerate() {
            let ports = Ports { broker: broker.port(), sim: sim.port(), balancer: balancer.port() };
            members.push(Member::new(number, bridge, &ports, &etcds, &recorder, logs).await);
        }
        Self { recorder, broker, sim, etcds, members, _balancer: balancer, logs: logs.to_owned() }
    }

    /// Where pushes go.
    pub(crate) fn callbacks(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://127.0.0.1:{}/{SECRET}", member.callback.port())).collect()
    }

    /// Waits for a leader that has published and called since it leads; its number.
    pub(crate) async fn leader(&mut self) -> usize {
        if let Ok(leader) = timeout(GENEROUS, self.leading(works)).await {
            return leader;
        }
        self.recorder.incident("no leader works, though nothing keeps one from it");
        self.recorder.lock().lives.last().map_or(0, |life| life.member)
    }

    /// Waits for a leader of this kind.
    pub(crate) async fn leading(&self, is_meant: impl Fn(&Records) -> bool) -> usize {
        loop {
            let found = {
                let records = self.recorder.lock();
                records.leader().filter(|_| is_meant(&records)).map(|life| life.member)
            };
            match found {
                Some(member) => return member,
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, member: usize) {
        // Its connections end before its end is known.
        let from = self.recorder.now();
        self.members[member].bridge.kill();
        let now = self.recorder.now();
        {
            let mut records = self.recorder.lock();
            records.kills.push((member, from));
            if let Some(life) = records.lives.last_mut()
                && life.member == member
                && life.ended.is_none()
            {
                (life.ended, life.killed) = (Some(now), true);
            }
        }
        self.save_log(member);
    }

    pub(crate) fn spawn(&mut self, member: usize) {
        self.members[member].bridge.spawn();
    }

    /// SIGTERM, and its end, which must be a clean one.
    pub(crate) async fn stop(&mut self, member: usize) {
        self.asked_to_go(member);
        let process = self.members[member].bridge.process();
        process.signal(Signal::TERM);
        let status = process.ended().await;
        let log = self.members[member].bridge.log();
        // Before it has started, nobody there knows yet what the signal means.
        let too_early = status.signal() == Some(Signal::TERM.as_raw()) && !log.contains(" started ");
        if status.code() != Some(0) && !too_early {
            self.recorder.incident(&format!("{} was asked to stop and ended with {status}", NAMES[member]));
        }
        self.save_log(member);
    }

    /// It hands over from now on: what it is told then it may not note any more.
    pub(crate) fn asked_to_go(&self, member: usize) {
        let now = self.recorder.now();
        if let Some(life) = self.recorder.lock().lives.last_mut()
            && life.member == member
            && life.ended.is_none()
        {
            life.asked = Some(now);
        }
    }

    /// The leadership of this member was made to end.
    pub(crate) fn lost(&self, member: usize, how: &'static str) {
        let at = self.recorder.now();
        self.recorder.lock().losses.push(Loss { member, at, how });
    }

    /// A bridge that ended by itself is a finding; it is started again.
    pub(crate) fn check(&mut self) {
        for (member, name) in NAMES.iter().enumerate() {
            if !self.members[member].bridge.process().is_running() {
                let log = self.members[member].bridge.log();
                let end: Vec<_> = log.lines().rev().take(3).collect();
                self.recorder.incident(&format!("{name} ended by itself; its last lines: {end:?}"));
                self.kill(member);
                self.spawn(member);
            }
        }
    }

    /// Everything well again: all members are ready, one leads.
    pub(crate) async fn heal(&mut self) {
        for etcd in &mut self.etcds {
            etcd.spawn();
        }
        for member in &self.members {
            member.link.trouble(Trouble::None);
            member.reach_etcd(Trouble::None);
        }
        self.check();
        self.leader().await;
        for (member, name) in self.members.iter().zip(NAMES) {
            if !ready(&member.bridge, GENEROUS).await {
                self.recorder.incident(&format!("{name} is not ready, though nothing disturbs it any more"));
            }
        }
    }

    /// Waits until both queues are empty and every command has its result: the broker was never killed, so none is lost.
    pub(crate) async fn drained(&self) {
        let waiting = async {
            loop {
                let leader = self.leading(|_| true).await;
                let without = self.recorder.lock().without_result();
                if without == 0 && queues_are_empty(&self.members[leader].bridge).await {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        if timeout(GENEROUS, waiting).await.is_err() {
            let without = self.recorder.lock().without_result();
            self.recorder.incident(&format!("not drained: {without} commands have no result"));
        }
    }

    fn save_log(&self, member: usize) {
        save(&self.logs, &format!("bridge-{}.log", NAMES[member]), &self.members[member].bridge.log());
    }

    /// Keeps what the other processes printed.
    pub(crate) fn save_logs(&self) {
        save(&self.logs, "mosquitto.log", &self.broker.log());
        save(&self.logs, "sim.log", &self.sim.output());
    }
}

/// Whether the present leader has published a push and made a call.
fn works(records: &Records) -> bool {
    let Some(life) = records.leader() else { return false };
    let of_it = |connection: usize| records.connections[connection].member == life.member;
    let mut published = records.publishes.iter().rev().take_while(|publish| publish.at >= life.started);
    let mut called = records.calls.iter().rev().take_while(|call| call.at >= life.started);
    published.any(|publish| publish.place == Place::Event && publish.is_taken() && of_it(publish.connection))
        && called.any(|call| call.member == life.member && !call.label.is_empty())
}

/// Where a member's connections go.
struct Ports {
    broker: u16,
    sim: u16,
    balancer: u16,
}

impl Member {
    async fn new(
        number: usize,
        bridge: Bridge,
        ports: &Ports,
        etcds: &[Etcd],
        recorder: &Arc<Recorder>,
        logs: &Path,
    ) -> Self {
        let dir = logs.join(NAMES[number]);
        std::fs::create_dir(&dir).expect("the logs can be written");
        let clock = Clock::new(&dir);
        let link = {
            let recorder = Arc::clone(recorder);
            Proxy::start(ports.broker, move || Box::new(MqttTap::new(&recorder, number))).await
        };
        let api = {
            let recorder = Arc::clone(recorder);
            Proxy::start(ports.sim, move || Box::new(HttpTap::new(&recorder, What::Api, number))).await
        };
        let callback = {
            let recorder = Arc::clone(recorder);
            let port = bridge.callback_port();
            Proxy::start(port, move || Box::new(HttpTap::new(&recorder, What::Callback, number))).await
        };
        let mut to_etcd = Vec::new();
        for etcd in etcds {
            to_etcd.push(Proxy::start(etcd.port(), || Box::new(Blind)).await);
        }
        let endpoints: Vec<_> = to_etcd.iter().map(|proxy| format!("http://127.0.0.1:{}", proxy.port())).collect();
        let bridge = bridge
            .with("mqtt.broker", &format!("mqtt://127.0.0.1:{}", link.port()))
            // Not another `ilink.api`: registration and token are kept for one.
            .with("ilink.proxy", &format!("http://127.0.0.1:{}", api.port()))
            .with("callback.public_url", &format!("http://127.0.0.1:{}", ports.balancer))
            .with_toml("cluster.endpoints", &json!(endpoints).to_string())
            .with_envs(clock.environment());
        Self { bridge, clock, link, etcds: to_etcd, _api: api, callback }
    }

    /// What happens to its connections to etcd.
    pub(crate) fn reach_etcd(&self, trouble: Trouble) {
        for proxy in &self.etcds {
            proxy.trouble(trouble);
        }
    }
}
