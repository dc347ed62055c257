//! A broker that does not take a message at once, and the whole bridge: nothing is lost, and each sender's order stays.

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::support::DEADLINE;
use crate::support::bridge::{Bridge, text_push};
use crate::support::eventually;
use crate::support::scripted_broker::{Peer, ScriptedBroker};
use crate::support::sim::Sim;

const LAMP: &str = "ilink/recv/user/413/text";

/// A bridge at such a broker, whose service is away.
fn bridge(broker: &ScriptedBroker) -> Bridge {
    let broker = format!("mqtt://127.0.0.1:{}", broker.port());
    Bridge::at(&broker, &Sim::absent(&[])).with("mqtt.output", "raw")
}

/// What the lamp was told on this connection until it is told `last`.
async fn told(peer: &mut Peer, last: &str, mut refused: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(publish) = peer.publish().await {
        if publish.topic != LAMP {
            peer.ack(publish.pkid, PubAckReason::Success).await;
            continue;
        }
        let text = String::from_utf8(publish.payload.to_vec()).unwrap();
        if refused(&text) {
            peer.ack(publish.pkid, PubAckReason::UnspecifiedError).await;
            continue;
        }
        peer.ack(publish.pkid, PubAckReason::Success).await;
        told.push(text);
        // Everything before it has been told by then, whatever was refused in between.
        if told.last().is_some_and(|text| text == last) && told.contains(&"on1".to_owned()) {
            break;
        }
    }
    told
}

#[tokio::test]
async fn one_refusal_does_not_leave_the_lamp_on() {
    let broker = ScriptedBroker::bind().await;
    let mut bridge = bridge(&broker);
    bridge.spawn();
    let mut peer = broker.up().await;
    let mut tries = 0;
    let mut lamp = tokio::spawn(async move {
        let refused = |text: &str| {
            tries += usize::from(text == "on1");
            text == "on1" && tries == 1
        };
        let told = told(&mut peer, "off4", refused).await;
        (peer, told)
    });
    for text in ["on1", "off2", "on3", "off4"] {
        bridge.push(&text_push("413", text)).await;
    }
    let ended = tokio::time::timeout(DEADLINE, &mut lamp).await;
    let (_peer, told) = ended.expect("the lamp is told off4 after on1").unwrap();
    let order: Vec<_> = told[told.iter().position(|text| text == "on1").unwrap()..].to_vec();
    assert_eq!(order, ["on1", "off2", "on3", "off4"], "{told:?}");
}

#[tokio::test]
async fn a_broker_that_dies_at_each_message_for_a_while_gets_them_all_in_order() {
    let broker = ScriptedBroker::bind().await;
    let mut bridge = bridge(&broker);
    bridge.spawn();
    let mut peer = broker.up().await;
    for text in ["on1", "off2"] {
        bridge.push(&text_push("413", text)).await;
    }
    // More deaths than once were enough to be set aside.
    for _ in 0..9 {
        peer.publish().await.expect("a message");
        drop(peer);
        peer = broker.up().await;
    }
    let (done, mut is_done) = mpsc::channel(1);
    let lamp = tokio::spawn(async move {
        let told = told(&mut peer, "off2", |_| false).await;
        done.send(told).await.unwrap();
        peer.serve().await;
    });
    let told = tokio::time::timeout(DEADLINE, is_done.recv()).await.expect("the lamp is told off").unwrap();
    assert_eq!(told, ["on1", "off2"]);
    eventually("all to be delivered", async || {
        let status: Value = serde_json::from_str(&bridge.verb(&["status", "--json"]).await.stdout).ok()?;
        let counters = &status["health"]["counters"];
        assert_eq!(counters["publishes_set_aside"], 0);
        (counters["pushes_delivered"] == 2).then_some(())
    })
    .await;
    lamp.abort();
}
