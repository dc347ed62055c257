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

    /// Reads on: a PUBACK of ours, or a publish.
    async fn next(&mut self) -> Got;

    /// Acknowledges a publish, by which the bridge knows that the broker has what came before it.
    async fn acknowledge(&mut self, pkid: u16);
}

pub(super) enum Got {
    Acked(u16),
    Published(u16, String, Bytes),
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
        loop {
            match self.read_any().await.expect("the bridge stays connected") {
                Packet::PubAck(puback) => return Got::Acked(puback.pkid),
                Packet::Publish(publish) => {
                    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    return Got::Published(publish.pkid, topic, publish.payload);
                }
                // An answer would tell, too.
                Packet::PingReq(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn acknowledge(&mut self, pkid: u16) {
        self.ack(pkid, PubAckReason::Success).await;
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

/// Whether the broker answers what the bridge publishes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    Yes,
    No,
}

/// Delivers these, a few in flight at once, and waits until each is acknowledged, in order, and `results` new results came.
async fn deliver(
    link: &mut impl Link,
    answers: Answers,
    seen: &mut Results,
    commands: &[(u16, String, bool)],
    results: usize,
) {
    let (mut acked, mut sent) = (0, 0);
    let enough = seen.len() + results;
    while acked < commands.len() || seen.len() < enough {
        while sent < commands.len() && sent < acked + 50 {
            let (pkid, payload, dup) = &commands[sent];
            // To several receivers, so that their results do not wait for each other.
            let topic = format!("ilink/send/user/p{}/text", pkid % 8);
            link.command(&topic, payload.as_bytes(), *pkid, *dup).await;
            sent += 1;
        }
        match link.next().await {
            Got::Acked(pkid) => {
                assert_eq!(pkid, commands[acked].0, "out of order");
                acked += 1;
            }
            Got::Published(pkid, topic, payload) => {
                if answers == Answers::Yes {
                    link.acknowledge(pkid).await;
                }
                if topic.starts_with("ilink/result/") {
                    let result: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                    assert_eq!(result["status"], "ok", "{result}");
                    seen.insert(result["id"].to_string());
                }
            }
        }
    }
    assert_eq!(seen.len(), enough, "executed again");
}

/// The results of these and of as many more may all be in flight at once; and the bridge gives up a broker that answers nothing
/// for a minute.
const UNANSWERED: u16 = 20;

async fn storm(name: &'static str, broker: impl Broker, mut bridge: Bridge, sim: Sim) {
    let begun = tokio::time::Instant::now();
    let mut seen = Results::new();
    let n = u16::try_from(scaled(200).min(5000)).unwrap();
    bridge.spawn();
    let mut link = broker.connection(false).await;
    let rss = vitals(&mut bridge).0;
    // DUP set in a new session, or for what we never had, says nothing: each is new.
    let unknown: Vec<_> = (1..=n).map(|pkid| (pkid, format!("a{pkid}"), true)).collect();
    deliver(&mut link, Answers::Yes, &mut seen, &unknown, usize::from(n)).await;
    let mut calls = u64::from(n);
    // From here on the broker answers nothing: nobody knows which of our PUBACKs it has.
    drop(link);
    link = broker.connection(true).await;
    let unknown: Vec<_> = (1..=UNANSWERED).map(|pkid| (pkid, format!("c{pkid}"), false)).collect();
    deliver(&mut link, Answers::No, &mut seen, &unknown, usize::from(UNANSWERED)).await;
    calls += u64::from(UNANSWERED);
    let unknown: Vec<_> = unknown.into_iter().map(|(pkid, text, _)| (pkid, text, true)).collect();
    // Once: a connection that is lost again and again makes the bridge suspect what was in flight.
    drop(link);
    link = broker.connection(true).await;
    // All of it again, twice over, as brokers do after some reconnects: nothing is executed.
    deliver(&mut link, Answers::No, &mut seen, &unknown, 0).await;
    deliver(&mut link, Answers::No, &mut seen, &unknown, 0).await;
    // The same packet ids and bytes without DUP: somebody pressed again.
    let again: Vec<_> = unknown.iter().take(10).map(|(pkid, text, _)| (*pkid, text.clone(), false)).collect();
    deliver(&mut link, Answers::No, &mut seen, &again, 10).await;
    // The same packet id with other bytes and DUP.
    let other: Vec<_> = (0..10).map(|i| (7, format!("b{i}"), true)).collect();
    deliver(&mut link, Answers::No, &mut seen, &other, 10).await;
    calls += 20;
    // Killed: the keys are durable.
    bridge.kill();
    drop(link);
    bridge.spawn();
    let mut link = broker.connection(true).await;
    let kept: Vec<_> = unknown.iter().filter(|(pkid, ..)| *pkid != 7).cloned().collect();
    deliver(&mut link, Answers::No, &mut seen, &kept, 0).await;
    assert_eq!(Status::of(&bridge).await.counter("commands_redelivered"), kept.len() as u64);
    // Another session: packet ids begin anew.
    drop(link);
    let mut link = broker.connection(false).await;
    deliver(&mut link, Answers::Yes, &mut seen, &unknown, usize::from(UNANSWERED)).await;
    calls += u64::from(UNANSWERED);
    assert_eq!(seen.len() as u64, calls);
    let executed = sim.calls("send_msg").await.len() as u64;
    assert_eq!(executed, calls.min(1000), "the service remembers its last thousand");
    calm(&mut bridge, name, usize::from(n) + 6 * usize::from(UNANSWERED), rss, begun.elapsed()).await;
}

/// Reads until the command is acknowledged and `results` results were answered.
async fn settle(link: &mut impl Link, pkid: u16, results: usize) {
    let (mut acked, mut seen) = (false, 0);
    while !acked || seen < results {
        match link.next().await {
            Got::Acked(of) => acked |= of == pkid,
            Got::Published(of, topic, _) => {
                link.acknowledge(of).await;
                seen += usize::from(topic.starts_with("ilink/result/"));
            }
        }
    }
}

/// What a broker does that takes the lowest free packet id, when the connection breaks at the second of two equal commands.
async fn lowest_free_packet_id(broker: impl Broker, mut bridge: Bridge, sim: Sim) {
    let toggle = "ilink/send/user/p/text";
    bridge.spawn();
    let mut link = broker.connection(false).await;
    link.command(toggle, b"toggle", 1, false).await;
    settle(&mut link, 1, 1).await;
    // Refused, but it shows that all before it was read.
    link.command("ilink/send/user/p/text", b"", 9, false).await;
    settle(&mut link, 9, 1).await;
    // It was never read: what comes next is its first delivery, to us.
    drop(link);
    let mut link = broker.connection(true).await;
    link.command(toggle, b"toggle", 1, true).await;
    settle(&mut link, 1, 1).await;
    assert_eq!(sim.calls("send_msg").await.len(), 2, "it was taken for a redelivery");
    // Another one carries to the disk that the broker is done with the first.
    link.command(toggle, b"other", 2, false).await;
    settle(&mut link, 2, 1).await;
    bridge.kill();
    drop(link);
    bridge.spawn();
    let mut link = broker.connection(true).await;
    link.command(toggle, b"toggle", 1, true).await;
    settle(&mut link, 1, 0).await;
    sim.calls_until("send_msg", "it, executed also after the restart", |calls| calls.len() == 4).await;
}

#[tokio::test]
async fn an_equal_command_under_a_packet_id_that_is_free_again_is_new() {
    let (broker, sim) = (ScriptedBroker::bind().await, Sim::start(&[]).await);
    let bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim);
    lowest_free_packet_id(broker, bridge, sim).await;
}

#[tokio::test]
async fn an_equal_command_under_a_packet_id_that_is_free_again_is_new_with_mqtt_3() {
    let (broker, sim) = (V4Broker::bind().await, Sim::start(&[]).await);
    let bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim)
        .with("mqtt.protocol", "3.1.1")
        .with_toml("mqtt.persistent_session", "true");
    lowest_free_packet_id(broker, bridge, sim).await;
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
