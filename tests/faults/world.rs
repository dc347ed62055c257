//! The processes of a run and what stands between them: the bridge, its broker, the simulated service, three proxies.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::http_tap::{HttpTap, What};
use crate::labels;
use crate::mqtt_tap::MqttTap;
use crate::proxy::{Proxy, Trouble};
use crate::records::{Life, Recorder, Time};
use crate::schedule::Side;
use crate::support::bridge::{Bridge, SECRET};
use crate::support::http::{Answer, http};
use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::sim::Sim;
use crate::support::within;

/// `ilink.timeout`: faults that end in it must not take long.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(1);
/// How long what must come to an end may take on a busy machine.
pub(crate) const GENEROUS: Duration = Duration::from_mins(3);

/// For a broker that is killed: what it acknowledged it keeps, but for the last moment. It writes all of its queues at each
/// change: with tens of thousands waiting it hardly does anything else.
const BROKER: &str = "autosave_on_changes true\nautosave_interval 1\n";

/// The processes.
pub(crate) struct World {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) broker: Mosquitto,
    pub(crate) sim: Sim,
    pub(crate) bridge: Bridge,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    proxies: [Arc<Proxy>; 3],
    /// What ends the present trouble of each proxy.
    pub(crate) healing: [Option<JoinHandle<()>>; 3],
    logs: PathBuf,
}

impl World {
    /// Starts everything and waits until the bridge is ready. Logs go to `logs`. `killed`: the broker will be, now and then.
    pub(crate) async fn start(logs: &Path, log_level: &str, killed: bool) -> Self {
        let recorder = Arc::new(Recorder::new());
        let broker = Mosquitto::start(if killed { BROKER } else { "" });
        let sim = Sim::start(&[]).await;
        let (clock, disk) = (Clock::new(logs), Disk::new(logs));
        let callback_port = free_port();
        let mqtt = {
            let recorder = Arc::clone(&recorder);
            Proxy::start(broker.port(), move || Box::new(MqttTap::new(&recorder, 0))).await
        };
        let api = {
            let recorder = Arc::clone(&recorder);
            Proxy::start(sim.port(), move || Box::new(HttpTap::new(&recorder, What::Api, 0))).await
        };
        let callback = {
            let recorder = Arc::clone(&recorder);
            Proxy::start(callback_port, move || Box::new(HttpTap::new(&recorder, What::Callback, 0))).await
        };
        let [preload, file] = clock.environment();
        let bridge = Bridge::new(&broker, &sim)
            .with("mqtt.broker", &format!("mqtt://127.0.0.1:{}", mqtt.port()))
            .with("mqtt.session_expiry", "1h")
            .with("ilink.api", &format!("http://127.0.0.1:{}", api.port()))
            .with("ilink.timeout", &format!("{}s", API_TIMEOUT.as_secs()))
            .with_toml("ilink.subscribe.topics", r#"[{ subject = "home/door", qos = 1 }]"#)
            .with("callback.listen", &format!("127.0.0.1:{callback_port}"))
            .with("callback.public_url", &format!("http://127.0.0.1:{}", callback.port()))
            .with("log.level", log_level)
            .with_env(preload.0, &format!("{}:{}", preload.1, disk.library().display()))
            .with_env(file.0, &file.1);
        let state = bridge.state_dir();
        let bridge = bridge.with_envs(disk.environment(&state));
        let proxies = [mqtt, api, callback].map(Arc::new);
        let logs = logs.to_owned();
        let mut world = Self { recorder, broker, sim, bridge, clock, disk, proxies, healing: [None, None, None], logs };
        world.spawn_bridge();
        world.ready(GENEROUS).await;
        world
    }

    pub(crate) fn proxy(&self, side: Side) -> &Arc<Proxy> {
        &self.proxies[side as usize]
    }

    /// The callback's address as iLink knows it.
    pub(crate) fn callback(&self) -> String {
        format!("http://127.0.0.1:{}/{SECRET}", self.proxy(Side::Callback).port())
    }

    /// Starts the bridge on its state directory.
    pub(crate) fn spawn_bridge(&mut self) {
        // After "too often" (1004, 1009) it asks iLink for nothing for 10 minutes and more, also across restarts. Here a start
        // comes when those are over: there must be a load to disturb.
        for file in ["quotas.json", "budgets.json"] {
            let _ = std::fs::remove_file(self.bridge.state_dir().join(file));
        }
        self.bridge.spawn();
        let started = self.recorder.now();
        self.recorder.lock().lives.push(Life { started, ..Life::default() });
    }

    /// SIGKILL.
    pub(crate) fn kill_bridge(&mut self) {
        self.bridge.kill();
        self.ended(true);
    }

    /// SIGTERM, and its end, which must be a clean one.
    pub(crate) async fn stop_bridge(&mut self) {
        let now = self.recorder.now();
        if let Some(life) = self.recorder.lock().lives.last_mut() {
            life.asked = Some(now);
        }
        self.bridge.process().signal(Signal::TERM);
        let status = self.bridge.process().ended().await;
        // Before it has started, nobody there knows yet what the signal means.
        let too_early = status.signal() == Some(Signal::TERM.as_raw()) && !self.bridge.log().contains(" started ");
        self.ended(false);
        if status.code() != Some(0) && !too_early {
            self.recorder.incident(&format!("a bridge that was asked to stop ended with {status}"));
        }
    }

    /// A bridge that ended by itself is a finding; it is started again.
    pub(crate) fn check_bridge(&mut self) {
        if !self.bridge.process().is_running() {
            let log = self.bridge.log();
            let end: Vec<_> = log.lines().rev().take(3).collect();
            self.recorder.incident(&format!("the bridge ended by itself; its last lines: {end:?}"));
            self.ended(false);
            self.spawn_bridge();
        }
    }

    /// Waits for at most `limit` for the sync that was to fail, from `since` on. If it came, the bridge ends, says why, and is
    /// started again. Whether it came.
    pub(crate) async fn ended_by_its_disk(&mut self, since: Time, limit: Duration) -> bool {
        let waiting = async {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            while self.disk.waits() {
                pace.tick().await;
            }
        };
        let _ = tokio::time::timeout(limit, waiting).await;
        if self.disk.take_back() {
            return false;
        }
        let status = self.bridge.process().ended().await;
        if status.code() != Some(70) || !self.bridge.log().contains("the disk failed to sync") {
            self.recorder.incident(&format!("a bridge one of whose syncs failed ended with {status}"));
        }
        if let Some(life) = self.recorder.lock().lives.last_mut() {
            life.failed = Some(since);
        }
        self.ended(false);
        self.spawn_bridge();
        true
    }

    fn ended(&mut self, killed: bool) {
        let ended = Some(self.recorder.now());
        if let Some(life) = self.recorder.lock().lives.last_mut() {
            (life.ended, life.killed) = (ended, killed);
        }
        self.save("bridge.log", &self.bridge.log());
    }

    fn save(&self, name: &str, text: &str) {
        save(&self.logs, name, text);
    }

    /// Waits until the bridge says that it is ready; whether it did.
    pub(crate) async fn ready(&self, limit: Duration) -> bool {
        ready(&self.bridge, limit).await
    }

    /// Everything well again, and a new start of the bridge, so that no wait that an earlier fault asked for is left over.
    pub(crate) async fn heal(&mut self) {
        for healing in &mut self.healing {
            if let Some(healing) = healing.take() {
                healing.await.expect("a proxy heals");
            }
        }
        for proxy in &self.proxies {
            proxy.trouble(Trouble::None);
        }
        self.sim.fault(&serde_json::json!({"mode": "clear"})).await;
        self.disk.heal();
        self.check_bridge();
        self.stop_bridge().await;
        self.spawn_bridge();
        if !self.ready(GENEROUS).await {
            self.recorder.incident("the bridge is not ready, though nothing disturbs it any more");
        }
    }

    /// Waits until every command that the broker holds was delivered and both queues are empty.
    pub(crate) async fn drained(&self) {
        let waiting = within(GENEROUS, "both queues to be empty", async || {
            let pending = {
                let records = self.recorder.lock();
                records.deliveries.iter().any(|delivery| {
                    delivery.acked.is_none() && Some(delivery.connection + 1) == Some(records.connections.len())
                })
            };
            (queues_are_empty(&self.bridge).await && !pending).then_some(())
        });
        waiting.await;
    }

    /// The labels of what is left in the spool of a stopped bridge.
    pub(crate) async fn spooled(&self) -> Vec<String> {
        use ilink2mqtt::store::sqlite::Spool;
        use ilink2mqtt::store::{Append as _, Limits, Queue, Store as _};
        use ilink2mqtt::{inbound, outbound};
        let limits = Limits { inbound: u64::MAX, outbound: u64::MAX, set_aside: u64::MAX };
        let (spool, recovered) = Spool::open(&self.bridge.state_dir(), limits).expect("the spool opens");
        for alarm in recovered.alarms {
            self.recorder.incident(&format!("the spool, opened after the run: {alarm}"));
        }
        let mut labels = Vec::new();
        for queue in [Queue::Inbound, Queue::Outbound, Queue::SetAside] {
            for row in spool.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("the spool can be read") {
                let label = match queue {
                    Queue::Inbound => match inbound::record::Record::decode(&row.data) {
                        Ok(inbound::record::Record::Push { body, .. }) => {
                            serde_json::from_slice(&body).ok().and_then(|body| labels::of_push(&body))
                        }
                        _ => None,
                    },
                    Queue::Outbound => match outbound::record::Record::decode(&row.data) {
                        Ok(outbound::record::Record::Command(command)) => {
                            command.reference.and_then(|mark| serde_json::from_str(mark.as_json()).ok())
                        }
                        _ => None,
                    },
                    Queue::SetAside => None,
                };
                labels.push(label.unwrap_or_else(|| format!("{} {}", queue.as_str(), row.seq)));
            }
        }
        spool.close().await;
        labels
    }

    /// Keeps what the other processes printed.
    pub(crate) fn save_logs(&self) {
        self.save("mosquitto.log", &self.broker.log());
        self.save("sim.log", &self.sim.output());
    }
}

/// Keeps what a process printed.
pub(crate) fn save(logs: &Path, name: &str, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(logs.join(name));
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the logs can be written");
}

/// Waits until a bridge says that it is ready; whether it did.
pub(crate) async fn ready(bridge: &Bridge, limit: Duration) -> bool {
    let (http, url) = (http(), format!("http://127.0.0.1:{}/readyz", bridge.admin_port()));
    let waiting = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            if Answer::try_of(http.get(&url)).await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
        }
    };
    tokio::time::timeout(limit, waiting).await.is_ok()
}

/// Makes a group at iLink, by way of this bridge; registered, it may still be without its token.
pub(crate) async fn make_group(bridge: &Bridge) -> String {
    within(GENEROUS, "a group at iLink", async || try_group(bridge).await).await
}

/// As [`make_group`], once.
pub(crate) async fn try_group(bridge: &Bridge) -> Option<String> {
    let members = r#"{"group_name":"faults","uid_list":["700"]}"#;
    let made = bridge.verb(&["call", "ham_group/create", members]).await.stdout;
    let reply: Value = serde_json::from_str(&made[made.find('{')?..]).ok()?;
    let group = reply.pointer("/data/group_id").or(reply.get("group_id"))?;
    group.as_str().map(str::to_owned)
}

/// Whether a bridge says that nothing waits.
pub(crate) async fn queues_are_empty(bridge: &Bridge) -> bool {
    let status = bridge.verb(&["status"]).await.text;
    ["inbound", "outbound"].iter().all(|queue| {
        let line = status.lines().find(|line| line.starts_with(queue));
        line.is_some_and(|line| line[queue.len()..].trim_start().starts_with("0 "))
    })
}
