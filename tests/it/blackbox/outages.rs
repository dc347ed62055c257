//! The broker away, the service away, both, from the start or later: the bridge stays, says so, and catches up in order.

use serde_json::json;

use super::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::Client;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const TOPIC: &str = "ilink/recv/user/413/text";

/// Pushes some texts and expects nothing but that they are taken.
async fn push_some(bridge: &Bridge, texts: std::ops::Range<usize>) {
    for n in texts {
        bridge.push(&text_push("413", &n.to_string())).await;
    }
}

/// The texts in the order in which they first came.
fn in_order(client: &Client) -> Vec<usize> {
    let mut order = Vec::new();
    for message in client.all(|message| message.topic == TOPIC) {
        let n = message.text().parse().unwrap();
        if !order.contains(&n) {
            order.push(n);
        }
    }
    order
}

async fn all_arrived(client: &Client, count: usize) {
    client
        .until("every push", |all| {
            (0..count).all(|n| all.iter().any(|message| message.topic == TOPIC && message.text() == n.to_string()))
        })
        .await;
    assert_eq!(in_order(client), (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_broker_goes_and_comes_back() {
    let mut world = World::ready().await;
    push_some(&world.bridge, 0..5).await;
    world.broker.stop();
    push_some(&world.bridge, 5..20).await;
    let ready = world.bridge.admin("readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("refused") || ready.body.contains("broker"), "it says so: {}", ready.body);
    assert_eq!(world.bridge.admin("healthz").await.status, 200, "the bridge itself is well");
    world.broker.restart();
    all_arrived(&world.client, 20).await;
    world.bridge.wait_ready().await;
    push_some(&world.bridge, 20..21).await;
    all_arrived(&world.client, 21).await;
    world.client.publish("ilink/send/user/413/text", "hi").await;
    world.client.expect("ilink/result/send/user/413/text").await;
}

#[tokio::test]
async fn the_broker_is_killed_under_load() {
    let mut world = World::prepared_on(
        // What the broker has acknowledged it must not lose: that would be its loss, not the bridge's.
        "autosave_on_changes true\nautosave_interval 1\n",
        &[],
        |bridge| bridge,
    )
    .await;
    world.bridge.start().await;
    push_some(&world.bridge, 0..20).await;
    all_arrived(&world.client, 20).await;
    for round in 1..4 {
        world.broker.kill();
        push_some(&world.bridge, round * 20..round * 20 + 20).await;
        world.broker.restart();
        all_arrived(&world.client, round * 20 + 20).await;
    }
}

#[tokio::test]
async fn the_broker_comes_after_the_bridge() {
    let mut broker = Mosquitto::start("");
    broker.stop();
    let sim = Sim::start(&[]).await;
    let mut bridge = Bridge::new(&broker, &sim);
    bridge.spawn();
    bridge.wait_listening().await;
    push_some(&bridge, 0..10).await;
    assert_eq!(bridge.admin("readyz").await.status, 503);
    broker.restart();
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/bridge/#").await;
    bridge.wait_ready().await;
    client.expect_text("ilink/bridge/state", "online").await;
}

#[tokio::test]
async fn the_service_comes_after_the_bridge() {
    let broker = Mosquitto::start("");
    let mut sim = Sim::absent(&[]);
    let mut bridge = Bridge::new(&broker, &sim);
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    bridge.spawn();
    client.expect_text("ilink/bridge/state", "online").await;
    client.expect_text("ilink/bridge/cloud", "offline").await;
    // Commands wait, pushes are taken: someone else may have told the service of this callback.
    client.publish("ilink/send/user/413/text", "early").await;
    push_some(&bridge, 0..3).await;
    all_arrived(&client, 3).await;
    sim.restart().await;
    client.expect_text("ilink/bridge/cloud", "online").await;
    let result = client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!(result["status"], json!("ok"), "{result}");
    bridge.wait_ready().await;
}

#[tokio::test]
async fn the_service_goes_and_comes_back_with_no_memory() {
    let mut world = World::ready().await;
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    world.sim.kill();
    for n in 0..10 {
        world.client.publish("ilink/send/user/413/text", n.to_string()).await;
    }
    world.bridge.logged("iLink: offline").await;
    world.sim.restart().await;
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    for _ in 0..10 {
        let result = world.client.expect("ilink/result/send/user/413/text").await.json();
        assert_eq!(result["status"], json!("ok"), "{result}");
    }
    let sent: Vec<_> = world
        .sim
        .calls("send_msg")
        .await
        .iter()
        .filter(|call| call.code == Some(0))
        .map(|call| call.body["content"].clone())
        .collect();
    let expected: Vec<_> = (0..10).map(|n| json!(crate::support::bridge::base64(n.to_string().as_bytes()))).collect();
    assert_eq!(sent, expected, "in order, each once");
}

#[tokio::test]
async fn both_away_in_every_order() {
    for broker_first in [true, false] {
        let mut world = World::ready().await;
        push_some(&world.bridge, 0..3).await;
        world.client.publish("ilink/send/user/413/text", "a").await;
        world.client.expect("ilink/result/send/user/413/text").await;
        world.sim.kill();
        world.client.publish("ilink/send/user/413/text", "b").await;
        // Until then it is in the broker's hands alone. That iLink is offline was said at the start, too: the log has it once.
        world.bridge.waiting("outbound", 1).await;
        world.bridge.logged("iLink: offline").await;
        world.broker.stop();
        push_some(&world.bridge, 3..10).await;
        if broker_first {
            world.broker.restart();
            all_arrived(&world.client, 10).await;
            world.sim.restart().await;
        } else {
            world.sim.restart().await;
            world
                .sim
                .calls_until("send_msg", "the waiting command", |calls| calls.iter().any(|call| call.code == Some(0)))
                .await;
            world.broker.restart();
            all_arrived(&world.client, 10).await;
        }
        let result = world.client.expect("ilink/result/send/user/413/text").await.json();
        assert_eq!(result["status"], json!("ok"), "{result}");
        world.bridge.wait_ready().await;
    }
}

#[tokio::test]
async fn a_new_process_delivers_what_the_old_one_took() {
    let mut world = World::ready().await;
    world.broker.stop();
    push_some(&world.bridge, 0..10).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0), "the broker's absence is no failure of ours");
    world.broker.restart();
    world.bridge.start().await;
    all_arrived(&world.client, 10).await;
}
