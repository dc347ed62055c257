//! A full disk: nothing is answered that could not be stored, what was answered is delivered, and it is said why.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::small_disk::{SmallDisk, in_namespace};
use crate::blackbox::world::World;
use crate::support::bridge::text_push;
use crate::support::client::Message;
use crate::support::eventually;

const PUSHED: &str = "ilink/recv/user/413/text";

async fn world_on(disk: &SmallDisk) -> World {
    let state = disk.path().join("state");
    World::prepared(&[], |bridge| bridge.with("state_dir", state.to_str().unwrap())).await
}

fn pushed(all: &[Message]) -> Vec<String> {
    let texts = all.iter().filter(|message| message.topic == PUSHED);
    texts.map(|message| message.text().split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// Waits until the spool's part of `/readyz` is so.
async fn spool(world: &World, ready: bool) -> Value {
    eventually(&format!("the spool to be ready: {ready}"), async || {
        let part = world.bridge.admin("readyz").await.json()["spool"].clone();
        (part["ready"] == ready).then_some(part)
    })
    .await
}

fn says_what_to_do(cause: &str, disk: &SmallDisk) {
    assert!(
        cause.contains("full") && cause.contains("free") && cause.contains(disk.path().to_str().unwrap()),
        "{cause}"
    );
}

#[test]
fn a_disk_that_the_queue_fills_refuses_pushes_and_takes_them_again_once_drained() {
    in_namespace(
        "disk::full::a_disk_that_the_queue_fills_refuses_pushes_and_takes_them_again_once_drained",
        filled_by_the_queue(),
    );
}

async fn filled_by_the_queue() {
    let disk = SmallDisk::new(12);
    let mut world = world_on(&disk).await;
    world.bridge.start().await;
    world.broker.stop();
    let mut answered = Vec::new();
    // The broker is away, and pushes pile up.
    loop {
        let name = answered.len().to_string();
        let push = text_push("413", &format!("{name} {}", "x".repeat(200_000)));
        let Some(answer) = world.bridge.try_post(&push).await else { break };
        assert_eq!(answer.status, 200, "{answer:?}");
        answered.push(name);
        assert!(answered.len() < 200, "the disk is never full");
    }
    assert!(answered.len() > 10, "{}", answered.len());
    let cause = spool(&world, false).await["cause"].as_str().unwrap().to_owned();
    says_what_to_do(&cause, &disk);
    world.bridge.logged(&cause).await;
    let status = world.bridge.verb(&["status"]).await;
    assert!(status.text.contains(&cause), "{status:?}");

    // A crash on the full disk; what was answered is there.
    world.bridge.kill();
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    world.broker.restart();
    let all: BTreeSet<_> = answered.iter().cloned().collect();
    world.client.until("every answered push", |messages| all.is_subset(&pushed(messages).into_iter().collect())).await;
    // What the spool itself took is free again, without anybody's help.
    spool(&world, true).await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
}

#[test]
fn a_disk_that_somebody_else_fills_still_drains_and_restarts() {
    in_namespace("disk::full::a_disk_that_somebody_else_fills_still_drains_and_restarts", filled_by_somebody_else());
}

async fn filled_by_somebody_else() {
    let disk = SmallDisk::new(32);
    let mut world = world_on(&disk).await;
    world.bridge.start().await;
    // Once it has rested, it has room of its own.
    let ballast = disk.path().join("state/spool.ballast");
    world.bridge.push(&text_push("412", "before the calm")).await;
    eventually("the ballast", async || ballast.exists().then_some(())).await;
    // Pushes wait for the broker, commands for iLink.
    world.sim.kill();
    for n in 0..30 {
        let call = json!({"accept_uid": n.to_string(), "content": format!("command {n}"), "ref": n});
        world.client.publish("ilink/call/send_msg/text", call.to_string()).await;
    }
    world.bridge.waiting("outbound", 30).await;
    world.broker.stop();
    for n in 0..100 {
        world.bridge.push(&text_push("413", &n.to_string())).await;
    }
    disk.fill();
    world.bridge.unanswered(&text_push("413", "refused")).await;
    let cause = spool(&world, false).await["cause"].as_str().unwrap().to_owned();
    says_what_to_do(&cause, &disk);

    // Both directions drain.
    world.broker.restart();
    world.client.until("the pushes", |all| pushed(all).len() >= 100).await;
    world.sim.restart().await;
    let results = world
        .client
        .until("the results", |all| {
            all.iter().filter(|message| message.topic.starts_with("ilink/result/call")).count() >= 30
        })
        .await;
    assert!(
        results.iter().filter(|m| m.topic.starts_with("ilink/result/call")).all(|m| m.json()["status"] == "ok"),
        "{results:?}"
    );
    world.bridge.waiting("inbound", 0).await;
    world.bridge.waiting("outbound", 0).await;
    let calls = world.sim.calls("send_msg").await.iter().filter(|call| call.code == Some(0)).count();
    assert_eq!(calls, 30);
    let health = world.client.expect_json("ilink/bridge/health", |health| health["spool"]["ready"] == false).await;
    says_what_to_do(health["spool"]["cause"].as_str().unwrap(), &disk);

    // A new command is refused, in words.
    world
        .client
        .publish("ilink/call/send_msg/text", json!({"accept_uid": "1", "content": "x", "ref": "late"}).to_string())
        .await;
    let result = world.client.expect_json("ilink/result/call/send_msg/text", |result| result["ref"] == "late").await;
    assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!("queue_full")), "{result}");
    says_what_to_do(result["message"].as_str().unwrap(), &disk);

    // Restarting works, and nothing is done again.
    assert_eq!(world.bridge.stop().await.code(), Some(0), "{}", world.bridge.log());
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    spool(&world, false).await;
    world.bridge.unanswered(&text_push("413", "refused")).await;

    // Once there is room, it goes on by itself.
    disk.free();
    spool(&world, true).await;
    world.bridge.push(&text_push("413", "again")).await;
    world.client.expect_text(PUSHED, "again").await;
    let mut seen = pushed(&world.client.all(|_| true));
    seen.sort();
    let mut expected: Vec<_> = (0..100).map(|n| n.to_string()).chain(["again".to_owned()]).collect();
    expected.sort();
    assert_eq!(seen, expected, "each once");
    assert_eq!(world.sim.calls("send_msg").await.iter().filter(|call| call.code == Some(0)).count(), 30);
}
