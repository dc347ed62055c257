//! A broker that delivers again, and again, and uses packet ids as it likes: what it delivers a second time is not executed a
//! second time, what is new is.

use std::collections::HashSet;

use super::scaled;
use super::storm::{Status, calm, vitals};
use super::v4_broker::V4Broker;
use crate::support::bridge::Bridge;
use crate::support::scripted_broker::{Peer, ScriptedBroker, limits};
use crate::support::sim::Sim;
use bytes::Bytes;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish};

/// A connection of either version.
pub(super) trait Link {
    /// Delivers a QoS 1 command.
    async fn command(&mut self, topic: &str, payload: &[u8], pkid: u16, dup: bool);

    /// Reads on: a PUBACK of ours, or the topic of a publish, which it acknowledges.
    async fn next(&mut self) -> Got;
}

pub(super) enum Got {
    Acked(u16),
    Published(String, Bytes),
}

pub(super) trait Broker {
    type Link: Link;

    /// The next connection, with the session continued or not, ready for commands.
    async fn connection(&self, session_present: bool) -> Self::Link;
}

impl Link for Peer {
    async fn command(&mut self, topic: &str, payload: &[u8], pkid: u16, dup: bool) {
        let publish = Publish { pkid, dup, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None) };
        self.send(Packet::Publish(publish)).await;
    }

    async fn next(&mut self) -> Got {
        match self.read().await.expect("the bridge stays connected") {
            Packet::PubAck(puback) => Got::Acked(puback.pkid),
            Packet::Publish(publish) => {
                self.ack(publish.pkid, PubAckReason::Success).await;
                Got::Published(String::from_utf8(publish.topic.to_vec()).unwrap(), publish.payload)
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Broker for ScriptedBroker {
    type Link = Peer;

    async fn connection(&self, session_present: bool) -> Peer {
        let mut peer = self.accept(session_present, limits()).await.0;
        peer.up().await;
        peer
    }
}

/// The ids of all results so far: one may come again on the next connection, under its id.
type Results = HashSet<String>;

/// Delivers these, a few in flight at once, and waits until each is acknowledged, in order, and `results` new results came.
async fn deliver(link: &mut impl Link, seen: &mut Results, commands: &[(u16, String, bool)], results: usize) {
    let (mut acked, mut sent) = (0, 0);
    let enough = seen.len() + results;
    while acked < commands.len() || seen.len() < enough {
        while sent < commands.len() && sent < acked + 50 {
            let (pkid, payload, dup) = &commands[sent];
            link.command("ilink/send/user/p/text", payload.as_bytes(), *pkid, *dup).await;
            sent += 1;
        }
        match link.next().await {
            Got::Acked(pkid) => {
                assert_eq!(pkid, commands[acked].0, "out of order");
                acked += 1;
            }
            Got::Published(topic, payload) if topic.starts_with("ilink/result/") => {
                let result: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(result["status"], "ok", "{result}");
                seen.insert(result["id"].to_string());
            }
            Got::Published(..) => {}
        }
    }
    assert_eq!(seen.len(), enough, "executed again");
}

async fn storm(name: &'static str, broker: impl Broker, mut bridge: Bridge, sim: Sim) {
    let begun = tokio::time::Instant::now();
    let mut seen = Results::new();
    let n = u16::try_from(scaled(200).min(5000)).unwrap();
    bridge.spawn();
    let mut link = broker.connection(false).await;
    let rss = vitals(&mut bridge).0;
    // DUP set in a new session, or for what we never had, says nothing: each is new.
    let unknown: Vec<_> = (1..=n).map(|pkid| (pkid, format!("a{pkid}"), true)).collect();
    deliver(&mut link, &mut seen, &unknown, usize::from(n)).await;
    let mut calls = u64::from(n);
    for round in 0..3 {
        drop(link);
        link = broker.connection(true).await;
        // All of it again, twice over, as brokers do after some reconnects: nothing is executed.
        deliver(&mut link, &mut seen, &unknown, 0).await;
        deliver(&mut link, &mut seen, &unknown, 0).await;
        if round < 2 {
            continue;
        }
        // The same packet ids and bytes without DUP: somebody pressed again.
        let again: Vec<_> = unknown.iter().take(20).map(|(pkid, text, _)| (*pkid, text.clone(), false)).collect();
        deliver(&mut link, &mut seen, &again, 20).await;
        // The same packet id with other bytes and DUP.
        let other: Vec<_> = (0..20).map(|i| (7, format!("b{i}"), true)).collect();
        deliver(&mut link, &mut seen, &other, 20).await;
        calls += 40;
    }
    // Killed: the keys are durable.
    bridge.kill();
    drop(link);
    bridge.spawn();
    let mut link = broker.connection(true).await;
    let kept: Vec<_> = unknown.iter().filter(|(pkid, ..)| *pkid != 7).cloned().collect();
    deliver(&mut link, &mut seen, &kept, 0).await;
    assert_eq!(Status::of(&bridge).await.counter("commands_redelivered"), kept.len() as u64);
    // Another session: packet ids begin anew.
    drop(link);
    let mut link = broker.connection(false).await;
    deliver(&mut link, &mut seen, &unknown, usize::from(n)).await;
    calls += u64::from(n);
    assert_eq!(seen.len() as u64, calls);
    let executed = sim.calls("send_msg").await.len() as u64;
    assert_eq!(executed, calls.min(1000), "the service remembers its last thousand");
    let all = usize::from(n) * 9;
    calm(&mut bridge, name, all, rss, begun.elapsed()).await;
}

#[tokio::test]
async fn on_mqtt_5() {
    let (broker, sim) = (ScriptedBroker::bind().await, Sim::start(&[]).await);
    let bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim).with("log.level", "info");
    storm("redelivery, MQTT 5", broker, bridge, sim).await;
}

#[tokio::test]
async fn on_mqtt_3() {
    let (broker, sim) = (V4Broker::bind().await, Sim::start(&[]).await);
    let bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim)
        .with("log.level", "info")
        .with("mqtt.protocol", "3.1.1")
        .with_toml("mqtt.persistent_session", "true");
    storm("redelivery, MQTT 3.1.1", broker, bridge, sim).await;
}
