//! `demo`: the simulated iLink service, a broker and the bridge in one process, with both directions at work. Or several bridges,
//! each a process of its own (`cluster.rs`).
//!
//! The simulated iLink has two contacts: 413 says something every few seconds, 414 echoes what it is told. A simulated
//! device talks to 414. Whoever connects with an MQTT client of their own sees the same messages and can take part. The
//! status page is on a free port of loopback. Everything is kept in memory and in a temporary directory, and is gone
//! afterwards.

#[cfg(feature = "demo")]
mod broker;
mod cluster;
mod scene;
mod tied;

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::app::{self, Source};
use crate::cli::{Demo, EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE};
use crate::config::{Config, Environment, Log, LogFormat};
use crate::observe::log;
use crate::operate::systemd::Sockets;
use crate::os::tasks;
use crate::sim::{Options, Simulator};
use cluster::{Cluster, NO_FILE, Settings};
use scene::{ECHO, TALKER, say};
pub use tied::become_process;

/// The bridge's own uid.
const BRIDGE: &str = "480";
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

type Failure = (u8, String);

fn internal(error: impl std::fmt::Display) -> Failure {
    (EXIT_INTERNAL, error.to_string())
}

async fn demo(arguments: Demo) -> Result<(), Failure> {
    // The bridges end before what they talk to.
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(end_with_terminal(stop.clone()));
    let state_dir = StateDir::make().map_err(internal)?;
    let bridges = match arguments.cluster {
        Some(bridges) => {
            tokio::spawn(tasks::cancel_on_signal(stop.clone()));
            let Some(started) = stop.run_until_cancelled(Cluster::start(bridges, &state_dir.0)).await else {
                return Ok(());
            };
            Bridges::Several(started.map_err(|error| (EXIT_UNAVAILABLE, error.to_string()))?)
        }
        None => listen().map(|(sockets, addresses)| Bridges::One(sockets, addresses)).map_err(internal)?,
    };
    let (broker, base) = match arguments.broker {
        Some(url) => (url, "ilink-demo"),
        None => (embedded_broker(arguments.mqtt_listen, over.clone()).await?, "ilink"),
    };
    let simulator = start_simulator(over.clone()).await?;
    let settings = settings(&broker, base, simulator.address);
    welcome(&broker, base, simulator.address, &bridges);
    let (to, leader) = watch::channel(String::new());
    let shown = tokio::spawn(scene::show(broker, base.to_owned(), to, stop.clone()));
    tokio::spawn(scene::talk(simulator.service.clone(), stop.clone()));
    tokio::spawn(scene::echo(simulator.service, stop.clone()));
    let ended = match bridges {
        Bridges::One(sockets, addresses) => alone(settings, sockets, &addresses, &state_dir.0, stop.clone()).await,
        Bridges::Several(cluster) => cluster.run(&settings, &leader, &stop).await.map_err(internal),
    };
    stop.cancel();
    let _ = shown.await;
    over.cancel();
    ended
}

/// What the demo shows.
enum Bridges {
    /// In this process.
    One(Sockets, Addresses),
    /// Each in a process of its own.
    Several(Cluster),
}

/// Runs the bridge in this process; it hears the signals itself.
async fn alone(
    mut settings: Settings,
    sockets: Sockets,
    Addresses { callback, admin }: &Addresses,
    state_dir: &Path,
    stop: CancellationToken,
) -> Result<(), Failure> {
    settings.extend([
        ("ILINK2MQTT_STATE_DIR", state_dir.display().to_string()),
        ("ILINK2MQTT_CALLBACK__LISTEN", callback.to_string()),
        ("ILINK2MQTT_CALLBACK__PUBLIC_URL", format!("http://{callback}/ilink")),
        ("ILINK2MQTT_ADMIN__LISTEN", admin.to_string()),
    ]);
    let path = PathBuf::from(NO_FILE);
    let config = Config::load(Some(&path), &settings.into_iter().collect());
    let config = config.map_err(|error| (EXIT_USAGE, error.to_string()))?;
    let environment = Environment::from_iter::<[(&str, &str); 0]>([]);
    let source = Source { path: Some(path), environment, level: None };
    let ended = app::run(config, source, sockets, stop.child_token()).await;
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

/// The configuration of every bridge, as environment variables; without what is each one's own.
fn settings(broker: &Url, base: &str, simulator: SocketAddr) -> Settings {
    let mut settings = vec![
        ("ILINK2MQTT_ILINK__API", format!("http://{simulator}")),
        ("ILINK2MQTT_ILINK__APPKEY", "demo".to_owned()),
        ("ILINK2MQTT_ILINK__SECRETKEY", "demo-secret".to_owned()),
        ("ILINK2MQTT_ILINK__UID", BRIDGE.to_owned()),
        ("ILINK2MQTT_CALLBACK__ALLOW", "[\"127.0.0.0/8\"]".to_owned()),
        ("ILINK2MQTT_MQTT__BROKER", without_credentials(broker)),
        ("ILINK2MQTT_MQTT__BASE_TOPIC", base.to_owned()),
        ("ILINK2MQTT_MQTT__CLIENT_ID", format!("ilink2mqtt-demo-{}", std::process::id())),
        // All of it is made up.
        ("ILINK2MQTT_ADMIN__SHOW_CONTENT", "true".to_owned()),
    ];
    if !broker.username().is_empty() {
        settings.push(("ILINK2MQTT_MQTT__USERNAME", broker.username().to_owned()));
        settings.push(("ILINK2MQTT_MQTT__PASSWORD", broker.password().unwrap_or_default().to_owned()));
    }
    settings
}

fn without_credentials(broker: &Url) -> String {
    let mut url = broker.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn welcome(broker: &Url, base: &str, simulator: SocketAddr, bridges: &Bridges) {
    let (host, port) = (broker.host_str().unwrap_or("127.0.0.1"), broker.port().unwrap_or(1883));
    let (who, pages, end) = match bridges {
        Bridges::One(_, Addresses { admin, .. }) => (
            "the bridge between them".to_owned(),
            format!("The bridge's status page, in a browser:\n  {OPEN} http://{admin}/"),
            "Ctrl-C ends the demo.",
        ),
        Bridges::Several(cluster) => {
            let pages: Vec<_> =
                cluster.pages().map(|(name, admin)| format!("  {OPEN} http://{admin}/   ({name})")).collect();
            (
                format!("{} bridges between them. {}", pages.len(), cluster.told()),
                format!("Each bridge has its status page, in a browser:\n{}", pages.join("\n")),
                "Kill a bridge by its number, and\nwatch the messages go on. Ctrl-C ends the demo.",
            )
        }
    };
    say(&format!(
        "\
ilink2mqtt demo: a simulated iLink (http://{simulator}), an MQTT broker (mqtt://{host}:{port}) and {who}.

Join in from a second terminal, with these or any MQTT client:
  mosquitto_sub -h {host} -p {port} -t '{base}/#' -v
  mosquitto_pub -h {host} -p {port} -t {base}/send/user/{ECHO}/text -m 'hello'
  mosquitto_pub -h {host} -p {port} -t {base}/call/ham_group/list -n

{pages}

Contact {TALKER} says something every few seconds; contact {ECHO} echoes. {end}
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
