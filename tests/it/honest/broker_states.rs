//! What the broker can do to us: told with cause and remedy where an operator looks, in one line of the log each way, with a
//! bounded number of attempts.

use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet};
use serde_json::Value;

use super::shown::Shown;
use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::deserted::Deserted;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;
use crate::support::scripted_broker::{ScriptedBroker, limits};
use crate::support::sim::Sim;

const CANNOT: &str = "cannot connect to the broker; messages wait";

/// A bridge whose service is away, which is none of the broker's business.
fn bridge(url: &str) -> Bridge {
    let nobody = Mosquitto::start("");
    Bridge::new(&nobody, &Sim::absent(&[])).with("mqtt.broker", url).with("log.level", "info")
}

async fn told(bridge: &Bridge, says: &[&str]) {
    bridge.logged(says[0]).await;
    let shown = Shown::of(bridge).await;
    shown.not_ready("broker", says);
    shown.not_ready("subscriptions", &["the broker is not connected"]);
    shown.status_says("broker          not ready since ", says);
}

#[tokio::test]
async fn what_keeps_a_connection_from_standing() {
    let plain = Mosquitto::start("");
    let locked = Mosquitto::start("allow_anonymous false\n");
    let nobody = Deserted::new();
    for (url, says) in [
        (nobody.url("mqtt"), &["refuses the connection", "is the broker running", "mqtt.broker"][..]),
        ("mqtt://does-not-exist.invalid".to_owned(), &["cannot be resolved", "check mqtt.broker and the DNS"]),
        (locked.url(), &["does not authorise", "it wants mqtt.username and mqtt.password"]),
        (plain.url().replace("mqtt:", "mqtts:"), &["TLS", "is it a TLS port"]),
    ] {
        let mut bridge = bridge(&url);
        bridge.spawn();
        told(&bridge, says).await;
        // Some more attempts are no news.
        let failures = |status: &str| {
            status.lines().find_map(|line| line.trim().strip_prefix("broker_failures ")?.parse::<u64>().ok())
        };
        eventually("a third attempt", async || (failures(&bridge.verb(&["status"]).await.text)? >= 3).then_some(()))
            .await;
        Shown::of(&bridge).await.one_line(&bridge.log(), "WARN", CANNOT, says);
        bridge.kill();
    }
}

#[tokio::test]
async fn a_broker_that_hangs_and_one_that_is_too_old() {
    let silent = ScriptedBroker::bind().await;
    let old = ScriptedBroker::bind().await;
    let mut waiting = bridge(&format!("mqtt://127.0.0.1:{}", silent.port()));
    waiting.spawn();
    let _peer = silent.tcp().await;
    let mut refused = bridge(&format!("mqtt://127.0.0.1:{}", old.port()));
    refused.spawn();
    tokio::spawn(async move {
        loop {
            let mut peer = old.tcp().await;
            if peer.read().await.is_some() {
                let code = ConnectReturnCode::UnsupportedProtocolVersion;
                peer.send(Packet::ConnAck(ConnAck { session_present: false, code, properties: None })).await;
            }
        }
    });
    told(&refused, &["does not speak this version of MQTT", "set mqtt.protocol = \"3.1.1\""]).await;
    told(&waiting, &["no answer from 127.0.0.1", "is it the broker's address, is a firewall in between"]).await;
}

#[tokio::test]
async fn a_broker_that_ends_every_connection() {
    let broker = ScriptedBroker::bind().await;
    let mut bridge = bridge(&format!("mqtt://127.0.0.1:{}", broker.port()));
    bridge.spawn();
    drop(broker.up().await);
    told(&bridge, &["closed the connection"]).await;
    let mut peer = broker.up().await;
    // DISCONNECT, "session taken over"; the codec would leave the reason out.
    peer.send_bytes(&[0xE0, 2, 0x8E, 0]).await;
    told(&bridge, &["another client connected to 127.0.0.1", "give each its own mqtt.client_id"]).await;
    drop(broker.up().await);
    told(&bridge, &["3 times in a row", "another client uses the client id", "mqtt.client_id"]).await;
    let mut peer = broker.up().await;
    // DISCONNECT, "server shutting down", as Mosquitto writes it: a reason and no properties.
    peer.send_bytes(&[0xE0, 1, 0x8B]).await;
    told(&bridge, &["it is shutting down"]).await;
    // And it is over when one stands.
    let mut peer = broker.accept(false, limits()).await.0;
    peer.up().await;
    let served = async {
        peer.serve().await;
    };
    let seen = async {
        eventually("the broker to be ready", async || {
            let ready = bridge.admin("readyz").await.json();
            (ready["broker"]["ready"] == true && ready["broker"]["cause"] == Value::Null).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = served => panic!("the bridge left"),
        () = seen => {}
    }
}

#[tokio::test]
async fn attempts_are_few_and_so_are_lines() {
    let mosquitto = Mosquitto::start("");
    // Every connection is cut at once.
    let proxy = Proxy::start(mosquitto.port(), || Some(0)).await;
    let mut bridge = bridge(&format!("mqtt://127.0.0.1:{}", proxy.port()));
    let began = std::time::Instant::now();
    bridge.spawn();
    told(&bridge, &["closed the connection instead of answering CONNECT", "is it a TLS port"]).await;
    eventually("a fifth attempt", async || (proxy.connections() >= 5).then_some(())).await;
    // The waits before it are 0.5, 1, 2 and 4 s, each at least half as long.
    assert!(began.elapsed() > std::time::Duration::from_millis(3700), "{:?}", began.elapsed());
    Shown::of(&bridge).await.one_line(&bridge.log(), "WARN", CANNOT, &["is it a TLS port"]);
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_is_two_lines() {
    let mut world = World::prepared(&[], |bridge| bridge.with("log.level", "info")).await;
    world.bridge.start().await;
    world.broker.stop();
    told(&world.bridge, &["refuses the connection"]).await;
    world.broker.restart();
    world.bridge.wait_ready().await;
    let log = world.bridge.log();
    assert_eq!(log.matches("the connection to the broker was lost; messages wait").count(), 1, "{log}");
    assert!(log.matches(CANNOT).count() <= 1, "{log}");
    assert_eq!(log.matches(" connected to the broker").count(), 2, "{log}");
    let shown = Shown::of(&world.bridge).await;
    shown.status_says("broker          ready since ", &[]);
}

/// A broker with this ACL, and a bridge on it.
async fn with_acl(acl: &std::path::Path, lines: &str) -> World {
    std::fs::write(acl, lines).unwrap();
    let conf = format!("acl_file {}\nmax_queued_messages 1000\n", acl.display());
    World::prepared_on(&conf, &[], |bridge| bridge.with("log.level", "info")).await
}

#[tokio::test]
async fn a_publish_that_the_acl_denies_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    let denied = "topic read #\ntopic write ilink/bridge/#\ntopic write ilink/event/#\ntopic write ilink/call/#\ntopic write test/#\n";
    let mut world = with_acl(&acl, denied).await;
    world.bridge.start().await;
    for n in 0..20 {
        world.bridge.push(&text_push(&n.to_string(), "x")).await;
    }
    let says = ["not authorized", "the broker's ACL needs: topic write ilink/recv/#"];
    let refused = |health: &Value| health["broker"]["refused"].as_array().cloned().unwrap_or_default();
    let health = world.client.expect_json("ilink/bridge/health", |health| refused(health).len() == 1).await;
    let entry = &refused(&health)[0];
    assert!(entry["topic"].as_str().is_some_and(|topic| topic.starts_with("ilink/recv/user/")), "{entry}");
    assert!(says.iter().all(|says| entry["cause"].as_str().is_some_and(|cause| cause.contains(says))), "{entry}");
    assert!(humantime::parse_rfc3339(entry["since"].as_str().unwrap()).is_ok(), "{entry}");
    eventually("all to be set aside", async || {
        world
            .bridge
            .verb(&["status"])
            .await
            .text
            .lines()
            .any(|line| line.starts_with("set aside       20 kept"))
            .then_some(())
    })
    .await;
    let shown = Shown::of(&world.bridge).await;
    shown.status_says("refused         ilink/recv/user/", &says);
    shown.one_line(&world.bridge.log(), "WARN", "the broker refused a publish for good; it is set aside", &says);

    std::fs::write(&acl, format!("{denied}topic write ilink/recv/#\n")).unwrap();
    world.broker.restart();
    world.bridge.wait_ready().await;
    // What is sent to the topic that was refused last is taken.
    world.bridge.push(&text_push("19", "y")).await;
    world.client.expect_text("ilink/recv/user/19/text", "y").await;
    world.bridge.logged("the broker takes publishes to \"ilink/recv\" again").await;
    world.client.expect_json("ilink/bridge/health", |health| refused(health).is_empty()).await;
    assert!(!Shown::of(&world.bridge).await.status_has("refused "));
}

#[tokio::test]
async fn subscriptions_that_the_acl_denies_in_silence_and_their_end() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    let denied = "topic readwrite ilink/bridge/#\ntopic write #\ntopic read ilink/recv/#\ntopic read test/#\n";
    let mut world = with_acl(&acl, denied).await;
    world.bridge.spawn();
    let says = ["topic read ilink/send/#", "topic read ilink/call/#"];
    world.bridge.logged("commands do not arrive").await;
    let shown = Shown::of(&world.bridge).await;
    shown.not_ready("subscriptions", &says);
    shown.status_says("subscriptions   not ready since ", &says);
    shown.one_line(&world.bridge.log(), "WARN", "commands do not arrive", &says);
    std::fs::write(&acl, "topic readwrite #\n").unwrap();
    world.broker.restart();
    world.bridge.wait_ready().await;
    world.bridge.logged("commands arrive: our own probe was heard").await;
}
