//! Shows the demo's messages as they pass, and pretends to be a device.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Watches everything under `base` on `broker` and publishes as a device every so often, until `stop`.
pub(super) async fn show(broker: Url, base: String, every: Duration, stop: CancellationToken) {
    let (host, port) = (broker.host_str().unwrap_or("127.0.0.1").to_owned(), broker.port().unwrap_or(1883));
    let mut options = MqttOptions::new(format!("ilink2mqtt-demo-device-{}", std::process::id()), host, port);
    options.set_keep_alive(Duration::from_secs(30));
    options
        .set_connect_properties(ConnectProperties { max_packet_size: Some(1024 * 1024), ..ConnectProperties::new() });
    if !broker.username().is_empty() {
        options.set_credentials(broker.username(), broker.password().unwrap_or_default());
    }
    let (client, mut events) = AsyncClient::new(options, 16);
    let device = tokio::spawn(act(client.clone(), base.clone(), every, stop.clone()));
    while let Some(event) = stop.run_until_cancelled(events.poll()).await {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_subscribe(format!("{base}/#"), QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::Publish(message))) => print(&base, &message),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    device.abort();
}

/// A device that tells contact 414 something every so often.
async fn act(client: AsyncClient, base: String, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every / 2, every);
    let mut degrees = 20.0_f64;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        degrees = if degrees >= 23.0 { 20.0 } else { degrees + 0.5 };
        let topic = format!("{base}/send/user/414/text");
        let _ = client.publish(topic, QoS::AtLeastOnce, false, format!("{degrees:.1} °C in the kitchen")).await;
    }
}

fn print(base: &str, message: &Publish) {
    let topic = String::from_utf8_lossy(&message.topic);
    let rest = topic.strip_prefix(base).map_or(&*topic, |rest| rest.trim_start_matches('/'));
    let what = match rest.split('/').next().unwrap_or_default() {
        "recv" | "presence" => "iLink → MQTT",
        "send" | "call" | "by" => "MQTT → iLink",
        "result" => "      result",
        "bridge" => "      bridge",
        // The same messages once more, as JSON; the bridge's health says nothing here.
        _ => return,
    };
    if rest == "bridge/health" || rest.contains("/self_test/") {
        return;
    }
    println!("{what}  {topic}  {}", String::from_utf8_lossy(&message.payload));
}
