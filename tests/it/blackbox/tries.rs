//! How often a command leaves, how late, and what is known of that after a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud};
use crate::support::sim::Sim;

const TOPIC: &str = "ilink/call/send_msg/text";

/// A service that answers all but `send_msg` well, and that as told, by its number.
async fn cloud(send_msg: impl Fn(usize) -> Behaviour + Send + Sync + 'static) -> (ScriptedCloud, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let cloud = ScriptedCloud::start_with(move |request| match request.call() {
        "send_msg" => send_msg(count.fetch_add(1, Ordering::SeqCst)),
        "get_access_token" => Behaviour::reply(r#"{"code":0,"access_token":"a-token","expires_in":7200}"#),
        _ => Behaviour::reply(r#"{"code":0}"#),
    })
    .await;
    (cloud, seen)
}

/// A bridge to it.
async fn bridge_to(cloud: &ScriptedCloud, configure: impl FnOnce(Bridge) -> Bridge) -> (Bridge, Client, Mosquitto) {
    let broker = Mosquitto::start("");
    let bridge = Bridge::new(&broker, &Sim::absent(&[])).with("ilink.api", cloud.api.as_str());
    let mut bridge = configure(bridge);
    bridge.start().await;
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    (bridge, client, broker)
}

fn command(ttl: u64) -> String {
    json!({"accept_uid": "413", "content": "open the door", "ttl": ttl}).to_string()
}

async fn result(client: &Client) -> Value {
    client.expect("ilink/result/call/send_msg/text").await.json()
}

fn ended(result: &Value) -> (&str, u64) {
    (result["status"].as_str().unwrap_or_default(), result["attempts"].as_u64().unwrap_or_default())
}

#[tokio::test]
async fn what_may_have_been_executed_is_tried_three_times_in_all() {
    for answer in [Behaviour::Close, Behaviour::reply("no JSON"), Behaviour::reply(r#"{"code":1017}"#)] {
        let what = format!("{answer:?}");
        let (cloud, seen) = cloud(move |_| answer.clone()).await;
        let (_bridge, client, _broker) = bridge_to(&cloud, |bridge| bridge).await;
        client.publish(TOPIC, command(3600)).await;
        let result = result(&client).await;
        assert_eq!(ended(&result), ("uncertain", 3), "{what}: {result}");
        assert_eq!(seen.load(Ordering::SeqCst), 3, "{what}");
    }
}

#[tokio::test]
async fn what_certainly_was_not_executed_does_not_count() {
    let answers = |n| match n {
        0 | 2 | 3 => Behaviour::reply(r#"{"code":1016}"#),
        1 | 4 => Behaviour::Close,
        _ => Behaviour::reply(r#"{"code":0}"#),
    };
    // Side by side: each waits half a minute in all before it tries again.
    let all = [(3, ("ok", 6)), (2, ("uncertain", 5)), (0, ("ok", 6))].map(async |(tries, expected)| {
        let (cloud, _) = cloud(answers).await;
        let configure = |bridge: Bridge| bridge.with_toml("outbound.ambiguous_tries", &tries.to_string());
        let (_bridge, client, _broker) = bridge_to(&cloud, configure).await;
        client.publish(TOPIC, command(3600)).await;
        let result = result(&client).await;
        assert_eq!(ended(&result), expected, "{tries}: {result}");
    });
    join_all(all).await;
}

#[tokio::test]
async fn whoever_stands_in_front_is_asked_until_it_expires_and_no_sooner_than_it_says() {
    let (cloud, _) = cloud(|n| match n {
        0 => Behaviour::response("503 Service Unavailable", "Retry-After: 4\r\n", "busy"),
        1 => Behaviour::response("502 Bad Gateway", "", "<html>"),
        _ => Behaviour::reply(r#"{"code":0}"#),
    })
    .await;
    let configure = |bridge: Bridge| bridge.with_toml("outbound.ambiguous_tries", "1");
    let (_bridge, client, _broker) = bridge_to(&cloud, configure).await;
    client.publish(TOPIC, command(3600)).await;
    let result = result(&client).await;
    assert_eq!(ended(&result), ("ok", 3), "{result}");
    assert!(result["elapsed_ms"].as_u64().unwrap() >= 4000, "{result}");
}

/// The service kills the bridge with the request in its hands.
async fn killed_while_calling(tries: &str, ttl: u64) -> (Bridge, Client, Mosquitto, ScriptedCloud, Arc<AtomicUsize>) {
    let victim = Arc::new(AtomicUsize::new(0));
    let pid = Arc::clone(&victim);
    let (cloud, seen) = cloud(move |n| {
        if n == 0 {
            let pid = i32::try_from(pid.load(Ordering::SeqCst)).unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            return Behaviour::Hang;
        }
        Behaviour::reply(r#"{"code":0}"#)
    })
    .await;
    let configure = |bridge: Bridge| bridge.with_toml("outbound.ambiguous_tries", tries);
    let (mut bridge, client, broker) = bridge_to(&cloud, configure).await;
    victim.store(usize::try_from(bridge.process().id()).unwrap(), Ordering::SeqCst);
    client.publish(TOPIC, command(ttl)).await;
    bridge.process().ended().await;
    (bridge, client, broker, cloud, seen)
}

#[tokio::test]
async fn a_killed_bridge_knows_that_the_command_may_have_been_executed() {
    // Its life is long enough for a first call on a busy machine, and passes while the bridge is away.
    const LIFE: u64 = 8;
    let all = [(); 3].map(async |()| {
        let (mut bridge, client, _broker, _cloud, seen) = killed_while_calling("3", LIFE).await;
        tokio::time::sleep(Duration::from_millis(LIFE * 1000 + 100)).await;
        bridge.start().await;
        let result = result(&client).await;
        assert_eq!(ended(&result), ("uncertain", 1), "{result}");
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    });
    join_all(all).await;
}

#[tokio::test]
async fn tries_are_counted_across_a_crash() {
    for (tries, expected, calls) in [("1", ("uncertain", 1), 1), ("2", ("ok", 2), 2)] {
        let (mut bridge, client, _broker, _cloud, seen) = killed_while_calling(tries, 3600).await;
        bridge.start().await;
        let result = result(&client).await;
        assert_eq!(ended(&result), expected, "{result}");
        assert_eq!(seen.load(Ordering::SeqCst), calls);
    }
}

#[tokio::test]
async fn a_command_is_not_sent_late_because_the_token_was() {
    let world = World::ready().await;
    world.sim.answer_code("send_msg", 1008, 1).await;
    world.sim.fault(&json!({"path": "get_access_token", "mode": "delay", "delay_s": 8})).await;
    // Long enough for a first call on a busy machine.
    world.client.publish(TOPIC, command(6)).await;
    let result = result(&world.client).await;
    assert_eq!(ended(&result), ("expired", 1), "{result}");
    // What comes after it finds the new token.
    world.client.publish("ilink/send/user/413/text", "next").await;
    assert_eq!(world.client.expect("ilink/result/send/user/413/text").await.json()["status"], "ok");
    assert_eq!(world.sim.calls("send_msg").await.len(), 2, "it was sent again");
}
