//! Bridges over an etcd of three members: what they do when one of those dies, or two, and how they log in.

use std::time::{Duration, Instant};

use super::{leads, role};
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::{Client, Message};
use crate::support::etcds::Etcds;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const TAKEOVER: Duration = Duration::from_secs(3);
const RECEIVED: &str = "ilink/recv/user/413/text";

fn member(name: &str, etcds: &Etcds, broker: &Mosquitto, sim: &Sim) -> Bridge {
    Bridge::new(broker, sim)
        .with_toml("cluster.endpoints", &etcds.endpoints())
        .with("cluster.member", name)
        .with("cluster.takeover", &format!("{}s", TAKEOVER.as_secs()))
}

struct World {
    bridges: [Bridge; 2],
    etcds: Etcds,
    client: Client,
    _broker: Mosquitto,
    _sim: Sim,
    pushed: usize,
}

impl World {
    /// The first bridge leads.
    async fn start() -> Self {
        let (etcds, broker, sim) = (Etcds::start().await, Mosquitto::start(""), Sim::start(&[]).await);
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
    world.etcds.kill(first);
    for n in 0..20 {
        world.push(n % 2).await;
    }
    world.is_published().await;
    let second = world.etcds.leader().await;
    world.etcds.kill(second);
    for bridge in &world.bridges {
        bridge.unanswered(&text_push("413", "lost to us")).await;
        bridge.logged("this member cannot take part in the cluster").await;
        let status = bridge.verb(&["status"]).await;
        assert!(status.text.contains("etcd"), "{status:?}");
        assert!(status.text.contains("majority") || status.text.contains("did not answer"), "{status:?}");
    }
    world.etcds.spawn(first);
    world.etcds.spawn(second);
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
    world.etcds.kill(first);
    world.bridges[0].kill();
    world.push(1).await;
    world.client.expect_text(RECEIVED, "1").await;
    let took = begun.elapsed();
    println!("taken over and published after {took:?}");
    // The contract's limit, and something for a machine with much else to do.
    assert!(took < TAKEOVER + Duration::from_secs(4) + Duration::from_secs(3), "{took:?}");
}
