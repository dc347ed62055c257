//! Errors of our own about something that holds a secret: the configuration, the state directory, the control socket.

use ilink2mqtt::config::{Config, Environment};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::canary::{self, HANDSHAKE, PASSWORD, PATH, SECRETKEY};
use crate::support::bridge::Bridge;
use crate::support::mosquitto::Mosquitto;
use crate::support::process::finish;
use crate::support::sim::Sim;

const SECRETS: [(&str, &str); 5] = [
    ("ilink.secretkey", SECRETKEY),
    ("callback.token", HANDSHAKE),
    ("callback.path_secret", PATH),
    ("mqtt.password", PASSWORD),
    ("ilink.proxy", "http://canary:canary@proxy.example:3128/?canary"),
];

/// Ways to spoil a line `key = "secret"`.
fn spoilt(key: &str, secret: &str) -> Vec<String> {
    let last = key.rsplit('.').next().unwrap();
    vec![
        format!("{key} = \"{secret}"),
        format!("{key} = {secret}\""),
        format!("{key} = {secret}"),
        format!("{key} = 1{secret}"),
        format!("{key} = '{secret}\""),
        format!("{key} = \"\"\"{secret}"),
        format!("{key} = \"{secret}\\q\""),
        format!("{key} = \"{secret}\u{7}\""),
        format!("{key} = \"{secret}\" {secret}"),
        format!("{key} = \"{secret}\"\n{key} = \"{secret}\""),
        format!("{key} \"{secret}\""),
        format!("{key} = = \"{secret}\""),
        format!("{key} = [\"{secret}\"]"),
        format!("{key} = [\"{secret}\""),
        format!("{key} = {{ \"{secret}\" = 1 }}"),
        format!("{key} = {{ a = \"{secret}\""),
        format!("{key} = 2026-01-01T{secret}"),
        format!("{key}_file = [\"{secret}\"]"),
        format!("{key}x = \"{secret}\""),
        format!("\"{last}\" = \"{secret}\"\nlog.level = \"{secret}"),
        format!("[{key}\na = \"{secret}\""),
    ]
}

#[test]
fn a_mistake_on_the_line_of_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let mut refused = 0;
    for (key, secret) in SECRETS {
        for line in spoilt(key, secret) {
            std::fs::write(&file, format!("ilink.uid = 1\n{line}\n")).unwrap();
            let error = Config::load(Some(&file), &Environment::default()).unwrap_err();
            canary::none(&line, &format!("{error} {error:?}").replace(file.to_str().unwrap(), ""));
            refused += 1;
        }
    }
    assert_eq!(refused, 105);
}

#[tokio::test]
async fn the_program_says_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let config = file.to_str().unwrap().to_owned();
    for verb in ["run", "check", "status", "query"] {
        std::fs::write(&file, format!("[ilink]\nsecretkey = \"{SECRETKEY}\n")).unwrap();
        let done = finish(["--config", &config, verb], &[("ILINK2MQTT_MQTT__PASWORD", PASSWORD)]).await;
        assert_eq!(done.code, Some(64), "{done:?}");
        assert!(done.text.contains("config.toml: line 2"), "{done:?}");
        canary::none(verb, &done.text);
    }
    // A mistyped command line is repeated by the parser of the command line, but not what follows a known flag.
    let done = finish(["sim", "--appkey", "A", "--secretkey", SECRETKEY, "--expires-in", "soon"], &[]).await;
    assert_eq!(done.code, Some(64));
    canary::none("sim", &done.text);
}

/// A bridge that is never ready, and needs not be.
fn lonely() -> Bridge {
    let broker = Mosquitto::start("");
    let bridge = Bridge::new(&broker, &Sim::absent(&[]));
    bridge.with("ilink.secretkey", SECRETKEY).with("ilink.appkey", "canary-appkey").with("log.level", "trace")
}

#[tokio::test]
async fn files_of_secrets_that_cannot_be_read() {
    let mut bridge = lonely();
    let bytes = bridge.dir().join("bytes");
    std::fs::write(&bytes, [PASSWORD.as_bytes(), b"\xff"].concat()).unwrap();
    let long = bridge.dir().join("long");
    std::fs::write(&long, format!("{PATH} {PATH}")).unwrap();
    let directory = bridge.dir().to_str().unwrap().to_owned();
    bridge = bridge
        .with("mqtt.username", "u")
        .with("mqtt.password_file", bytes.to_str().unwrap())
        .without("callback.path_secret")
        .with("callback.path_secret_file", long.to_str().unwrap())
        .with("admin.token_file", &directory);
    let done = bridge.verb(&["check"]).await;
    assert_eq!(done.code, Some(64), "{done:?}");
    for key in ["mqtt.password_file", "callback.path_secret", "admin.token_file"] {
        assert!(done.text.contains(key), "{key}: {done:?}");
    }
    canary::none("check", &done.text);

    // Keys of TLS: not PEM, not the certificate's.
    for (name, content) in [("no.pem", format!("{PASSWORD}\n")), ("half.pem", half_a_key())] {
        let file = bridge.dir().join(name);
        std::fs::write(&file, content).unwrap();
        let mut bridge = lonely();
        let file = file.to_str().unwrap();
        bridge = bridge.with("callback.tls.cert", file).with("callback.tls.key", file);
        bridge.spawn();
        assert_eq!(bridge.process().ended().await.code(), Some(64), "{}", bridge.log());
        assert!(bridge.log().contains("callback.tls"), "{}", bridge.log());
        canary::none(name, &bridge.log());
    }
}

/// PEM whose content is a canary.
fn half_a_key() -> String {
    let body = crate::support::bridge::base64(SECRETKEY.as_bytes());
    format!(
        "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    )
}

#[tokio::test]
async fn files_of_the_state_directory_that_are_not_what_they_should_be() {
    let good = json!({"v": 1, "handshake_token": HANDSHAKE, "path_secret": PATH, "registered": null});
    let with = |key: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        bad[key] = value;
        bad.to_string()
    };
    for identity in [
        with("v", json!("canary")),
        with("handshake_token", json!("canary with spaces")),
        with("path_secret", json!("canary")),
        with("path_secret", json!([PATH])),
        with("registered", json!(PATH)),
        good.to_string().replace('}', ""),
        format!("\"{HANDSHAKE}\""),
    ] {
        let mut bridge = lonely();
        std::fs::create_dir(bridge.state_dir()).unwrap();
        std::fs::write(bridge.state_dir().join("identity.json"), &identity).unwrap();
        bridge.spawn();
        assert_eq!(bridge.process().ended().await.code(), Some(73), "{identity}: {}", bridge.log());
        assert!(bridge.log().contains("identity.json"), "{}", bridge.log());
        canary::none("the log", &bridge.log());
        canary::none("status", &bridge.verb(&["status"]).await.text);
    }
    // These are as good as absent.
    let mut bridge = lonely();
    std::fs::create_dir(bridge.state_dir()).unwrap();
    for file in ["token.json", "subscriptions.json", "quotas.json", "spool.db"] {
        let content = json!({"access_token": canary::ACCESS, "expires_in": "canary"}).to_string();
        std::fs::write(bridge.state_dir().join(file), content).unwrap();
    }
    bridge.spawn();
    bridge.wait_listening().await;
    bridge.logged("the spool was damaged").await;
    assert_eq!(bridge.stop().await.code(), Some(0));
    canary::none("the log", &bridge.log());
}

#[tokio::test]
async fn the_control_socket_repeats_nothing() {
    let mut bridge = lonely();
    bridge.spawn();
    bridge.wait_listening().await;
    let socket = bridge.state_dir().join("control.sock");
    for request in
        ["canary", r#"{"canary":1}"#, r#"{"call":{"name":"send_msg/text","json":["canary"]}}"#, r#""canary""#]
    {
        let mut stream =
            crate::support::eventually("the control socket", async || UnixStream::connect(&socket).await.ok()).await;
        stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("does not understand"), "{answer}");
        canary::none(request, &answer);
    }
    assert_eq!(bridge.stop().await.code(), Some(0));
    canary::none("the log", &bridge.log());
    // A daemon that answers with what cannot be read.
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(format!("{{\"exit\":\"{SECRETKEY}\"}}\n").as_bytes()).await.unwrap();
        let mut request = [0; 64];
        let _ = stream.read(&mut request).await;
    };
    let (done, ()) = tokio::join!(bridge.verb(&["status"]), answering);
    assert_eq!(done.code, Some(70), "{done:?}");
    assert!(done.text.contains("another version"), "{done:?}");
    canary::none("status", &done.text);
}
