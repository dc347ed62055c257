//! What is seen of the demo: the contacts at the simulated iLink, a device at the broker, and everything that passes, on standard
//! output.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::protocol::{Receiver, Uid};
use crate::sim::Simulator;

/// The contact that says something every few seconds.
pub(super) const TALKER: &str = "413";
/// The contact that echoes.
pub(super) const ECHO: &str = "414";
const EVERY: Duration = Duration::from_secs(4);

/// A terminal that is gone takes nothing, and needs nothing.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Contact 413 says something every few seconds, and comes and goes.
pub(super) async fn talk(service: Simulator, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    let mut said = 0_u32;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let body = format!(r#"{{"from_uid":"{TALKER}","text":"good news no. {}"}}"#, said + 1);
        // Refused until the bridge has registered.
        if service.push(body.as_bytes(), None).await.is_ok() {
            said += 1;
        }
    }
}

/// Contact 414 sends back what it is told.
pub(super) async fn echo(service: Simulator, stop: CancellationToken) {
    let mut sent = service.sent();
    let echo = Receiver::User(Uid::try_from(ECHO.to_owned()).unwrap_or_else(|_| unreachable!("it is not empty")));
    while let Some(Ok(message)) = stop.run_until_cancelled(sent.recv()).await {
        if message.to == echo {
            let text = format!("echo: {}", String::from_utf8_lossy(&message.content));
            let body = serde_json::json!({ "from_uid": ECHO, "text": text }).to_string();
            let _ = service.push(body.as_bytes(), None).await;
        }
    }
}

/// So many characters of a message are shown.
const SHOWN: usize = 160;

/// Watches everything under `base` on `broker` and publishes as a device every so often, until `stop`, which it cancels when
/// nobody can see it any more. Of several bridges `leader` gets the name of the one that leads.
pub(super) async fn show(broker: Url, base: String, leader: watch::Sender<String>, stop: CancellationToken) {
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
    let device = tokio::spawn(act(client.clone(), base.clone(), stop.clone()));
    while let Some(event) = stop.run_until_cancelled(events.poll()).await {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_subscribe(format!("{base}/#"), QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                if let Some(name) = leader_in(&base, &message) {
                    leader.send_replace(name);
                }
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

/// Who leads, if this message is about that. What is retained may be of an earlier demo.
fn leader_in(base: &str, message: &Publish) -> Option<String> {
    #[derive(Deserialize)]
    struct Told {
        leader: String,
    }
    let topic = message.topic.strip_prefix(base.as_bytes())?;
    if message.retain || topic != b"/bridge/cluster" {
        return None;
    }
    Some(serde_json::from_slice::<Told>(&message.payload).ok()?.leader)
}

/// A device that tells contact 414 something every so often.
async fn act(client: AsyncClient, base: String, stop: CancellationToken) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + EVERY / 2, EVERY);
    let mut degrees = 20.0_f64;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        degrees = if degrees >= 23.0 { 20.0 } else { degrees + 0.5 };
        let topic = format!("{base}/send/user/{ECHO}/text");
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
    fn who_leads_is_read_from_what_is_said_now() {
        let told = r#"{"leader":"b","members":[],"etcd":{"healthy":1,"of":1}}"#;
        let mut message = Publish::new("ilink/bridge/cluster", QoS::AtLeastOnce, told, None);
        assert_eq!(leader_in("ilink", &message).as_deref(), Some("b"));
        assert_eq!(leader_in("ilink-demo", &message), None);
        message.retain = true;
        assert_eq!(leader_in("ilink", &message), None);
    }

    #[test]
    fn only_the_beginning_is_shown_and_nothing_that_a_terminal_obeys() {
        assert_eq!(Shown("20.5 °C".as_bytes()).to_string(), "20.5 °C");
        assert_eq!(Shown(b"\x1b[2Jboo\x07\n").to_string(), r"\u{1b}[2Jboo\u{7}\n");
        assert_eq!(Shown(&[0xff, b'a']).to_string(), "\u{fffd}a");
        assert_eq!(Shown(&[b'x'; 200]).to_string(), format!("{}… (200 bytes)", "x".repeat(SHOWN)));
    }
}
