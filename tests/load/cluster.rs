//! Three bridges for one account and three members of etcd, all on this machine, which also carries everything else. Beside them
//! one transaction of etcd as large as a push makes it, by the same gateway.

use std::time::{Duration, Instant};

use serde_json::json;

use super::generator::{self, Load, Target, Until};
use super::options::Options;
use super::recorder::percentiles;
use super::sample::{ANSWER, ARRIVAL, Sample, middle};
use super::support::bridge::{Bridge, SECRET, UID, base64};
use super::support::etcd::Member;
use super::support::http::http;
use super::support::mosquitto::free_port;
use super::table::{Table, number};
use super::usage::{self, Usage};
use super::world::{CLUSTER, Subject, World, bridge};

const MEMBERS: [&str; 3] = ["a", "b", "c"];
/// What etcd has of a push of 100 bytes: its row, and what its writer notes of itself in the same transaction.
const ROW: usize = 263;
const MARK: usize = 85;

/// Everything that this section starts; ends with the value, the bridges first.
struct Cluster {
    bridges: Vec<Bridge>,
    etcd: Etcd,
}

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    let mut cluster = Cluster::start(world).await;
    // What a start needs is given back after a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pids = cluster.pids();
    let [now, anonymous, _] = usage::memory(pids[1]);
    table.single("cluster, a standby idle: MB resident (anonymous)", format!("{now:.1} ({anonymous:.1})"));
    crowd(world, &mut cluster, options, table).await;
    alone(world, &mut cluster, options, table).await;
    let [now, anonymous, peak] = usage::memory(pids[1]);
    table.single(
        "cluster, a standby after that: MB resident (anonymous; peak)",
        format!("{now:.1} ({anonymous:.1}; {peak:.1})"),
    );
}

/// 64 connections, spread over the members as a load balancer does it.
async fn crowd(world: &mut World, cluster: &mut Cluster, options: &Options, table: &mut Table) {
    let mut rounds = Vec::new();
    for _ in 0..options.rounds() {
        let load = Load::fast(64, Until::Time(options.step()));
        rounds.push(cluster.push(world, &[0, 1, 2], load).await);
    }
    let of = Sample::median(&rounds);
    let get = |name: &str| number(of.get(name).unwrap_or(0.0));
    let about = "cluster, 64 connections";
    table.drained(&format!("{about}: answered/s"), get("answered"), of.answered, of.lost);
    table.single(&format!("{about}: delivered/s"), get("delivered"));
    table.single(&format!("{about}: push to answer, ms p50 / p99 / p99.9"), ANSWER.map(get).join(" / "));
    table.single(&format!("{about}: push to subscriber, ms p50 / p99 / p99.9"), ARRIVAL.map(get).join(" / "));
    table.single(
        &format!("{about}: CPU µs a push, of the bridges / of etcd"),
        format!("{} / {}", get("cpu"), get("etcd cpu")),
    );
}

/// One connection, to the leader and to a standby, each beside a transaction.
async fn alone(world: &mut World, cluster: &mut Cluster, options: &Options, table: &mut Table) {
    let (mut transactions, mut leader, mut standby) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds() {
        let load = Load::fast(1, Until::Time(options.step()));
        transactions.push(cluster.etcd.transactions(options.step()).await);
        leader.push(cluster.push(world, &[0], load).await);
        standby.push(cluster.push(world, &[1], load).await);
    }
    let transaction = [0, 1, 2].map(|at| middle(transactions.iter().map(|times| times[at] / 1000.0).collect()));
    let says = "cluster, one transaction of etcd: ms p50 / p99 / p99.9";
    table.single(says, transaction.map(number).join(" / "));
    for (who, rounds) in [("the leader", leader), ("a standby", standby)] {
        let of = Sample::median(&rounds);
        let latency = ANSWER.map(|name| of.get(name).unwrap_or(0.0));
        table.drained(
            &format!("cluster, one connection to {who}: push to answer, ms p50 / p99 / p99.9"),
            latency.map(number).join(" / "),
            of.answered,
            of.lost,
        );
        table.single(
            &format!("cluster, one connection to {who}: p50 beside one transaction"),
            number(latency[0] / transaction[0]),
        );
    }
}

impl Cluster {
    /// The first bridge leads.
    async fn start(world: &World) -> Self {
        let etcd = Etcd::start().await;
        let mut bridges = Vec::new();
        for name in MEMBERS {
            let mut bridge = bridge(&world.broker, &world.cloud, Subject::Raw)
                .with("mqtt.base_topic", CLUSTER)
                .with("mqtt.client_id", "load-cluster")
                // More does not fit into etcd.
                .with("callback.max_body", "1MiB")
                .with_toml("cluster.endpoints", &json!(etcd.urls).to_string())
                .with("cluster.member", name);
            bridge.start().await;
            bridges.push(bridge);
        }
        let ready = bridges[0].admin("readyz").await.json();
        assert_eq!(ready["role"], "leader", "the first bridge does not lead");
        Self { bridges, etcd }
    }

    fn pids(&mut self) -> Vec<u32> {
        self.bridges.iter_mut().map(|bridge| bridge.process().id()).collect()
    }

    /// Pushes to these members, until all that was answered has arrived.
    async fn push(&mut self, world: &mut World, to: &[usize], load: Load) -> Sample {
        let run = world.next_run();
        let (bridges, etcd) = (self.pids(), self.etcd.pids());
        world.subscriber.begin(run);
        let before = [usage_of(&bridges), usage_of(&etcd)];
        let ports = to.iter().map(|member| self.bridges[*member].callback_port()).collect();
        let target = Target { ports, path: format!("/{SECRET}"), to_uid: UID, answer: r#"{"code":0}"# };
        let outcome = generator::drive(&target, load, run).await;
        let arrived = world.subscriber.arrived(outcome.issued, &outcome.unanswered);
        // What was delivered is removed by the next transaction, or a second later.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut sample = Sample::of(&outcome, &arrived, usage_of(&bridges).since(before[0]));
        let etcd = usage_of(&etcd).since(before[1]);
        sample.set("etcd cpu", etcd.cpu_us / outcome.answered() as f64);
        sample
    }
}

fn usage_of(pids: &[u32]) -> Usage {
    let all = pids.iter().map(|pid| Usage::of(*pid));
    all.fold(Usage::default(), |sum, one| Usage { cpu_us: sum.cpu_us + one.cpu_us, written: sum.written + one.written })
}

/// Three members.
struct Etcd {
    members: Vec<Member>,
    urls: Vec<String>,
    _data: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Self {
        let data = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let ports = MEMBERS.map(|_| free_port());
        let mut members = Member::all(data.path(), "http", &ports, &["--log-outputs=/dev/null"]);
        members.iter_mut().for_each(Member::spawn);
        for member in &members {
            member.is_healthy().await;
        }
        Self { members, urls: ports.map(|port| format!("http://127.0.0.1:{port}")).to_vec(), _data: data }
    }

    fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Member::id).collect()
    }

    /// One after the other, for so long: p50, p99 and p99.9 in µs.
    async fn transactions(&self, time: Duration) -> [f64; 3] {
        let (http, url, began) = (http(), format!("{}/v3/kv/txn", self.urls[0]), Instant::now());
        let mut took = Vec::new();
        while began.elapsed() < time {
            let key = |name: String| base64(format!("/load/{name}").as_bytes());
            let put =
                |name: String, size| json!({"request_put": {"key": key(name), "value": base64(&vec![b'x'; size])}});
            let transaction = json!({
                "compare": [{"key": key("none".to_owned()), "target": "CREATE", "create_revision": "0"}],
                "success": [put("mark".to_owned(), MARK), put(format!("row-{:046}", took.len()), ROW)],
            });
            let (body, sent) = (transaction.to_string(), Instant::now());
            let answer =
                http.post(&url).body(body).send().await.expect("etcd answers").text().await.expect("an answer");
            took.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            assert!(answer.contains(r#""succeeded":true"#), "{answer}");
        }
        percentiles(&mut took)
    }
}
