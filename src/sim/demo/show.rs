//! Shows the demo's messages as they pass, and pretends to be a device.
//!
//! What is shown may come from anybody who has joined: only the beginning of it, and nothing that a terminal would obey.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio_util::sync::CancellationToken;
use url::Url;

/// So many characters of a message are shown.
const SHOWN: usize = 160;

/// Watches everything under `base` on `broker` and publishes as a device every so often, until `stop`, which it cancels when
/// nobody can see it any more.
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
    let colours = colours();
    let device = tokio::spawn(act(client.clone(), base.clone(), every, stop.clone()));
    while let Some(event) = stop.run_until_cancelled(events.poll()).await {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_subscribe(format!("{base}/#"), QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                if print(&base, &message, colours).is_err() {
                    stop.cancel();
                }
            }
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

/// Whether to use colours: on a terminal, unless its user does not want them (no-color.org).
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn print(base: &str, message: &Publish, colours: bool) -> io::Result<()> {
    let topic = String::from_utf8_lossy(&message.topic);
    let rest = topic.strip_prefix(base).map_or(&*topic, |rest| rest.trim_start_matches('/'));
    let (what, colour) = match rest.split('/').next().unwrap_or_default() {
        "recv" | "presence" => ("iLink → MQTT", "36"),
        "send" | "call" | "by" => ("MQTT → iLink", "32"),
        "result" => ("      result", "33"),
        "bridge" => ("      bridge", "2"),
        // The same messages once more, as JSON; the bridge's health says nothing here.
        _ => return Ok(()),
    };
    if rest == "bridge/health" || rest.contains("/self_test/") {
        return Ok(());
    }
    let (topic, payload) = (Shown(&message.topic), Shown(&message.payload));
    let mut out = io::stdout().lock();
    if colours {
        writeln!(out, "\x1b[{colour}m{what}\x1b[0m  {topic}  {payload}")
    } else {
        writeln!(out, "{what}  {topic}  {payload}")
    }
}

/// Bytes as they can be shown.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let mut characters = text.chars();
        for character in characters.by_ref().take(SHOWN) {
            if character.is_control() {
                write!(f, "{}", character.escape_default())
            } else {
                write!(f, "{character}")
            }?;
        }
        if characters.next().is_some() { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_is_shown_and_nothing_that_a_terminal_obeys() {
        assert_eq!(Shown("20.5 °C".as_bytes()).to_string(), "20.5 °C");
        assert_eq!(Shown(b"\x1b[2Jboo\x07\n").to_string(), r"\u{1b}[2Jboo\u{7}\n");
        assert_eq!(Shown(&[0xff, b'a']).to_string(), "\u{fffd}a");
        assert_eq!(Shown(&[b'x'; 200]).to_string(), format!("{}… (200 bytes)", "x".repeat(SHOWN)));
    }
}
