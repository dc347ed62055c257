//! Commands that come while etcd has no majority.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::leads;
use crate::support::bridge::{Bridge, base64};
use crate::support::client::{Client, Message};
use crate::support::etcd::Etcd;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const RESULT: &str = "ilink/result/send/user/413/text";

struct World {
    etcds: Etcd,
    bridge: Bridge,
    client: Client,
    sim: Sim,
    _broker: Mosquitto,
}

impl World {
    /// The leadership outlasts the trouble.
    async fn start() -> Self {
        let (etcds, broker, sim) = (Etcd::three().await, Mosquitto::start(""), Sim::start(&[]).await);
        let client = Client::connect(&broker).await;
        client.subscribe("ilink/#").await;
        let mut bridge = Bridge::new(&broker, &sim)
            .with_toml("cluster.endpoints", &etcds.endpoints())
            .with("cluster.takeover", "60s");
        bridge.start().await;
        leads(&bridge).await;
        client.expect_text("ilink/bridge/cloud", "online").await;
        Self { etcds, bridge, client, sim, _broker: broker }
    }

    /// Kills two of three. What is sent from now on cannot be stored.
    async fn lose_majority(&mut self) -> [usize; 2] {
        let first = self.etcds.leader().await;
        let dead = [first, (first + 1) % 3];
        for n in dead {
            self.etcds.members[n].kill();
        }
        dead
    }

    async fn send(&self, numbers: std::ops::Range<usize>) {
        for n in numbers {
            self.client.publish("ilink/send/user/413/text", n.to_string()).await;
        }
    }
}

fn is_result(message: &Message) -> bool {
    message.topic == RESULT
}

#[tokio::test]
async fn a_command_waits_for_etcds_majority_and_then_has_its_one_result() {
    let mut world = World::start().await;
    world.send(0..5).await;
    world.client.gather("the first results", 5, is_result).await;
    let dead = world.lose_majority().await;
    world.send(5..15).await;
    world.bridge.logged("etcd does not take what is to be stored").await;
    // Longer than the store itself keeps anybody waiting.
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.send(15..25).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.client.all(is_result).len(), 5, "{:?}", world.client.all(is_result).last().map(Message::text));
    for n in dead {
        world.etcds.members[n].spawn();
    }
    let results = world.client.gather("every result", 25, is_result).await;
    world.bridge.waiting("outbound", 0).await;
    world.client.settle().await;
    assert!(results.iter().all(|result| result.json()["name"] == "ok"), "{results:?}");
    let ids: HashSet<_> = results.iter().map(|result| result.json()["id"].to_string()).collect();
    assert_eq!((ids.len(), world.client.all(is_result).len()), (25, 25), "one result each");
    let sent: Vec<_> = world.sim.calls("send_msg").await.iter().map(|call| call.body["content"].clone()).collect();
    assert_eq!(sent, (0..25).map(|n| json!(base64(n.to_string().as_bytes()))).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_whose_time_runs_out_meanwhile_has_expired() {
    let mut world = World::start().await;
    let dead = world.lose_majority().await;
    // This one is on its way to etcd, the others wait behind it.
    world.send(0..1).await;
    world.bridge.logged("etcd does not take what is to be stored").await;
    let call = json!({"accept_uid": "413", "content": "late", "ref": "late", "ttl": 2}).to_string();
    world.client.publish("ilink/call/send_msg/text", &call).await;
    world.client.settle().await;
    let answered = |message: &Message| message.topic == "ilink/result/call/send_msg/text";
    assert!(world.client.all(answered).is_empty());
    tokio::time::sleep(Duration::from_secs(4)).await;
    for n in dead {
        world.etcds.members[n].spawn();
    }
    let result = world.client.expect_json("ilink/result/call/send_msg/text", |result| result["ref"] == "late").await;
    assert_eq!((&result["status"], &result["name"]), (&json!("expired"), &json!("expired")), "{result}");
    assert_eq!(world.client.gather("the first", 1, is_result).await[0].json()["name"], "ok");
    world.bridge.waiting("outbound", 0).await;
    world.client.settle().await;
    assert_eq!(world.client.all(answered).len(), 1);
    assert_eq!(world.sim.calls("send_msg").await.len(), 1);
}
