//! Giants.

use serde_json::json;

use super::{Storm, scaled};
use crate::support::client::Out;

const KIB: usize = 1024;

#[tokio::test]
async fn over_the_content_limit_are_refused_and_over_the_packet_limit_never_come() {
    let mut storm = Storm::ready("giants, MQTT 5", |bridge| bridge).await;
    let topic = "ilink/send/user/g/text";
    let refused = [256 * KIB + 1, 500 * KIB, 1000 * KIB];
    let rounds = scaled(4);
    for _ in 0..rounds {
        let mut outs: Vec<Out> = refused.iter().map(|len| Out::new(topic, vec![b'x'; *len])).collect();
        // Six times as many bytes as characters, and just too many of those.
        let escaped = format!(r#"{{"accept_uid":"g","content":"{}","ref":1}}"#, "\\u0041".repeat(150 * KIB));
        assert!(escaped.len() < 1000 * KIB);
        outs.push(Out::new("ilink/call/send_msg/text", escaped));
        outs.push(Out::new(topic, vec![b'x'; 2 * KIB * KIB]));
        outs.push(storm.good());
        storm.device.send_all(outs).await;
    }
    let results =
        storm.results("refusals", refused.len() * rounds, |m| m.topic == "ilink/result/send/user/g/text").await;
    for result in results {
        assert_eq!(result.json()["name"], "too_large");
    }
    let fits = storm.results("results", rounds, |m| m.topic == "ilink/result/call/send_msg/text").await;
    assert!(fits.iter().all(|result| result.json()["status"] == "ok"));
    storm.is_over(rounds * 5).await;
    let status = storm.status().await;
    assert_eq!(status.counter("commands_rejected"), (refused.len() * rounds) as u64);
    assert_eq!(status.counter("broker_connects"), 1);
}

#[tokio::test]
async fn on_mqtt_3_are_refused_by_us() {
    let mut storm = Storm::ready("giants, MQTT 3.1.1", |bridge| bridge.with("mqtt.protocol", "3.1.1")).await;
    let rounds = scaled(3);
    for i in 0..rounds {
        let fields = vec![r#""a":1"#; 500_000].join(",");
        let outs = [
            Out::new("ilink/send/user/g/text", vec![b'x'; 3 * KIB * KIB]),
            // Parsed, it would be many times as large.
            Out::new("ilink/call/send_msg/text", format!("{{{fields}}}")),
            Out::new(
                "ilink/call/send_msg/text",
                json!({"accept_uid": "g", "content": "x".repeat(2 * KIB * KIB), "ref": i}).to_string(),
            ),
            storm.good(),
        ];
        storm.device.send_all(outs).await;
    }
    let is_refusal =
        |topic: &str| topic == "ilink/result/send/user/g/text" || topic == "ilink/result/call/send_msg/text";
    let results = storm.results("refusals", 3 * rounds, |m| is_refusal(&m.topic)).await;
    for result in results {
        assert_eq!(result.json()["name"], "too_large");
        assert!(result.json()["message"].as_str().unwrap().contains("mqtt.max_packet"));
    }
    storm.is_over(3 * rounds).await;
    assert_eq!(storm.status().await.counter("broker_connects"), 1);
}

/// Each is taken, and none is refused for its size: at QoS 0 nothing but our own bounds keeps them from filling the memory.
#[tokio::test]
async fn that_are_just_allowed_do_not_pile_up_in_memory() {
    let mut storm = Storm::ready("giants, QoS 0", |bridge| bridge.with("spool.max_bytes", "4MiB")).await;
    storm.sim.kill();
    let n = scaled(40);
    let out = |i: usize| Out::new(&format!("ilink/send/user/g{i}/text"), vec![b'x'; 256 * KIB]).qos0();
    storm.device.send_all((0..n).map(out)).await;
    let full =
        |m: &crate::support::client::Message| m.topic.starts_with("ilink/result/") && m.json()["name"] == "queue_full";
    storm.client.gather("full queues", 1, full).await;
    storm.sim.restart().await;
    storm.is_over(n).await;
    // The last results may still be on their way from the broker.
    storm.client.settle().await;
    let (status, results) = (storm.status().await, storm.heard("ilink/result/").len());
    assert_eq!(results as u64 + status.counter("commands_dropped"), n as u64);
}
