//! Routes are as durable as the rest: `kill -9` at any moment may repeat, and leaves out nothing.

use serde_json::json;

use super::{EXAMPLES, counted, eventually, receiver_and_text, sensor, texts, told, world};
use crate::support::bridge::text_push;
use crate::support::client::Out;
use crate::support::sim::Call;

/// Every text is routed, and every state told.
const ALL: &str = r#"
[[route.from_ilink]]
name = "out"
from = "user/413/text"
topic = "out/${payload}"
max_rate = "0"

[[route.to_ilink]]
name = "in"
subscribe = "stat/+/POWER"
to = "user/413/text"
payload = "${1}: ${payload}"
max_rate = "0"
"#;

#[tokio::test]
async fn an_answered_push_is_routed_after_a_crash() {
    let mut world = world(ALL).await;
    world.broker.stop();
    for n in 0..20 {
        world.bridge.push(&text_push("413", &format!("n{n}"))).await;
    }
    world.bridge.kill();
    world.broker.restart();
    world.bridge.start().await;
    for n in 0..20 {
        world.client.expect(&format!("out/n{n}")).await;
    }
}

#[tokio::test]
async fn crashes_while_it_works_leave_out_nothing() {
    let mut world = world(ALL).await;
    for round in 0..3 {
        for n in 0..30 {
            world.bridge.push(&text_push("413", &format!("{round}-{n}"))).await;
            world.client.publish(&format!("stat/{round}-{n}/POWER"), "ON").await;
        }
        world.bridge.kill();
        world.bridge.start().await;
    }
    for round in 0..3 {
        for n in 0..30 {
            world.client.expect(&format!("out/{round}-{n}")).await;
        }
    }
    eventually("every state to be told", async || {
        let told: std::collections::HashSet<String> = told(&world).await.into_iter().map(|(_, text)| text).collect();
        (0..3).all(|round| (0..30).all(|n| told.contains(&format!("{round}-{n}: ON")))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_comes_while_the_bridge_is_away_is_told_when_it_is_back() {
    let mut world = world(EXAMPLES).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.client.publish("stat/lamp/POWER", "ON").await;
    world.bridge.start().await;
    assert_eq!(texts(&world, 1).await, ["lamp: ON"]);
}

#[tokio::test]
async fn a_change_is_known_after_a_crash() {
    let mut world = world(EXAMPLES).await;
    world.client.publish("stat/lamp/POWER", "ON").await;
    texts(&world, 1).await;
    // What is remembered of it is stored with the next message at the latest.
    world.client.publish("stat/fan/POWER", "ON").await;
    texts(&world, 2).await;
    // Killed before the outcome is durable, it would rightly make that call again.
    world.bridge.waiting("outbound", 0).await;
    world.bridge.kill();
    world.bridge.start().await;
    world.client.publish("stat/lamp/POWER", "ON").await;
    world.client.publish("stat/lamp/POWER", "OFF").await;
    counted(&world, "power-state", "unchanged 1").await;
    assert_eq!(texts(&world, 3).await, ["lamp: ON", "fan: ON", "lamp: OFF"]);
}

#[tokio::test]
async fn only_the_newest_reading_is_told_also_across_a_crash() {
    let newest = r#"
[[route.to_ilink]]
name = "temp"
subscribe = "tele/+/SENSOR"
to = "topic/home/${1}/temp"
payload = "${json:/AM2301/Temperature}"
keep = "latest"
ttl = "1h"
"#;
    let mut world = world(newest).await;
    world.sim.kill();
    // Tells the bridge that iLink is away: from here on nothing is attempted.
    world.client.publish("ilink/send/user/413/text", "is anybody there?").await;
    world.bridge.logged("iLink: offline").await;
    for n in 0..4 {
        world.client.publish("tele/hall/SENSOR", sensor(20.5 + f64::from(n))).await;
    }
    world.client.publish("tele/attic/SENSOR", sensor(3.5)).await;
    counted(&world, "temp", "superseded 3").await;
    world.bridge.kill();
    world.bridge.spawn();
    // Before that `status` would look by itself, and hold the lock.
    world.bridge.wait_listening().await;
    world.client.publish("tele/hall/SENSOR", sensor(30.5)).await;
    // The plain message, and the newest of each place.
    eventually("three commands to wait", async || {
        let status = world.bridge.verb(&["status"]).await.stdout;
        let waits = status.lines().find(|line| line.starts_with("outbound"))?.contains(" 3 waiting");
        (waits && status.contains("fired 1")).then_some(())
    })
    .await;
    world.sim.restart().await;
    // The first may be refused: the service has forgotten the token.
    let taken = |calls: &[Call]| calls.iter().filter(|call| call.code == Some(0)).count();
    let calls = world.sim.calls_until("ham_topic", "two readings", |calls| taken(calls) == 2).await;
    let calls = calls.iter().filter(|call| call.code == Some(0));
    let mut told: Vec<_> = calls.map(|call| receiver_and_text(&call.body).1).collect();
    told.sort();
    assert_eq!(told, ["3.5", "30.5"]);
}

#[tokio::test]
async fn an_expired_message_is_told_as_a_failure() {
    let brief = r#"
[[route.to_ilink]]
name = "brief"
subscribe = "stat/+/POWER"
to = "user/413/text"
ttl = "1s"
"#;
    let mut world = world(brief).await;
    world.sim.kill();
    world.client.publish("ilink/send/user/413/text", "is anybody there?").await;
    world.bridge.logged("iLink: offline").await;
    world.client.send(Out::new("stat/lamp/POWER", "ON").qos0()).await;
    let result = world.client.expect("ilink/result/route/brief").await.json();
    assert_eq!(result["status"], json!("expired"), "{result}");
}
