//! The bridge's own limits and who attacks it: full queues, refused callers, a reloaded address.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::shown::Shown;
use crate::blackbox::world::World;
use crate::support::bridge::{SECRET, text_push};
use crate::support::eventually;
use crate::support::http::{Answer, http};

#[tokio::test]
async fn a_full_inbound_queue_and_its_end() {
    let mut world =
        World::prepared(&[], |bridge| bridge.with("spool.max_bytes", "20KiB").with("log.level", "info")).await;
    world.bridge.start().await;
    world.broker.stop();
    let large = "x".repeat(3000);
    for n in 0..4 {
        world.bridge.push(&text_push("413", &format!("{n} {large}"))).await;
    }
    // It is held, and cut after 6 s without an answer; meanwhile it is to be seen why.
    let push = text_push("413", &large);
    let held = world.bridge.unanswered(&push);
    let says = ["the inbound queue is full", "until the broker takes what waits", "spool.max_bytes"];
    let seen = async {
        world.bridge.logged("the inbound queue is full").await;
        let shown = Shown::of(&world.bridge).await;
        shown.not_ready("spool", &says);
        shown.status_says("spool           not ready since ", &says);
    };
    tokio::join!(held, seen);
    world.broker.restart();
    world.bridge.wait_ready().await;
    world.bridge.logged("the inbound queue has room again").await;
    Shown::of(&world.bridge).await.one_line(&world.bridge.log(), "WARN", "the inbound queue is full", &says);
}

#[tokio::test]
async fn a_flood_of_commands_while_the_service_is_away() {
    let mut world =
        World::prepared(&[], |bridge| bridge.with("spool.max_bytes", "20KiB").with("log.level", "info")).await;
    world.bridge.start().await;
    world.sim.kill();
    let large = "x".repeat(3000);
    // One client alone does not fill it.
    for topic in ["ilink/send/user/413/text", "ilink/by/lamp/send/user/413/text"] {
        for _ in 0..12 {
            world.client.publish(topic, &large).await;
        }
    }
    let result =
        world.client.expect_json("ilink/result/send/user/413/text", |result| result["name"] == "queue_full").await;
    assert!(result["message"].as_str().is_some_and(|message| message.contains("send it again later")), "{result}");
    let says = ["the outbound queue is full", "until iLink takes what waits", "spool.max_bytes"];
    world.bridge.logged(says[0]).await;
    let shown = Shown::of(&world.bridge).await;
    shown.not_ready("spool", &says);
    shown.one_line(&world.bridge.log(), "WARN", "the outbound queue is full", &says);
    world.client.expect_text("ilink/bridge/cloud", "offline").await;
    world.sim.restart().await;
    world.bridge.wait_ready().await;
    world.bridge.logged("the outbound queue has room again").await;
}

#[tokio::test]
async fn who_attacks_the_callback_is_counted_and_fills_no_log() {
    let mut world =
        World::prepared(&[], |bridge| bridge.with("log.level", "info").with("callback.max_body", "1KiB")).await;
    world.bridge.start().await;
    let (began, lines) = (std::time::Instant::now(), world.bridge.log().lines().count());
    let wrong = format!("/{SECRET}?signature=0&timestamp=1&echostr=x");
    for n in 0..60 {
        assert_eq!(Answer::of(http().get(world.bridge.callback_at(&format!("/{n}")))).await.status, 404);
        assert_eq!(Answer::of(http().get(world.bridge.callback_at(&wrong))).await.status, 403);
        assert_eq!(world.bridge.post_bytes(b"no JSON".to_vec()).await.status, 200);
        assert_eq!(world.bridge.post_bytes(vec![b'x'; 2000]).await.status, 413);
    }
    let status = eventually("the counts", async || {
        // The topic tells them at the next change of state, or within a minute.
        let done = world.bridge.verb(&["status"]).await;
        (done.code == Some(0)).then_some(done.text)
    })
    .await;
    assert!(["path 60", "signature 60", "json 60", "size 60"].iter().all(|count| status.contains(count)), "{status}");
    world.sim.kill();
    world.client.publish("ilink/send/user/1/text", "x").await;
    let is_counted = |health: &Value| {
        ["path", "signature", "json", "size"].iter().all(|reason| health["callback"]["rejected"][reason] == 60)
    };
    world.client.expect_json("ilink/bridge/health", is_counted).await;
    let log = world.bridge.log();
    let refusals = log
        .lines()
        .skip(lines)
        .filter(|line| line.contains("refused a ") || line.contains("is not a JSON object"))
        .count();
    // One line a minute for each reason that is worth one.
    let minutes = usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    assert!((3..=3 + 3 * minutes).contains(&refusals), "{refusals} lines:\n{log}");
}

#[tokio::test]
async fn a_reloaded_address_is_told() {
    let mut world = World::ready().await;
    world.client.expect_json("ilink/bridge/info", |info| info["callback_host"] == "127.0.0.1").await;
    let port = world.bridge.callback_port();
    world.bridge.set("callback.public_url", &format!("http://localhost:{port}"));
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    let info = world.client.expect_json("ilink/bridge/info", |info| info["callback_host"] == "localhost").await;
    assert_eq!(info["uid"], json!("414"));
}

#[tokio::test]
async fn a_packet_limit_below_the_content_limit_is_warned_of() {
    let world = World::prepared(&[], |bridge| bridge.with("mqtt.max_packet", "100KiB")).await;
    let done = world.bridge.verb(&["check"]).await;
    assert!(done.text.contains("mqtt.max_packet is less than outbound.max_content"), "{}", done.text);
}
