//! `demo`: the simulated iLink service, a broker and the bridge in one process, with both directions at work.
//!
//! The simulated iLink has two contacts: 413 says something every few seconds, 414 echoes what it is told. A simulated
//! device talks to 414. Whoever connects with an MQTT client of their own sees the same messages and can take part. The
//! status page is on a free port of loopback. Everything is kept in memory and in a temporary directory, and is gone
//! afterwards.

#[cfg(feature = "demo")]
mod broker;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::PathBuf;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::app::{self, Source};
use crate::cli::{Demo, EXIT_INTERNAL, EXIT_USAGE};
use crate::config::{Config, Environment, Log, LogFormat};
use crate::observe::log;
use crate::operate::systemd::Sockets;
use crate::protocol::{Receiver, Uid};
use crate::sim::{Options, Simulator};

/// The contact that says something every few seconds.
const TALKER: &str = "413";
/// The contact that echoes.
const ECHO: &str = "414";
/// The bridge's own uid.
const BRIDGE: &str = "480";
const EVERY: Duration = Duration::from_secs(4);
/// Read instead of the operator's own configuration, which must have no part in the demo.
const NO_FILE: &str = "/dev/null";
/// How to look at a web page from a terminal.
const OPEN: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
/// What is said last: how to go on.
const GOODBYE: &str = "\
The demo has ended; nothing of it is left behind.
Next: `cargo build --release`, then `sudo target/release/ilink2mqtt setup` asks for what is needed and writes the configuration.
With an iLink account and a broker of your own, step by step: \"Installation\" in README.md.";

/// Runs the demo until Ctrl-C; returns the exit code.
pub async fn run(arguments: Demo) -> u8 {
    let _ = log::start(Log { level: tracing::level_filters::LevelFilter::WARN, format: LogFormat::Text });
    match demo(arguments).await {
        Ok(()) => {
            say(&format!("\n{GOODBYE}"));
            0
        }
        Err((code, error)) => {
            eprintln!("ilink2mqtt demo: {error}");
            code
        }
    }
}

/// A terminal that is gone takes nothing, and needs nothing.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

type Failure = (u8, String);

fn internal(error: impl std::fmt::Display) -> Failure {
    (EXIT_INTERNAL, error.to_string())
}

async fn demo(arguments: Demo) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let (broker, base) = match arguments.broker {
        Some(url) => (url, "ilink-demo"),
        None => (embedded_broker(arguments.mqtt_listen, stop.clone()).await?, "ilink"),
    };
    let simulator = start_simulator(stop.clone()).await?;
    let state_dir = StateDir::make().map_err(internal)?;
    let (sockets, addresses) = listen().map_err(internal)?;
    let config = config(&broker, base, simulator.address, &addresses, &state_dir.0)?;
    welcome(&broker, base, simulator.address, addresses.admin);
    let shown = tokio::spawn(show(broker, base.to_owned(), EVERY, stop.clone()));
    tokio::spawn(end_with_terminal(stop.clone()));
    tokio::spawn(talk(simulator.service.clone(), stop.clone()));
    tokio::spawn(echo(simulator.service, stop.clone()));
    let path = Some(PathBuf::from(NO_FILE));
    let source = Source { path, environment: Environment::from_iter::<[(&str, &str); 0]>([]), level: None };
    let ended = app::run(config, source, sockets, stop.child_token()).await;
    stop.cancel();
    let _ = shown.await;
    ended.map_err(|error| (error.exit_code(), error.to_string()))
}

struct RunningSimulator {
    service: Simulator,
    address: SocketAddr,
}

async fn start_simulator(stop: CancellationToken) -> Result<RunningSimulator, Failure> {
    let options = Options::new("demo", SecretString::from("demo-secret"));
    let service = Simulator::new(options).map_err(internal)?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(internal)?;
    let address = listener.local_addr().map_err(internal)?;
    let serving = service.clone();
    tokio::spawn(async move { serving.serve(listener, stop).await });
    Ok(RunningSimulator { service, address })
}

#[cfg(feature = "demo")]
async fn embedded_broker(listen: Option<SocketAddr>, stop: CancellationToken) -> Result<Url, Failure> {
    let address = broker::start(listen, stop).await.map_err(internal)?;
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    Url::parse(&format!("mqtt://{host}:{}", address.port())).map_err(internal)
}

#[cfg(not(feature = "demo"))]
async fn embedded_broker(_: Option<SocketAddr>, _: CancellationToken) -> Result<Url, Failure> {
    let how = "this build has no embedded broker: use --broker mqtt://HOST:PORT, or build with --features demo";
    std::future::ready(Err((EXIT_USAGE, how.to_owned()))).await
}

/// A directory that is gone with the demo.
struct StateDir(PathBuf);

impl StateDir {
    fn make() -> std::io::Result<Self> {
        let random = getrandom::u64().map_err(std::io::Error::other)?;
        let path = std::env::temp_dir().join(format!("ilink2mqtt-demo-{random:016x}"));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where the bridge listens.
struct Addresses {
    callback: SocketAddr,
    admin: SocketAddr,
}

/// Two free ports of loopback, handed to the bridge as a service manager would: its configuration names them.
fn listen() -> std::io::Result<(Sockets, Addresses)> {
    let [callback, admin] = [StdTcpListener::bind("127.0.0.1:0")?, StdTcpListener::bind("127.0.0.1:0")?];
    let addresses = Addresses { callback: callback.local_addr()?, admin: admin.local_addr()? };
    Ok((Sockets { callback: Some(callback), admin: Some(admin) }, addresses))
}

fn config(
    broker: &Url,
    base: &str,
    simulator: SocketAddr,
    Addresses { callback, admin }: &Addresses,
    state_dir: &std::path::Path,
) -> Result<Config, Failure> {
    let mut variables = vec![
        ("ILINK2MQTT_STATE_DIR", state_dir.display().to_string()),
        ("ILINK2MQTT_ILINK__API", format!("http://{simulator}")),
        ("ILINK2MQTT_ILINK__APPKEY", "demo".to_owned()),
        ("ILINK2MQTT_ILINK__SECRETKEY", "demo-secret".to_owned()),
        ("ILINK2MQTT_ILINK__UID", BRIDGE.to_owned()),
        ("ILINK2MQTT_CALLBACK__LISTEN", callback.to_string()),
        ("ILINK2MQTT_CALLBACK__PUBLIC_URL", format!("http://{callback}/ilink")),
        ("ILINK2MQTT_CALLBACK__ALLOW", "[\"127.0.0.0/8\"]".to_owned()),
        ("ILINK2MQTT_MQTT__BROKER", without_credentials(broker)),
        ("ILINK2MQTT_MQTT__BASE_TOPIC", base.to_owned()),
        ("ILINK2MQTT_MQTT__CLIENT_ID", format!("ilink2mqtt-demo-{}", std::process::id())),
        ("ILINK2MQTT_ADMIN__LISTEN", admin.to_string()),
        // All of it is made up.
        ("ILINK2MQTT_ADMIN__SHOW_CONTENT", "true".to_owned()),
    ];
    if !broker.username().is_empty() {
        variables.push(("ILINK2MQTT_MQTT__USERNAME", broker.username().to_owned()));
        variables.push(("ILINK2MQTT_MQTT__PASSWORD", broker.password().unwrap_or_default().to_owned()));
    }
    let path = std::path::Path::new(NO_FILE);
    Config::load(Some(path), &variables.into_iter().collect()).map_err(|error| (EXIT_USAGE, error.to_string()))
}

fn without_credentials(broker: &Url) -> String {
    let mut url = broker.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn welcome(broker: &Url, base: &str, simulator: SocketAddr, admin: SocketAddr) {
    let (host, port) = (broker.host_str().unwrap_or("127.0.0.1"), broker.port().unwrap_or(1883));
    say(&format!(
        "\
ilink2mqtt demo: a simulated iLink (http://{simulator}), an MQTT broker (mqtt://{host}:{port}) and the bridge between them.

Join in from a second terminal, with these or any MQTT client:
  mosquitto_sub -h {host} -p {port} -t '{base}/#' -v
  mosquitto_pub -h {host} -p {port} -t {base}/send/user/{ECHO}/text -m 'hello'
  mosquitto_pub -h {host} -p {port} -t {base}/call/ham_group/list -n

The bridge's status page, in a browser:
  {OPEN} http://{admin}/

Contact {TALKER} says something every few seconds; contact {ECHO} echoes. Ctrl-C ends the demo.
"
    ));
}

/// For a daemon SIGHUP means something else; the demo is over when its terminal is closed.
async fn end_with_terminal(stop: CancellationToken) {
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        let _ = stop.run_until_cancelled(hangup.recv()).await;
        stop.cancel();
    }
}

/// Contact 413 says something every few seconds, and comes and goes.
async fn talk(service: Simulator, stop: CancellationToken) {
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
async fn echo(service: Simulator, stop: CancellationToken) {
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
/// nobody can see it any more.
async fn show(broker: Url, base: String, every: Duration, stop: CancellationToken) {
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
