//! MQTT 5 properties as no honest device sets them.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish, PublishProperties};

use super::storm::{calm, executed, vitals};
use super::{Storm, scaled};
use crate::support::bridge::Bridge;
use crate::support::client::Out;
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::sim::Sim;

/// Where no result may be sent, whoever asks.
fn forbidden() -> Vec<String> {
    let mut topics: Vec<String> = [
        "ilink/send/user/victim/text",
        "ilink/send/topic/victim",
        "ilink/call/ham_group/list",
        "ilink/call/self_test/x",
        "ilink/result/x",
        "ilink/recv/user/413/text",
        "ilink/event/text",
        "ilink/presence/413",
        "ilink/bridge/state",
        "ilink/by/c/send/user/victim/text",
        "ilink/by/c/result/x",
        "ilink/by/c/ack/x",
        "ilink",
        "ilink/reply/$SYS",
        "homeassistant/light/x/config",
        "zigbee2mqtt/lamp/set",
        "$SYS/broker/x",
        "/",
    ]
    .map(str::to_owned)
    .into();
    topics.push(format!("ilink/reply{}", "/x".repeat(200)));
    topics.push(format!("other/{}", "x".repeat(65_000)));
    topics
}

fn respond_to(topic: &str) -> PublishProperties {
    PublishProperties { response_topic: Some(topic.to_owned()), ..PublishProperties::default() }
}

/// What may come with a command without changing it.
fn burdens() -> Vec<PublishProperties> {
    let none = PublishProperties::default;
    let pairs = |n: usize, len: usize| (0..n).map(|i| (format!("{i}"), "v".repeat(len))).collect::<Vec<_>>();
    vec![
        PublishProperties {
            correlation_data: Some(Bytes::from(vec![0xFF; 65_535])),
            ..respond_to("ilink/reply/large")
        },
        PublishProperties { correlation_data: Some(Bytes::from(vec![7; 65_535])), ..none() },
        PublishProperties { user_properties: pairs(700, 100), ..none() },
        PublishProperties { user_properties: pairs(8, 65_535), ..none() },
        PublishProperties { user_properties: vec![(String::new(), String::new()); 900], ..none() },
        PublishProperties { payload_format_indicator: Some(1), ..none() },
        PublishProperties { message_expiry_interval: Some(u32::MAX), ..none() },
        PublishProperties { content_type: Some("x".repeat(65_535)), ..none() },
        respond_to(&format!("ilink/reply/{}", "x".repeat(65_000))),
    ]
}

#[tokio::test]
async fn change_nothing_and_open_nothing() {
    let mut storm = Storm::ready("properties", |bridge| bridge).await;
    for filter in ["homeassistant/#", "zigbee2mqtt/#", "other/#", "ilink/event/#", "ilink/presence/#"] {
        storm.client.subscribe(filter).await;
    }
    let topic = "ilink/send/user/p/text";
    let mut outs = Vec::new();
    for round in 0..scaled(10) {
        for bad in forbidden() {
            outs.push(Out::new(topic, "x").with(respond_to(&bad)));
        }
        outs.extend(burdens().into_iter().map(|properties| Out::new(topic, [0xFF, 0xFE]).with(properties)));
        if round % 4 == 0 {
            outs.push(storm.good());
        }
    }
    let n = scaled(10) * (forbidden().len() + burdens().len());
    storm.device.send_all(outs).await;
    let results = storm.results("results", n, |message| message.topic == "ilink/result/send/user/p/text").await;
    assert!(results.iter().all(|result| result.json()["status"] == "ok"));
    let replies = storm.client.gather("replies", 2 * scaled(10), |m| m.topic.starts_with("ilink/reply/")).await;
    for reply in &replies {
        let data = reply.properties.correlation_data.as_ref();
        assert_eq!(data.map_or(0, Bytes::len), if reply.topic == "ilink/reply/large" { 65_535 } else { 0 });
    }
    storm.is_over(n).await;
    assert_eq!(storm.status().await.counter("response_topics_ignored"), (scaled(10) * forbidden().len()) as u64);
    assert_eq!(storm.executed("victim").await, [""; 0]);
    let elsewhere = |topic: &str| {
        !["ilink/result/send/user/p/text", "ilink/reply/", "ilink/by/good/"]
            .iter()
            .any(|known| topic.starts_with(known))
    };
    let strays = storm.client.all(|message| elsewhere(&message.topic) && !message.topic.starts_with("test/settle"));
    assert!(strays.is_empty(), "{:.300}", format!("{strays:?}"));
}

#[tokio::test]
async fn of_time_are_kept_to() {
    let mut storm = Storm::ready("expiries", |bridge| bridge).await;
    let topic = "ilink/send/user/late/text";
    // Nobody is told of a message that expired at the broker: so the bridge is there to take each, in time also on a busy
    // machine, and the service is not.
    storm.sim.kill();
    let n = scaled(100);
    storm.device.send_all((0..n).map(|_| Out::new(topic, "x").expires_in(12))).await;
    let results = storm.results("expiries", n, |message| message.topic == "ilink/result/send/user/late/text").await;
    for result in results {
        assert!(["expired", "uncertain"].contains(&result.json()["status"].as_str().unwrap()), "{:?}", result.json());
    }
    // 136 years are no reason to overflow.
    storm.device.send(Out::new("ilink/send/user/patient/text", "x").expires_in(u32::MAX)).await;
    storm.device.settle().await;
    storm.bridge.kill();
    storm.bridge.spawn();
    storm.sim.restart().await;
    storm.bridge.wait_ready().await;
    storm.client.expect_json("ilink/result/send/user/patient/text", |result| result["status"] == "ok").await;
    storm.is_over(n).await;
}

/// What Mosquitto would not pass on, from a broker that passes on everything.
#[tokio::test]
async fn from_a_broker_that_checks_nothing() {
    let broker = ScriptedBroker::bind().await;
    let sim = Sim::start(&[]).await;
    let mut bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim).with("log.level", "info");
    bridge.spawn();
    let mut peer = broker.up().await;
    let begun = tokio::time::Instant::now();
    let topics = ["ilink/send/user/p/text", "ilink/send/user/a\u{1}b/text", "ilink/send/user/+/text", "ilink/send/#"];
    let responses = ["ilink/reply/+", "ilink/reply/#", "#", "", "ilink/reply/\u{1}", "ilink/reply/\u{fffe}"];
    let mut expected = Vec::new();
    let mut pkid = 0;
    for topic in topics {
        for response in responses {
            pkid += 1;
            let properties = PublishProperties { payload_format_indicator: Some(200), ..respond_to(response) };
            let publish = Publish { pkid, ..Publish::new(topic, QoS::AtLeastOnce, "x", Some(properties)) };
            peer.send(Packet::Publish(publish)).await;
            expected.push(pkid);
        }
    }
    let (mut acked, mut results) = (Vec::new(), Vec::new());
    while acked.len() < expected.len() || results.len() < expected.len() {
        match peer.read().await.expect("the bridge stays connected") {
            Packet::PubAck(puback) => acked.push(puback.pkid),
            Packet::Publish(publish) => {
                peer.ack(publish.pkid, PubAckReason::Success).await;
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                if !topic.starts_with("ilink/bridge/") && !topic.starts_with("ilink/call/self_test/") {
                    results.push(topic);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acked, expected);
    let count = |wanted: &str| results.iter().filter(|topic| *topic == wanted).count();
    for topic in ["send/user/p/text", "send/user/a%01b/text", "send/user/%2B/text", "send/%23"] {
        assert_eq!(count(&format!("ilink/result/{topic}")), responses.len(), "{results:?}");
    }
    assert_eq!(executed(&sim, "p").await.len(), responses.len());
    let rss = vitals(&mut bridge).0;
    calm(&mut bridge, "a lenient broker", expected.len(), rss, begun.elapsed()).await;
}
