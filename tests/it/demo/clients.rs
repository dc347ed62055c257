//! The embedded broker, and the clients that people have, each the real package. `.ci/demo` installs them.

use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::process::Process;

/// A running demo and the port of its broker.
struct Demo {
    process: Process,
    port: u16,
}

impl Demo {
    async fn start() -> Self {
        let process = Process::start("demo", ["demo"], &[]);
        // Both directions are at work from here on.
        process.printed("iLink → MQTT  ilink/recv/user/413/text").await;
        let port = between(&process.output(), "an MQTT broker (mqtt://127.0.0.1:", ")").parse().expect("a port");
        Self { process, port }
    }

    async fn end(mut self) {
        self.process.signal(Signal::INT);
        assert_eq!(self.process.ended().await.code(), Some(0), "{}", self.process.output());
    }

    /// Runs a client's script to its end.
    async fn joined_by(&self, program: &str, script: &str, version: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/demo/").to_owned() + script;
        let mut command = Command::new(installed(program));
        command.args([&script, &self.port.to_string(), version]).env("NODE_PATH", clients().join("node_modules"));
        let ended = run(command).await;
        assert!(ended.contains("all well"), "{script} {version}: {ended}\nthe demo:\n{}", self.process.output());
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in:\n{text}"));
    rest.split_once(after).expect("an end").0
}

/// Where `.ci/demo` installs the clients.
fn clients() -> PathBuf {
    std::env::var_os("DEMO_CLIENTS").expect("DEMO_CLIENTS is not set: run these tests by .ci/demo").into()
}

/// A program that `.ci/demo` installs beside the others, or that the system has.
fn installed(program: &str) -> PathBuf {
    let own = clients().join("bin").join(program);
    if own.exists() { own } else { program.into() }
}

/// Runs a command to its end; returns what it printed.
async fn run(mut command: Command) -> String {
    let name = format!("{command:?}");
    let run = move || command.output().unwrap_or_else(|error| panic!("{name}: {error}: run these tests by .ci/demo"));
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(run).await.unwrap();
    format!("{}{}{status}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

#[tokio::test]
async fn paho_joins_with_mqtt_5() {
    let demo = Demo::start().await;
    demo.joined_by("python", "paho_client.py", "5").await;
    demo.end().await;
}

#[tokio::test]
async fn paho_joins_with_mqtt_311() {
    let demo = Demo::start().await;
    demo.joined_by("python", "paho_client.py", "3.1.1").await;
    demo.end().await;
}

#[tokio::test]
async fn aiomqtt_joins() {
    let demo = Demo::start().await;
    demo.joined_by("python", "aiomqtt_client.py", "5").await;
    demo.end().await;
}

#[tokio::test]
async fn mqtt_js_joins_with_mqtt_5() {
    let demo = Demo::start().await;
    demo.joined_by("node", "mqttjs_client.js", "5").await;
    demo.end().await;
}

#[tokio::test]
async fn mqtt_js_joins_with_mqtt_311() {
    let demo = Demo::start().await;
    demo.joined_by("node", "mqttjs_client.js", "4").await;
    demo.end().await;
}

/// What the demo says that one should type, and more of these two programs.
#[tokio::test]
async fn mosquittos_clients_join() {
    let demo = Demo::start().await;
    let port = demo.port.to_string();
    let client = |program: &str, version: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port, "-V", version]).args(arguments);
        run(command)
    };
    let shown = demo.process.output();
    assert!(shown.contains(&format!("mosquitto_sub -h 127.0.0.1 -p {port} -t 'ilink/#' -v")), "{shown}");

    for version in ["mqttv5", "mqttv311"] {
        let long = format!("a/{}", "b".repeat(200));
        let text = format!("hello by {version}");
        let topic = format!("ilink/recv/user/414/{version}");
        // Told to who comes later, whatever its id is.
        let kept = ["-i", "a/b", "-q", "2", "-r", "-t", &topic, "-m", &text];
        assert!(client("mosquitto_pub", version, &kept).await.ends_with("status: 0"));
        let late = ["-i", &long, "-q", "1", "-t", "ilink/recv/+/414/#", "-C", "1", "-W", "30", "-F", "%t %q %r %p"];
        let got = client("mosquitto_sub", version, &late).await;
        assert!(got.starts_with(&format!("{topic} 1 1 {text}\n")), "{got}");
        assert!(client("mosquitto_pub", version, &["-q", "1", "-r", "-t", &topic, "-n"]).await.ends_with("status: 0"));

        // A session waits for its client.
        let expiry: &[&str] = if version == "mqttv5" { &["-x", "60"] } else { &[] };
        let lasting = [&["-i", "lasting/1", "-c", "-q", "1", "-t", "house/lasting", "-W", "30"], expiry].concat();
        assert!(client("mosquitto_sub", version, &[&lasting[..], &["-E"]].concat()).await.ends_with("status: 0"));
        assert!(
            client("mosquitto_pub", version, &["-q", "1", "-t", "house/lasting", "-m", &text])
                .await
                .ends_with("status: 0")
        );
        let waited = client("mosquitto_sub", version, &[&lasting[..], &["-C", "1"]].concat()).await;
        assert!(waited.starts_with(&text), "{waited}");

        let to_contact = ["-q", "1", "-t", "ilink/send/user/414/text", "-m", &text];
        assert!(client("mosquitto_pub", version, &to_contact).await.ends_with("status: 0"));
        demo.process.printed(&format!("echo: {text}")).await;
    }
    demo.end().await;
}

#[tokio::test]
async fn a_device_joins_where_it_was_told_to_listen() {
    use crate::support::mosquitto::free_port;

    let listen = format!("127.0.0.1:{}", free_port());
    let mut demo = Process::start("demo", ["demo", "--mqtt-listen", &listen], &[]);
    demo.printed("iLink → MQTT  ilink/recv/user/413/text").await;
    let client = Client::connect_with(listen.rsplit_once(':').unwrap().1.parse().unwrap(), None, |_| {}).await;
    client.subscribe("ilink/#").await;
    client.publish("ilink/send/user/414/text", "from a device").await;
    client.expect_text("ilink/recv/user/414/text", "echo: from a device").await;
    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0));
}
