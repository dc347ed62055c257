//! `/metrics` after traffic that is known.

use std::collections::BTreeSet;

use serde_json::json;

use super::prometheus::Metrics;
use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, SECRET, TIME, UID, base64, text_push};
use crate::support::etcd::Etcd;
use crate::support::sim::SECRETKEY;
use crate::support::{eventually, http::Answer};

async fn metrics(bridge: &Bridge) -> Metrics {
    let answer = bridge.admin("metrics").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4"));
    assert_eq!(answer.header("cache-control"), "no-store");
    for secret in [SECRET, SECRETKEY] {
        assert!(!answer.body.contains(secret));
    }
    Metrics::parse(&answer.body)
}

/// Waits until one series has this value; returns all of that moment.
async fn metrics_with(bridge: &Bridge, name: &str, labels: &[(&str, &str)], value: f64) -> Metrics {
    eventually(&format!("{name}{labels:?} to be {value}"), async || {
        let metrics = metrics(bridge).await;
        (metrics.find(name, labels) == Some(value)).then_some(metrics)
    })
    .await
}

/// The value of one series.
pub(crate) async fn count(bridge: &Bridge, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics(bridge).await.get(name, labels)
}

/// Waits until one series has this value.
pub(crate) async fn counted(bridge: &Bridge, name: &str, labels: &[(&str, &str)], value: f64) {
    metrics_with(bridge, name, labels, value).await;
}

#[tokio::test]
async fn every_message_is_counted_once_and_timed() {
    let world = World::ready().await;
    let bridge = &world.bridge;
    let before = metrics_with(bridge, "cloud_state", &[("state", "online")], 1.0).await;
    assert_eq!(before.get("build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(before.get("push_store_seconds_count", &[]), 0.0);
    for part in ["broker", "subscriptions", "callback", "spool"] {
        assert_eq!(before.get("ready", &[("part", part)]), 1.0, "{part}");
    }
    assert_eq!(before.get("cloud_state", &[("state", "offline")]), 0.0);
    let lives = before.get("token_age_seconds", &[]) + before.get("token_expires_in_seconds", &[]);
    assert!((7199.0..7201.0).contains(&lives), "{lives}");

    for n in 0..3 {
        bridge.push(&text_push("413", &n.to_string())).await;
    }
    let group = json!({"to_uid": UID, "from_uid": "413", "group_id": "g/1", "msg_type": 3, "content": base64(b"x"), "create_time": TIME});
    bridge.push(&group).await;
    bridge.request(reqwest::Method::GET, "/not-the-secret").await;
    for status in ["ok", "error"] {
        if status == "error" {
            world.sim.answer_code("send_msg", 1014, 1).await;
        }
        world.client.publish("ilink/send/user/413/text", "x").await;
        world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == status).await;
    }
    world.client.publish("ilink/send/user/413/text", "").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["name"] == "bad_payload").await;

    let after = metrics_with(bridge, "pushes_delivered_total", &[("kind", "text")], 3.0).await;
    let after = match after.get("pushes_delivered_total", &[("kind", "group")]) {
        1.0 => after,
        _ => metrics_with(bridge, "pushes_delivered_total", &[("kind", "group")], 1.0).await,
    };
    for (name, labels, value) in [
        ("pushes_total", &[("kind", "text"), ("outcome", "stored")][..], 3.0),
        ("pushes_total", &[("kind", "group"), ("outcome", "stored")], 1.0),
        ("pushes_total", &[("kind", "file"), ("outcome", "stored")], 0.0),
        ("pushes_total", &[("kind", "text"), ("outcome", "repeated")], 0.0),
        ("push_store_seconds_count", &[], 4.0),
        ("push_delivery_seconds_count", &[], 4.0),
        ("callback_rejected_total", &[("reason", "path")], 1.0),
        ("commands_stored_total", &[], 2.0),
        ("commands_total", &[("call", "send_msg/text"), ("status", "ok"), ("name", "ok")], 1.0),
        ("commands_total", &[("call", "send_msg/text"), ("status", "error"), ("name", "forbidden")], 1.0),
        ("commands_rejected_total", &[("reason", "bad_payload")], 1.0),
        ("command_seconds_count", &[], 2.0),
        ("calls_total", &[], 2.0),
        ("calls_repeated_total", &[], 0.0),
        ("api_requests_total", &[("path", "send_msg"), ("outcome", "ok")], 1.0),
        ("api_requests_total", &[("path", "send_msg"), ("outcome", "forbidden")], 1.0),
        ("api_requests_total", &[("path", "get_access_token"), ("outcome", "ok")], 1.0),
        ("queue_messages", &[("queue", "set_aside")], 0.0),
        ("queue_limit_bytes", &[("queue", "inbound")], 512.0 * 1024.0 * 1024.0),
        ("broker_connected", &[], 1.0),
        ("broker_connects_total", &[], 1.0),
        ("broker_reconnects_total", &[], 0.0),
        ("publishes_total", &[("outcome", "refused")], 0.0),
    ] {
        assert_eq!(after.get(name, labels), value, "{name}{labels:?}");
    }
    // Two publishes for each push; three results.
    assert!(after.get("publishes_total", &[("outcome", "acked")]) >= 8.0);
    assert!(after.get("last_push_timestamp_seconds", &[]) >= after.get("start_time_seconds", &[]));
    // The text was "x", three times of some milliseconds at least: not nothing, and not hours.
    let spent = after.get("api_request_seconds_sum", &[]);
    assert!(spent > 0.0 && spent < 3600.0, "{spent}");
}

#[tokio::test]
async fn outages_show_and_whoever_writes_makes_no_series() {
    let mut world = World::ready().await;
    world.bridge.push(&text_push("413", "x")).await;
    let before = metrics_with(&world.bridge, "pushes_delivered_total", &[("kind", "text")], 1.0).await;
    world.broker.stop();
    metrics_with(&world.bridge, "broker_connected", &[], 0.0).await;
    for n in 0..20 {
        world.bridge.push(&text_push(&format!("sender-{n}"), "waits")).await;
    }
    let waiting = metrics_with(&world.bridge, "queue_messages", &[("queue", "inbound")], 20.0).await;
    assert!(waiting.get("queue_bytes", &[("queue", "inbound")]) > 20.0);
    assert_eq!(waiting.get("ready", &[("part", "broker")]), 0.0);
    world.broker.restart();
    metrics_with(&world.bridge, "pushes_delivered_total", &[("kind", "text")], 21.0).await;
    let after = metrics_with(&world.bridge, "queue_messages", &[("queue", "inbound")], 0.0).await;
    assert!(after.get("broker_reconnects_total", &[]) >= 1.0);
    assert!(after.get("broker_failures_total", &[]) >= 1.0);
    // Twenty senders more, and not a series for each (an API call that failed meanwhile may have made one).
    assert!(after.len() < before.len() + 20, "{} {}", before.len(), after.len());
    assert!(after.label_values().all(|value| !value.contains("413") && !value.contains("sender")));
}

#[tokio::test]
async fn a_try_again_and_a_repeated_push_are_counted_as_such() {
    let world = World::ready().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "drop", "times": 1})).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == "ok").await;
    let after = metrics(&world.bridge).await;
    assert_eq!(after.get("calls_repeated_total", &[]), 1.0);
    assert_eq!(after.get("api_requests_total", &[("path", "send_msg"), ("outcome", "lost")]), 1.0);
    let answer: Answer = world.bridge.request(reqwest::Method::POST, "/metrics").await;
    assert_eq!(answer.status, 404, "the callback listener serves no metrics");
}

#[tokio::test]
async fn what_each_route_did_is_counted() {
    let routes = r#"
[[route.from_ilink]]
name = "lamp"
from = "user/413/text"
match = "^lamp (?<v>on|off)$"
topic = "cmnd/lamp/POWER"
payload = "${v|upper}"

[[route.to_ilink]]
name = "lamp-state"
subscribe = "stat/lamp/POWER"
to = "user/413/text"
on_change = true
"#;
    let world = World::ready_with(|bridge| bridge.with_tables(routes)).await;
    world.client.subscribe("cmnd/#").await;
    for text in ["lamp on", "lamp off", "fan on"] {
        world.bridge.push(&text_push("413", text)).await;
    }
    for state in ["ON", "ON", "OFF"] {
        world.client.publish("stat/lamp/POWER", state).await;
    }
    let of = |route, outcome| [("route", route), ("outcome", outcome)];
    let name = "route_messages_total";
    metrics_with(&world.bridge, name, &of("lamp", "no_match"), 1.0).await;
    let after = metrics_with(&world.bridge, name, &of("lamp-state", "fired"), 2.0).await;
    for (route, outcome, count) in
        [("lamp", "fired", 2.0), ("lamp", "failed", 0.0), ("lamp-state", "unchanged", 1.0), ("lamp-state", "late", 0.0)]
    {
        assert_eq!(after.get(name, &of(route, outcome)), count, "{route} {outcome}");
    }
}

/// The names in the first column of the last chapter.
fn documented(reference: &str) -> BTreeSet<String> {
    let (_, chapter) = reference.rsplit_once("\n## ").unwrap();
    let cells = chapter.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once(" |")?.0));
    let names = cells.flat_map(|cell| cell.split('`').step_by(2));
    names.filter_map(|name| Some(name.split('{').next()?.to_owned())).collect()
}

#[tokio::test]
async fn the_reference_has_every_metric_and_no_other() {
    let etcd = Etcd::start().await;
    let route = "[[route.from_ilink]]\nname = \"all\"\nfrom = \"user/413/text\"\ntopic = \"all\"\n";
    let endpoints = json!([etcd.url()]).to_string();
    let world = World::ready_with(|bridge| bridge.with_tables(route).with_toml("cluster.endpoints", &endpoints)).await;
    world.bridge.push(&text_push("413", "x")).await;
    counted(&world.bridge, "pushes_delivered_total", &[("kind", "text")], 1.0).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == "ok").await;
    let page = world.bridge.admin("metrics").await.body;
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ilink2mqtt_")?.split_once(' '));
    let families: BTreeSet<_> = types.map(|(name, _)| name.to_owned()).collect();
    for reference in
        [include_str!("../../../deploy/docs/reference.md"), include_str!("../../../deploy/docs/zh/reference.md")]
    {
        assert_eq!(documented(reference), families);
    }
}
