//! Forgeries on topics that are the bridge's own.

use serde_json::json;

use super::storm::calm;
use super::{Storm, scaled};
use crate::support::client::{Client, Out};
use crate::support::eventually;

#[tokio::test]
async fn of_another_account_while_we_run_change_nothing() {
    let mut storm = Storm::ready("forged while running", |bridge| bridge).await;
    let n = scaled(500);
    let mut outs = Vec::new();
    for i in 0..n {
        let (topic, payload) = match i % 10 {
            0 => ("ilink/bridge/info", json!({"uid": "666"}).to_string()),
            1 => ("ilink/bridge/state", "online".to_owned()),
            2 => ("ilink/bridge/health", "x".repeat(100_000)),
            3 => ("ilink/bridge/cloud", "offline".to_owned()),
            4 => ("ilink/result/send/user/1/text", "{}".to_owned()),
            5 => ("ilink/recv/user/1/text", "forged".to_owned()),
            6 => ("ilink/by/c/result/send/user/1/text", "{}".to_owned()),
            7 => ("ilink/by/c", "x".to_owned()),
            8 => ("ilink/presence/1", "online".to_owned()),
            // Taken for one of our own: no result.
            _ => ("ilink/call/self_test/0123456789abcdef", "x".to_owned()),
        };
        let out = Out::new(topic, payload);
        outs.push(if i % 3 == 0 { out.retained() } else { out });
        if i % 50 == 0 {
            outs.push(storm.good());
        }
    }
    outs.push(Out::new("ilink/bridge/info", json!({"uid": "666"}).to_string()).retained());
    outs.push(Out::new("ilink/bridge/state", "online").retained());
    storm.device.send_all(outs).await;
    storm.is_over(n).await;
    assert_eq!(storm.status().await.counter("commands_rejected"), 0);
    // Killed, our last will says `offline`: nobody else is online, whatever the info says. Then the truth is retained again.
    storm.bridge.kill();
    storm.bridge.start().await;
    let watcher = Client::connect(&storm.broker).await;
    watcher.subscribe("ilink/bridge/#").await;
    watcher.expect_text("ilink/bridge/state", "online").await;
    let info = watcher.expect("ilink/bridge/info").await;
    assert_eq!(info.json()["uid"], "414");
    storm.is_over(n).await;
}

#[tokio::test]
async fn of_another_account_at_the_start_are_named_and_not_fought() {
    let mut storm = Storm::prepared("forged at the start", |bridge| bridge).await;
    let uid = format!("6\u{1b}[2J\n66{}", "6".repeat(200_000));
    storm.device.send(Out::new("ilink/bridge/info", json!({"uid": uid}).to_string()).retained()).await;
    storm.device.send(Out::new("ilink/bridge/state", "online").retained()).await;
    storm.bridge.spawn();
    storm.bridge.logged("another account uses our base topic").await;
    let broker = eventually("the cause", async || {
        let ready = storm.bridge.admin("readyz").await;
        let broker = ready.json()["broker"]["cause"].to_string();
        (ready.status == 503 && broker.contains("is online under the base topic")).then_some(broker)
    })
    .await;
    assert!(broker.len() < 1000 && !broker.contains('\u{1b}'), "{broker}");
    let took = std::time::Duration::ZERO;
    let rss = storm.vitals().0;
    calm(&mut storm.bridge, "forged at the start", 2, rss, took).await;
    // It did not subscribe: nobody answers.
    storm.device.send(Out::new("ilink/send/user/1/text", "x")).await;
    storm.client.settle().await;
    assert!(storm.heard("ilink/result/").is_empty());
    // What says `online` and is no bridge can be cleared by anybody who may write it.
    storm.device.send(Out::new("ilink/bridge/state", "").retained()).await;
    storm.bridge.kill();
    storm.start().await;
    storm.is_over(2).await;
}

/// What is there at the start and names nobody is no other account.
#[tokio::test]
async fn that_name_nobody_hinder_nothing() {
    for (info, state) in [
        (b"\xff\xfe{".to_vec(), "online"),
        (b"[".repeat(100_000), "online"),
        (br#"{"uid":["666"]}"#.to_vec(), "online"),
        (br#"{"uid":"666"}"#.to_vec(), "Online"),
    ] {
        let mut storm = Storm::prepared("forged nonsense", |bridge| bridge).await;
        storm.device.send(Out::new("ilink/bridge/info", info).retained()).await;
        storm.device.send(Out::new("ilink/bridge/state", state).retained()).await;
        storm.start().await;
        let good = storm.good();
        storm.device.send(good).await;
        storm.good_are_done().await;
    }
}
