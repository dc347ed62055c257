//! The world of a storm, and what must hold after it.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::bridge::Bridge;
use crate::support::client::{Client, Message, Out};
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;
use crate::support::{DEADLINE, within};

/// More than any storm of the usual size needs, far less than one that is kept in memory whole.
const MEMORY_KIB: u64 = 300 * 1024;
/// Lines at level INFO that one storm may cause, however many bad messages it has.
const LINES: usize = 80;
/// How long the bridge is watched doing nothing.
const QUIET: Duration = Duration::from_secs(1);

/// A broker, the service, a bridge between them, and a client that hears every result.
pub(super) struct Storm {
    pub(super) bridge: Bridge,
    pub(super) sim: Sim,
    /// Hears all that the bridge publishes.
    pub(super) client: Client,
    /// Sends.
    pub(super) device: Client,
    pub(super) broker: Mosquitto,
    name: &'static str,
    rss_before: u64,
    begun: Instant,
    /// The last number of a good command.
    good: u64,
}

impl Storm {
    /// All of it, ready.
    pub(super) async fn ready(name: &'static str, configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let mut storm = Self::prepared(name, configure).await;
        storm.start().await;
        storm
    }

    /// All of it but the bridge, which is configured and not started.
    pub(super) async fn prepared(name: &'static str, configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let broker = Mosquitto::start("");
        let sim = Sim::start(&[]).await;
        let bridge = configure(Bridge::new(&broker, &sim).with("log.level", "info"));
        let client = Client::connect(&broker).await;
        for filter in ["ilink/result/#", "ilink/by/+/result/#", "ilink/by/+/ack/#", "ilink/reply/#", "ilink/recv/#"] {
            client.subscribe(filter).await;
        }
        let device = Client::connect(&broker).await;
        Self { bridge, sim, client, device, broker, name, rss_before: 0, begun: Instant::now(), good: 0 }
    }

    pub(super) async fn start(&mut self) {
        self.bridge.start().await;
        self.rss_before = self.vitals().0;
        self.begun = Instant::now();
    }

    /// Waits until the bridge has found the service again: after a long outage it asks seldom.
    pub(super) async fn session(&self) {
        within(4 * DEADLINE, "the session with the service", async || {
            (self.bridge.admin("readyz").await.status == 200).then_some(())
        })
        .await;
    }

    /// The next good command: to a receiver of its own, numbered.
    pub(super) fn good(&mut self) -> Out {
        self.good += 1;
        let call = json!({"accept_uid": "good", "content": format!("good {}", self.good), "ref": self.good});
        Out::new("ilink/by/good/call/send_msg/text", call.to_string())
    }

    /// Waits until every good command was answered `ok`; they were executed once each, in their order.
    pub(super) async fn good_are_done(&self) {
        let is_good = |message: &Message| message.topic == "ilink/by/good/result/call/send_msg/text";
        let count = usize::try_from(self.good).unwrap();
        let results = self.results("results of good commands", count, is_good).await;
        let expected: Vec<Value> = (1..=self.good).map(|n| json!([n, "ok"])).collect();
        let seen: Vec<Value> =
            results.iter().map(Message::json).map(|result| json!([result["ref"], result["status"]])).collect();
        assert_eq!(seen, expected);
        let executed = self.executed("good").await;
        let all: Vec<String> = (1..=self.good).map(|n| format!("good {n}")).collect();
        // The service remembers its last thousand calls.
        assert!(all.ends_with(&executed) && executed.last() == all.last(), "{executed:?}");
    }

    /// The texts that the service was told to send to `uid`, in its order.
    pub(super) async fn executed(&self, uid: &str) -> Vec<String> {
        executed(&self.sim, uid).await
    }

    /// Waits for `n` results on topics that are `wanted`. One that comes again, under its id, is one.
    pub(super) async fn results(&self, what: &str, n: usize, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut ids = HashSet::new();
        let is_new = |message: &Message| wanted(message) && ids.insert(message.json()["id"].to_string());
        self.client.gather(what, n, is_new).await
    }

    /// The service was told of good commands only.
    pub(super) async fn only_good_executed(&self) {
        let state = self.sim.state().await;
        let own = |call: &&Value| call["path"] != "set_config" && call["path"] != "get_access_token";
        for call in state["calls"].as_array().unwrap().iter().filter(own) {
            assert!(call["path"] == "send_msg" && call["body"]["accept_uid"] == "good", "{call}");
        }
    }

    /// The numbers below `n` were sent to `uid` in their order, each once: what the service remembers, its last calls, says so,
    /// and there were no other calls.
    pub(super) async fn executed_in_order(&self, uid: &str, n: usize) {
        let seen = self.executed(uid).await;
        let expected: Vec<String> = (n - seen.len()..n).map(|i| i.to_string()).collect();
        assert!(seen.len() >= n.min(900) && seen == expected, "{seen:?}");
        assert_eq!(self.status().await.counter("calls"), n as u64 + self.good);
    }

    /// Every message so far on topics that begin so.
    pub(super) fn heard(&self, prefix: &str) -> Vec<Message> {
        self.client.all(|message| message.topic.starts_with(prefix))
    }

    /// What `status` says: the same as `bridge/health`.
    pub(super) async fn status(&self) -> Status {
        Status::of(&self.bridge).await
    }

    /// What must hold after every storm of `n` messages.
    pub(super) async fn is_over(&mut self, n: usize) {
        let last = self.good();
        self.device.send(last).await;
        self.good_are_done().await;
        self.bridge.waiting("outbound", 0).await;
        self.bridge.waiting("inbound", 0).await;
        let took = self.begun.elapsed();
        calm(&mut self.bridge, self.name, n, self.rss_before, took).await;
    }

    /// Memory in KiB and processor time used.
    pub(super) fn vitals(&mut self) -> (u64, Duration) {
        vitals(&mut self.bridge)
    }
}

/// The process lives, within its memory, without a flood of log lines, and idle.
pub(super) async fn calm(bridge: &mut Bridge, name: &str, n: usize, rss_before: u64, took: Duration) {
    assert!(bridge.process().is_running(), "the bridge ended");
    let (rss, cpu) = vitals(bridge);
    tokio::time::sleep(QUIET).await;
    let idle = vitals(bridge).1.saturating_sub(cpu);
    let lines = bridge.log().lines().count();
    let peak = status_kib(bridge, "VmHWM:");
    println!(
        "{name}: {n} messages in {took:.1?}; RSS {rss_before} → {rss} KiB (peak {peak}); {lines} log lines; idle CPU {idle:?} of {QUIET:?}"
    );
    assert!(peak < MEMORY_KIB, "{name}: {peak} KiB");
    assert!(lines < LINES, "{name}: {lines} lines:\n{}", bridge.log());
    let longest = bridge.log().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 2000, "{name}: a line of {longest} bytes");
    // A loop that spins takes all of it.
    assert!(idle < QUIET * 3 / 4, "{name}: {idle:?} of {QUIET:?}");
    for word in ["panicked", "ERROR"] {
        assert!(!bridge.log().contains(word), "{name}:\n{}", bridge.log());
    }
}

pub(super) async fn executed(sim: &Sim, uid: &str) -> Vec<String> {
    use base64::Engine as _;
    let calls = sim.calls("send_msg").await.into_iter();
    let to_uid = calls.filter(|call| call.code == Some(0) && call.body["accept_uid"] == uid);
    to_uid
        .map(|call| {
            let text = base64::engine::general_purpose::STANDARD.decode(call.body["content"].as_str().unwrap());
            String::from_utf8(text.unwrap()).unwrap()
        })
        .collect()
}

/// What `ilink2mqtt status` prints.
pub(super) struct Status(String);

impl Status {
    pub(super) async fn of(bridge: &Bridge) -> Self {
        let finished = bridge.verb(&["status"]).await;
        assert_eq!(finished.code, Some(0), "{}", finished.text);
        Self(finished.stdout)
    }

    /// How many wait in `inbound`, `outbound` or `set aside`.
    pub(super) fn waiting(&self, queue: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(queue)).unwrap_or_else(|| panic!("{}", self.0));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// A counter, by its name in `bridge/health`.
    pub(super) fn counter(&self, name: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |count| count.trim().parse().unwrap_or_else(|_| panic!("{}", self.0)))
    }
}

/// Memory in KiB and processor time used so far.
pub(super) fn vitals(bridge: &mut Bridge) -> (u64, Duration) {
    let pid = bridge.process().id();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which ends with the last parenthesis: user and system time are fields 14 and 15, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (status_kib(bridge, "VmRSS:"), Duration::from_millis(ticks * 10))
}

fn status_kib(bridge: &mut Bridge, field: &str) -> u64 {
    let pid = bridge.process().id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
