//! Bridges over an etcd of three members: what they do when one of those dies, or two, and how they log in.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{leads, role};
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::{Client, Message};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::pki::{Authority, LOOPBACK};
use crate::support::sim::Sim;

const TAKEOVER: Duration = Duration::from_secs(3);
const RECEIVED: &str = "ilink/recv/user/413/text";

fn member(name: &str, etcds: &Etcd, broker: &Mosquitto, sim: &Sim) -> Bridge {
    Bridge::new(broker, sim)
        .with_toml("cluster.endpoints", &etcds.endpoints())
        .with("cluster.member", name)
        .with("cluster.takeover", &format!("{}s", TAKEOVER.as_secs()))
}

struct World {
    bridges: [Bridge; 2],
    etcds: Etcd,
    client: Client,
    _broker: Mosquitto,
    _sim: Sim,
    pushed: usize,
}

impl World {
    /// The first bridge leads.
    async fn start() -> Self {
        let (etcds, broker, sim) = (Etcd::three().await, Mosquitto::start(""), Sim::start(&[]).await);
        let client = Client::connect(&broker).await;
        client.subscribe("ilink/#").await;
        let mut a = member("a", &etcds, &broker, &sim);
        a.start().await;
        leads(&a).await;
        let url = format!("http://127.0.0.1:{}", a.callback_port());
        let mut b = member("b", &etcds, &broker, &sim).with("callback.public_url", &url);
        b.start().await;
        client.expect_text("ilink/bridge/cloud", "online").await;
        Self { bridges: [a, b], etcds, client, _broker: broker, _sim: sim, pushed: 0 }
    }

    /// The next push, as iLink does it: again to the same bridge until it is answered.
    async fn push(&mut self, bridge: usize) {
        let push = text_push("413", &self.pushed.to_string());
        self.pushed += 1;
        eventually("it is answered", async || {
            self.bridges[bridge].try_post(&push).await.filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Everything that was pushed has been published: the last copies, in order.
    async fn is_published(&self) {
        let last = (self.pushed - 1).to_string();
        self.client.expect_text(RECEIVED, &last).await;
        let received = self.client.all(|message: &Message| message.topic == RECEIVED);
        let mut numbers: Vec<usize> = Vec::new();
        for number in received.iter().rev().filter_map(|message| message.text().parse().ok()) {
            if !numbers.contains(&number) {
                numbers.insert(0, number);
            }
        }
        assert_eq!(numbers, (0..self.pushed).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn one_member_of_etcd_may_die_and_with_two_gone_nothing_is_answered_until_they_are_back() {
    let mut world = World::start().await;
    for n in 0..10 {
        world.push(n % 2).await;
    }
    let first = world.etcds.leader().await;
    world.etcds.members[first].kill();
    for n in 0..20 {
        world.push(n % 2).await;
    }
    world.is_published().await;
    let second = world.etcds.leader().await;
    world.etcds.members[second].kill();
    for bridge in &world.bridges {
        bridge.unanswered(&text_push("413", "lost to us")).await;
        bridge.logged("this member cannot take part in the cluster").await;
        let status = bridge.verb(&["status"]).await;
        assert!(status.text.contains("etcd"), "{status:?}");
        assert!(status.text.contains("majority") || status.text.contains("did not answer"), "{status:?}");
    }
    world.etcds.members[first].spawn();
    world.etcds.members[second].spawn();
    for n in 0..10 {
        world.push(n % 2).await;
    }
    let leads = async || {
        for bridge in &world.bridges {
            if role(bridge).await.as_deref() == Some("leader") {
                return Some(());
            }
        }
        None
    };
    eventually("one of them leads again", leads).await;
    world.is_published().await;
}

#[tokio::test]
async fn the_leading_bridge_and_the_leading_etcd_may_die_together() {
    let mut world = World::start().await;
    world.push(0).await;
    let first = world.etcds.leader().await;
    let begun = Instant::now();
    world.etcds.members[first].kill();
    world.bridges[0].kill();
    world.push(1).await;
    world.client.expect_text(RECEIVED, "1").await;
    let took = begun.elapsed();
    println!("taken over and published after {took:?}");
    // The contract's limit, and something for a machine with much else to do.
    assert!(took < TAKEOVER + Duration::from_secs(4) + Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn with_client_certificates_and_users() {
    let pki = Authority::new("etcd's");
    pki.issue("etcd", &LOOPBACK, &[]);
    pki.issue_nameless("bridge");
    pki.issue("named", &["bridge"], &[]);
    let etcds = Etcd::three_tls(&pki.path("ca.pem"), &pki.path("etcd.pem"), &pki.path("etcd.key")).await;
    for (path, question) in [
        ("user/add", json!({"name": "root", "password": "r"})),
        ("user/add", json!({"name": "bridge", "password": "geheim"})),
        ("role/add", json!({"name": "root"})),
        ("role/add", json!({"name": "bridges"})),
        // From /ilink2mqtt/ on.
        (
            "role/grant",
            json!({"name": "bridges", "perm": {"permType": "READWRITE", "key": "L2lsaW5rMm1xdHQv", "range_end": "L2lsaW5rMm1xdHQw"}}),
        ),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/grant", json!({"user": "bridge", "role": "bridges"})),
        ("enable", json!({})),
    ] {
        let done = etcds.members[0].ask(&format!("auth/{path}"), &question).await.expect("it answers");
        assert!(done["error"].is_null(), "{path}: {done}");
    }
    let (broker, sim) = (Mosquitto::start(""), Sim::start(&[]).await);
    let bridge = |name: &str| {
        member(name, &etcds, &broker, &sim)
            .with("cluster.tls.ca", &pki.file("ca.pem"))
            .with("cluster.tls.cert", &pki.file("bridge.pem"))
            .with("cluster.tls.key", &pki.file("bridge.key"))
            .with("cluster.username", "bridge")
            .with("cluster.password", "geheim")
    };
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    let mut a = bridge("a");
    a.start().await;
    leads(&a).await;
    a.push(&text_push("413", "over TLS")).await;
    client.expect_text(RECEIVED, "over TLS").await;

    let others = Authority::new("somebody's");
    for (wrong, says) in [
        (bridge("b").with("cluster.tls.ca", &others.file("ca.pem")), "cluster.tls.ca"),
        (bridge("b").with("cluster.password", "guess"), "cluster.password"),
        (bridge("b").without("cluster.tls.cert").without("cluster.tls.key"), "cluster.tls.cert"),
        (
            bridge("b")
                .with("cluster.tls.cert", &pki.file("named.pem"))
                .with("cluster.tls.key", &pki.file("named.key")),
            "common name",
        ),
    ] {
        let mut wrong = wrong;
        wrong.spawn();
        wrong.logged("the identity cannot be read from etcd yet").await;
        let log = wrong.log();
        assert!(log.contains(says) && !log.contains("guess") && !log.contains("geheim"), "{says}: {log}");
        let done = wrong.verb(&["check", "--connect"]).await;
        wrong.kill();
        assert_eq!(done.code, Some(69), "{says}: {done:?}");
        assert!(done.text.contains(says), "{says}: {done:?}");
    }
    // Where the user has no rights.
    let mut elsewhere = bridge("b").with("cluster.prefix", "/elsewhere");
    elsewhere.spawn();
    elsewhere.logged("the identity cannot be read from etcd yet").await;
    assert!(elsewhere.log().contains("permissions on cluster.prefix"), "{}", elsewhere.log());
}
