//! What does not fire a route, and how often one may.

use serde_json::json;

use super::{Bridge, UID, World, counted, eventually, texts, world, world_with};
use crate::support::bridge::text_push;
use crate::support::client::{Client, Message, Out};
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const ANY: &str = r#"
[[route.from_ilink]]
name = "any"
from = "user/+/text"
any_sender = true
topic = "out/${from_uid}"
"#;

#[tokio::test]
async fn strangers_and_ourselves_fire_nothing() {
    let world = world_with(ANY, |bridge| bridge.with_toml("inbound.allow_from", r#"["413", "414"]"#)).await;
    for from in ["412", UID, "413"] {
        world.bridge.push(&text_push(from, "x")).await;
    }
    world.client.expect("out/413").await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic.starts_with("out/")).len(), 1);
    // Our own message is a message all the same.
    world.client.expect(&format!("ilink/recv/user/{UID}/text")).await;
}

#[tokio::test]
async fn a_late_push_fires_only_what_has_more_patience() {
    let routes = r#"
[[route.from_ilink]]
name = "hasty"
from = "user/413/text"
topic = "out/hasty"

[[route.from_ilink]]
name = "patient"
from = "user/413/text"
topic = "out/patient"
max_age = "1h"
"#;
    let mut world = world_with(routes, |bridge| bridge.with("inbound.raw_max_age", "1ms")).await;
    world.broker.stop();
    world.bridge.push(&text_push("413", "x")).await;
    world.broker.restart();
    world.client.expect("out/patient").await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!(event["late"], json!(true));
    counted(&world, "hasty", "late 1").await;
    assert!(world.client.all(|message| message.topic == "out/hasty").is_empty());
}

#[tokio::test]
async fn the_breaker_cuts_a_loop_off() {
    let both = r#"
[[route.from_ilink]]
name = "out"
from = "user/413/text"
topic = "out/x"
max_rate = "3/h"

[[route.to_ilink]]
name = "in"
subscribe = "stat/+"
to = "user/413/text"
max_rate = "2/h"
"#;
    let world = world(both).await;
    for n in 0..6 {
        world.bridge.push(&text_push("413", &n.to_string())).await;
        world.client.publish("stat/lamp", n.to_string()).await;
    }
    counted(&world, "out", "over_rate 3").await;
    counted(&world, "in", "over_rate 4").await;
    world.bridge.logged("a route fires more often than its max_rate").await;
    world
        .client
        .until("every push", |all| {
            all.iter().filter(|message| message.topic == "ilink/recv/user/413/text").count() == 6
        })
        .await;
    world.client.settle().await;
    let out = world.client.all(|message| message.topic == "out/x");
    assert_eq!(out.iter().map(Message::text).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert_eq!(texts(&world, 2).await, ["0", "1"]);
}

#[tokio::test]
async fn retained_messages_are_ignored_unless_asked_for() {
    let routes = r#"
[[route.to_ilink]]
name = "ignores"
subscribe = "stat/+/POWER"
to = "user/413/text"
payload = "ignores ${1} ${payload}"

[[route.to_ilink]]
name = "asks"
subscribe = "stat/+/POWER"
to = "user/412/text"
payload = "asks ${1} ${payload}"
retained = true
"#;
    let mut world = World::prepared(&[], |bridge| bridge.with_tables(routes)).await;
    world.client.send(Out::new("stat/old/POWER", "ON").retained()).await;
    world.bridge.start().await;
    // Published to be retained, and heard live: the same.
    world.client.send(Out::new("stat/live/POWER", "ON").retained()).await;
    world.client.publish("stat/plain/POWER", "ON").await;
    let mut told = texts(&world, 4).await;
    told.sort();
    assert_eq!(told, ["asks live ON", "asks old ON", "asks plain ON", "ignores plain ON"]);
    counted(&world, "ignores", "retained 2").await;
}

/// A message that several routes' filters select comes to each once, whatever the broker makes of such subscriptions.
async fn overlapping_filters(protocol: &str) {
    let routes = r#"
[[route.to_ilink]]
name = "all"
subscribe = "stat/#"
to = "user/1/text"

[[route.to_ilink]]
name = "power"
subscribe = "stat/+/POWER"
to = "user/2/text"

[[route.to_ilink]]
name = "lamp"
subscribe = "stat/lamp/+"
to = "user/3/text"

[[route.from_ilink]]
name = "out"
from = "user/413/text"
topic = "out/x"
"#;
    let world = world_with(routes, |bridge| bridge.with("mqtt.protocol", protocol)).await;
    for n in 0..3 {
        world.client.publish("stat/lamp/POWER", n.to_string()).await;
    }
    world.client.publish("stat/lamp/STATUS", "x").await;
    world.bridge.push(&text_push("413", "hello")).await;
    world.client.expect_text("out/x", "hello").await;
    counted(&world, "all", "fired 4").await;
    counted(&world, "power", "fired 3").await;
    counted(&world, "lamp", "fired 4").await;
    assert_eq!(texts(&world, 11).await.len(), 11);
}

#[tokio::test]
async fn filters_may_overlap() {
    overlapping_filters("5").await;
}

#[tokio::test]
async fn filters_may_overlap_in_mqtt_3_1_1() {
    overlapping_filters("3.1.1").await;
}

#[tokio::test]
async fn a_large_message_is_refused_with_a_result() {
    let routes = r#"
[[route.to_ilink]]
name = "big"
subscribe = "stat/+"
to = "user/413/text"

[[route.to_ilink]]
name = "small"
subscribe = "stat/+"
to = "user/413/text"
match = '^(?<first>.)'
payload = "${first}"
"#;
    let world = world_with(routes, |bridge| bridge.with("outbound.max_content", "1KiB")).await;
    world.client.publish("stat/x", "y".repeat(2000)).await;
    let result = world.client.expect("ilink/result/route/big").await.json();
    assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!("too_large")), "{result}");
    assert_eq!(texts(&world, 1).await, ["y"]);
    counted(&world, "big", "failed 1").await;
}

#[tokio::test]
async fn a_publish_that_the_broker_refuses_holds_up_nothing() {
    let mut acl = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut acl, b"topic readwrite ilink/#\ntopic readwrite test/#\ntopic read out/#\n")
        .unwrap();
    let broker = Mosquitto::start(&format!("acl_file {}", acl.path().display()));
    let sim = Sim::start(&[]).await;
    let mut bridge = Bridge::new(&broker, &sim).with_tables(ANY);
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    bridge.start().await;
    for n in 0..3 {
        bridge.push(&text_push("413", &n.to_string())).await;
        client.expect_text("ilink/recv/user/413/text", &n.to_string()).await;
    }
    bridge.logged("topic write out/413").await;
    eventually("every push to be completed", async || {
        let status = bridge.verb(&["status"]).await.stdout;
        let done = status.contains("publishes_set_aside 3") && status.contains("failed 3");
        (done && status.contains("pushes_delivered 3")).then_some(())
    })
    .await;
}
