//! `kill -9` at any moment loses no push that was answered 0 and no command that the broker took.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, Limits, Queue, Store as _};
use serde_json::json;

use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};

use super::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::{Client, Message};
use crate::support::deserted::Deserted;
use crate::support::eventually;
use crate::support::http::{Answer, http};
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::sim::Call;
use crate::support::sim::Sim;

const PUSHED: &str = "ilink/recv/user/413/text";

/// Pushes numbered texts until told to stop; returns those that were answered 0.
async fn pusher(url: String, round: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let http = http();
    let mut answered = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("{round}-{n}");
        // No answer, because the process is gone: the service would try again, so this one is nobody's promise.
        if let Ok(answer) = Answer::try_of(http.post(&url).json(&text_push("413", &text))).await
            && answer.status == 200
        {
            answered.push(text);
        } else {
            tokio::task::yield_now().await;
        }
    }
    answered
}

fn texts(messages: &[Message]) -> HashSet<&str> {
    messages.iter().filter(|message| message.topic == PUSHED).map(Message::text).collect()
}

async fn all_arrived(client: &Client, answered: &[String]) {
    client
        .until("every answered push", |all| {
            let texts = texts(all);
            answered.iter().all(|text| texts.contains(text.as_str()))
        })
        .await;
}

#[tokio::test]
async fn answered_pushes_survive() {
    let mut world = World::ready().await;
    let mut answered = Vec::new();
    for round in 0..5 {
        let stop = Arc::new(AtomicBool::new(false));
        let pushing: Vec<_> =
            (0..4).map(|n| tokio::spawn(pusher(world.bridge.callback(), round * 10 + n, Arc::clone(&stop)))).collect();
        // In the middle of it: some have arrived, others are on their way.
        let wanted = 20 * (round + 1);
        world.client.until("some pushes", |all| texts(all).len() >= wanted).await;
        world.bridge.kill();
        stop.store(true, Ordering::Relaxed);
        for pushing in pushing {
            answered.extend(pushing.await.unwrap());
        }
        world.bridge.start().await;
    }
    assert!(answered.len() >= 50, "too few for the test to show anything: {}", answered.len());
    all_arrived(&world.client, &answered).await;
    order_per_sender(&world.client);
}

/// Pushes of one sequential sender first arrive in their order.
fn order_per_sender(client: &Client) {
    let mut last = std::collections::HashMap::<String, usize>::new();
    let mut seen = HashSet::new();
    for message in client.all(|message| message.topic == PUSHED) {
        let (round, n) = message.text().split_once('-').unwrap();
        if seen.insert(message.text().to_owned()) {
            let n: usize = n.parse().unwrap();
            let last = last.entry(round.to_owned()).or_default();
            assert!(*last <= n, "{} came after {last}", message.text());
            *last = n;
        }
    }
}

#[tokio::test]
async fn answered_pushes_survive_without_a_broker() {
    let mut world = World::ready().await;
    world.broker.stop();
    let mut answered = Vec::new();
    for round in 0..3 {
        for n in 0..10 {
            let text = format!("{round}-{n}");
            world.bridge.push(&text_push("413", &text)).await;
            answered.push(text);
        }
        world.bridge.kill();
        world.bridge.spawn();
        world.bridge.wait_listening().await;
    }
    world.broker.restart();
    all_arrived(&world.client, &answered).await;
    order_per_sender(&world.client);
}

/// The contents of the calls that were answered well.
fn delivered(calls: &[Call]) -> HashSet<String> {
    calls
        .iter()
        .filter(|call| call.code == Some(0))
        .map(|call| call.body["content"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn accepted_commands_survive() {
    let mut world = World::ready().await;
    let mut sent = Vec::new();
    for round in 0..5 {
        for n in 0..30 {
            let content = format!("{round}-{n}");
            // With a base64 content of our own, so that what the simulator saw can be compared as it is.
            let content = crate::support::bridge::base64(content.as_bytes());
            let call =
                json!({"accept_uid": (n % 7).to_string(), "content": content, "encoding": "base64", "ref": content});
            world.client.publish("ilink/call/send_msg/text", call.to_string()).await;
            sent.push(content);
        }
        let wanted = round * 30 + 1 + round * 5;
        world.sim.calls_until("send_msg", "some of them", |calls| delivered(calls).len() >= wanted).await;
        world.bridge.kill();
        world.bridge.start().await;
    }
    let all: HashSet<_> = sent.iter().cloned().collect();
    world.sim.calls_until("send_msg", "all of them", |calls| delivered(calls).is_superset(&all)).await;
    // Each has its result, and after a crash perhaps the same one again.
    let results = world
        .client
        .until("every result", |messages| {
            let refs: HashSet<_> = messages.iter().filter_map(reference).collect();
            refs.len() == sent.len()
        })
        .await;
    let mut ids = std::collections::HashMap::<String, String>::new();
    for message in results.iter().filter(|message| message.topic.starts_with("ilink/result/")) {
        let result = message.json();
        assert_eq!(result["status"], json!("ok"), "{result}");
        let (reference, id) = (result["ref"].to_string(), result["id"].to_string());
        let first = ids.entry(reference).or_insert_with(|| id.clone());
        assert_eq!(*first, id, "another id for the same command: {result}");
    }
}

fn reference(message: &Message) -> Option<String> {
    message.topic.starts_with("ilink/result/").then(|| message.json()["ref"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn reported_commands_are_never_sent_twice() {
    let mut world = World::ready_with(|bridge| bridge.with("outbound.ambiguous", "report")).await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 0.03, "times": 0})).await;
    let mut sent = Vec::new();
    for round in 0..4 {
        for n in 0..20 {
            let content = crate::support::bridge::base64(format!("{round}-{n}").as_bytes());
            let call =
                json!({"accept_uid": (n % 5).to_string(), "content": content, "encoding": "base64", "ref": content});
            world.client.publish("ilink/call/send_msg/text", call.to_string()).await;
            sent.push(content);
        }
        let wanted = round * 20 + 3;
        world.sim.calls_until("send_msg", "some of them", |calls| calls.len() >= wanted).await;
        world.bridge.kill();
        world.bridge.start().await;
    }
    let results = world
        .client
        .until("every result", |messages| {
            messages.iter().filter_map(reference).collect::<HashSet<_>>().len() == sent.len()
        })
        .await;
    let calls = world.sim.calls("send_msg").await;
    let mut seen = HashSet::new();
    for call in &calls {
        assert!(seen.insert(call.body["content"].to_string()), "sent twice: {}", call.body);
    }
    for message in results.iter().filter(|message| message.topic.starts_with("ilink/result/")) {
        let result = message.json();
        assert!(["ok", "uncertain"].contains(&result["status"].as_str().unwrap()), "{result}");
    }
}

#[tokio::test]
async fn a_known_success_is_not_sent_again() {
    let mut world = World::ready().await;
    for n in 0..20 {
        world.client.publish("ilink/send/user/413/text", n.to_string()).await;
    }
    world
        .client
        .until("20 results", |all| {
            all.iter().filter(|message| message.topic.starts_with("ilink/result/")).count() >= 20
        })
        .await;
    world.bridge.kill();
    world.bridge.start().await;
    // Anything that the new process still had to send would be sent before this.
    world.client.publish("ilink/send/user/413/text", "last").await;
    let last = json!(crate::support::bridge::base64(b"last"));
    let calls = world
        .sim
        .calls_until("send_msg", "the last one", |calls| calls.iter().any(|call| call.body["content"] == last))
        .await;
    assert_eq!(calls.len(), 21);
}

#[tokio::test]
async fn a_slow_broker_does_not_hold_up_what_it_has_acknowledged() {
    let (sim, away) = (Sim::start(&[]).await, Deserted::new());
    let mut bridge = Bridge::at(&away.url("mqtt"), &sim).with("mqtt.output", "raw");
    bridge.spawn();
    bridge.wait_listening().await;
    // More than the link may have in flight, so that the rest of them waits for room.
    for n in 0..120 {
        bridge.push(&text_push("413", &n.to_string())).await;
    }
    let broker = ScriptedBroker::come(away);
    let mut peer = broker.up().await;
    // Among them is what the bridge tells of itself: acknowledged in its turn too, or not at all.
    let (mut sent, mut pushes) = (Vec::new(), 0);
    while pushes < 50 {
        let Packet::Publish(publish) = peer.read().await.expect("a publish") else { continue };
        let is_push = publish.topic.starts_with(b"ilink/recv/");
        pushes += usize::from(is_push);
        sent.push((publish.pkid, is_push));
    }
    let mut acked = 0;
    for (pkid, is_push) in sent {
        peer.ack(pkid, PubAckReason::Success).await;
        acked += usize::from(is_push);
        if acked == 5 {
            break;
        }
    }
    // A crash now must not deliver those again.
    let serving = async { while peer.read().await.is_some() {} };
    tokio::select! {
        () = bridge.waiting("inbound", 115) => {}
        () = serving => panic!("the bridge left"),
    }
}

#[tokio::test]
async fn a_damaged_spool_does_not_stop_the_bridge() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let file = world.bridge.state_dir().join("spool.db");
    std::fs::write(&file, b"this is no database, whatever it may have been once").unwrap();
    let _ = std::fs::remove_file(world.bridge.state_dir().join("spool.db-wal"));
    world.bridge.start().await;
    world.bridge.push(&text_push("413", "new life")).await;
    world.client.expect_text(PUSHED, "new life").await;
    // What was there is kept for whoever wants to look.
    let kept = std::fs::read_dir(world.bridge.state_dir())
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read(entry.path()).is_ok_and(|bytes| bytes.starts_with(b"this is no database")));
    assert!(kept, "the damaged file is gone");
}

#[tokio::test]
async fn nothing_is_written_and_nothing_is_computed_when_idle() {
    let mut world = World::ready().await;
    world.bridge.push(&text_push("413", "before the calm")).await;
    world.client.expect(PUSHED).await;
    let id = world.bridge.process().id();
    // Quiet: a stretch of five seconds without a write and next to no processor time comes soon after the last message.
    eventually("five idle seconds", async || {
        let before = effort(id);
        let watched = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        tokio::time::sleep_until(watched).await;
        let after = effort(id);
        (after.0 == before.0 && after.1 - before.1 <= 5).then_some(())
    })
    .await;
}

/// Bytes written to disk, and clock ticks (10 ms) of processor time, so far.
fn effort(id: u32) -> (u64, u64) {
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).expect("Linux");
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("Linux");
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (written, fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
}

/// What a newer version stored, say, before it was replaced by this one.
#[tokio::test]
async fn a_row_that_this_version_cannot_read_stays_where_it_is() {
    const ROW: &[u8] = &[255, 1, 2, 3];
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let mut world = World::prepared(&[], |bridge| bridge).await;
    let dir = world.bridge.state_dir();
    std::fs::create_dir_all(&dir).unwrap();
    for queue in [Queue::Inbound, Queue::Outbound] {
        let (spool, _) = Spool::open(&dir, limits).unwrap();
        spool.append(queue, ROW.to_vec().into(), None).await.unwrap();
        spool.close().await;
    }
    world.bridge.start().await;
    world.bridge.push(&text_push("413", "after it")).await;
    world.client.expect_text(PUSHED, "after it").await;
    world.client.publish("ilink/send/user/413/text", "after it").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == "ok").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    assert!(world.bridge.log().contains("a row of the inbound queue cannot be read by this version"));
    let (spool, _) = Spool::open(&dir, limits).unwrap();
    for queue in [Queue::Inbound, Queue::Outbound] {
        let rows = spool.read_after(queue, 0, 10, 1 << 20).await.unwrap();
        assert!(rows.iter().any(|row| row.data == ROW), "{queue:?}: {rows:?}");
    }
}
