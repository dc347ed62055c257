//! A mine-field of retained commands.

use serde_json::Value;

use super::{Storm, scaled};
use crate::support::client::{Message, Out};
use crate::support::eventually;

fn mines(n: usize) -> Vec<String> {
    let topic = |i: usize| match i % 4 {
        0 => format!("ilink/send/user/m{i}/text"),
        1 => format!("ilink/call/send_msg/text/{i}"),
        2 => format!("ilink/by/m{i}/send/topic/m"),
        _ => format!("ilink/by/m/call/ham_group/{i}"),
    };
    (0..n).map(topic).collect()
}

fn is_result(message: &Message) -> bool {
    !message.topic.starts_with("ilink/by/good/") && message.topic.contains("/result/")
}

async fn results_of(storm: &Storm, n: usize, times: usize) -> Vec<Value> {
    let results = storm.results("results", n * times, is_result).await;
    results.iter().map(Message::json).collect()
}

#[tokio::test]
async fn is_stepped_on_once_in_a_session() {
    let mut storm = Storm::prepared("retained mine-field", |bridge| bridge).await;
    let n = scaled(800);
    storm.device.send_all(mines(n).iter().map(|topic| Out::new(topic, "{\"ref\":1}").retained())).await;
    storm.start().await;
    let rejected = |result: &Value| result["status"] == "rejected" && result["name"] == "retained";
    assert!(results_of(&storm, n, 1).await.iter().all(rejected));
    // What was answered and not acknowledged when the bridge stops is answered again.
    eventually("all to be acknowledged", async || {
        let acknowledged = storm.broker.log().matches("Received PUBACK from ilink2mqtt-414").count();
        (acknowledged >= n).then_some(())
    })
    .await;
    // The session goes on, and the mines are not new to it: a clean stop, a kill, a broker that restarts.
    storm.bridge.stop().await;
    storm.bridge.start().await;
    storm.bridge.kill();
    storm.bridge.start().await;
    let good = storm.good();
    storm.device.send(good).await;
    storm.good_are_done().await;
    assert_eq!(storm.client.all(is_result).len(), n);
    // A new session: each once more, and still none executed.
    storm.bridge.stop().await;
    storm.bridge.set("mqtt.client_id", "another");
    storm.bridge.start().await;
    assert!(results_of(&storm, n, 2).await.iter().all(rejected));
    storm.is_over(n).await;
    assert_eq!(storm.client.all(is_result).len(), 2 * n);
    assert_eq!(storm.status().await.counter("commands_rejected"), n as u64);
    storm.only_good_executed().await;
}

#[tokio::test]
async fn is_stepped_on_at_every_start_of_mqtt_3() {
    let mut storm = Storm::prepared("retained, MQTT 3.1.1", |bridge| bridge.with("mqtt.protocol", "3.1.1")).await;
    let n = scaled(300);
    storm.device.send_all(mines(n).iter().map(|topic| Out::new(topic, "{}").retained())).await;
    for start in 1..=2 {
        storm.start().await;
        let results = results_of(&storm, n, start).await;
        assert!(results.iter().all(|result| result["name"] == "retained"));
        if start == 1 {
            storm.bridge.kill();
        }
    }
    storm.is_over(n).await;
    assert_eq!(storm.client.all(is_result).len(), 2 * n);
    storm.only_good_executed().await;
}
