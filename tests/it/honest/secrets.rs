//! Every verb, page, topic and log level, with a canary in every secret and every message, and a service that repeats all
//! that it is told: nothing shows a canary that should not.

use std::path::PathBuf;

use ilink2mqtt::protocol::Variant;
use ilink2mqtt::protocol::signature::sign;
use rustix::process::Signal;
use serde_json::json;

use super::canary::{self, ACCESS, ADMIN, APPKEY, HANDSHAKE, PASSWORD, PATH, QUERY, SECRETKEY};
use crate::support::bridge::{Bridge, base64, push_of, text_push};
use crate::support::client::{Client, Out};
use crate::support::eventually;
use crate::support::http::{Answer, http};
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud, Seen};
use crate::support::sim::Sim;

/// What a state directory holds on purpose. The session's files say whose they are: of all canaries the last three have the
/// one that is no secret.
const KEEPERS: [&str; 6] =
    ["identity.json", "token.json", "spool.db", "budgets.json", "quotas.json", "subscriptions.json"];
const TOPIC: &str = "ilink/send/user/413/text";
const RESULT: &str = "ilink/result/send/user/413/text";

struct Stage {
    bridge: Bridge,
    cloud: ScriptedCloud,
    client: Client,
    broker: Mosquitto,
    passwords: PathBuf,
    _dir: tempfile::TempDir,
}

/// Repeats the whole request in its reply.
fn echo(seen: &Seen) -> Behaviour {
    let mut reply = json!({
        "code": 0,
        "message": format!("{} {} {}", seen.line, seen.headers, seen.body),
        "echo": [seen.body],
        (seen.line.as_str()): 1,
    });
    if seen.call() == "get_access_token" {
        reply["access_token"] = json!(ACCESS);
        reply["expires_in"] = json!(7200);
    }
    Behaviour::reply(&reply.to_string())
}

fn write_password(passwords: &std::path::Path, password: &str) {
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-c", "-b", passwords.to_str().unwrap(), "bridge", password])
        .status()
        .expect("mosquitto_passwd comes with Mosquitto");
    assert!(made.success());
}

impl Stage {
    async fn new(configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let passwords = dir.path().join("passwords");
        write_password(&passwords, PASSWORD);
        let broker = Mosquitto::start(&format!("password_file {}\n", passwords.display()));
        let cloud = ScriptedCloud::start_with(echo).await;
        let bridge = Bridge::new(&broker, &Sim::absent(&[]))
            .without("ilink.secretkey")
            .without("callback.path_secret")
            .with("ilink.api", cloud.api.as_str())
            .with("ilink.appkey", APPKEY)
            .with("mqtt.username", "bridge")
            .with("log.level", "trace")
            .with_env("RUST_LOG", "trace")
            .with_env("RUST_BACKTRACE", "full");
        let listen = format!("http://127.0.0.1:{}/?key={QUERY}", bridge.callback_port());
        let bridge = configure(bridge.with("callback.public_url", &listen));
        let client = Client::connect(&broker).await;
        client.subscribe("#").await;
        Self { bridge, cloud, client, broker, passwords, _dir: dir }
    }

    fn callback(&self, path: &str) -> String {
        self.bridge.callback_at(path)
    }

    /// Runs a verb; what it prints, but for the callback's URL, shows no secret.
    async fn verb(&self, args: &[&str], code: i32) -> String {
        let done = self.bridge.verb(args).await;
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        if args != ["callback-url"] {
            canary::no_secret(&format!("{args:?}"), &done.text);
        }
        done.text
    }

    async fn every_push(&self) {
        let post = |path: String, body: Vec<u8>| http().post(self.callback(&path)).body(body);
        let ours = format!("/{PATH}");
        for (body, status) in [
            (text_push("413", "canary-content-1").to_string(), 200),
            (push_of("413", 2, b"canary-content-2\xff").to_string(), 200),
            (json!({"from_uid": "413", "msg_type": 1, "content": "canary-content-3 is no base64"}).to_string(), 200),
            (json!({"something": "canary-content-4"}).to_string(), 200),
            (
                json!({"to_uid": "999", "from_uid": "413", "msg_type": 1, "content": base64(b"canary-content-5")})
                    .to_string(),
                200,
            ),
            ("canary-content-6 is no JSON".to_owned(), 200),
            (json!({"x": "canary-content-7".repeat(100_000)}).to_string(), 413),
        ] {
            let answer = Answer::of(post(ours.clone(), body.into_bytes())).await;
            assert_eq!(answer.status, status, "{answer:?}");
            canary::none("an answer to a push", &format!("{answer:?}"));
        }
        self.client.expect_text("ilink/recv/user/413/text", "canary-content-1").await;
    }

    async fn every_request(&self) {
        let signature = sign(Variant::Plain, HANDSHAKE, "1", "echo-canary");
        let right = format!("/{PATH}?key={QUERY}&signature={signature}&timestamp=1&echostr=echo-canary");
        let answer = Answer::of(http().get(self.callback(&right))).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "echo-canary"), "that one is asked for");
        for (request, status) in [
            (http().get(self.callback(&format!("/{PATH}?signature=canary&timestamp=1&echostr=canary"))), 403),
            (http().get(self.callback(&format!("/{PATH}?canary"))), 400),
            (http().put(self.callback(&format!("/{PATH}"))).body("canary"), 405),
            (http().get(self.callback("/canary-path-0123456789abcdee?canary")), 404),
            (http().post(self.callback("/canary")).body("canary"), 404),
            (self.admin("healthz"), 200),
            (self.admin("readyz").bearer_auth(ADMIN), 200),
            (self.admin("canary").bearer_auth(ADMIN), 404),
            (self.admin("readyz"), 401),
            (self.admin("readyz").bearer_auth("canary"), 401),
            (self.admin("readyz").basic_auth("canary", Some("canary")), 401),
            (self.admin("readyz").header("host", "canary.example"), 403),
        ] {
            let what = format!("{request:?}");
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            canary::none("a page", &format!("{answer:?}"));
        }
    }

    fn admin(&self, path: &str) -> reqwest::RequestBuilder {
        http().get(format!("http://127.0.0.1:{}/{path}", self.bridge.admin_port()))
    }

    async fn every_command(&self) {
        let call = "ilink/call/send_msg/text";
        for (topic, payload) in [
            (TOPIC, "canary-command-1".to_owned()),
            (TOPIC, String::new()),
            (TOPIC, "canary-command-2".repeat(20_000)),
            ("ilink/send/user/413/shout", "canary-command-3".to_owned()),
            (call, json!({"accept_uid": "413", "content": "canary-command-4", "ref": "canary-ref-1"}).to_string()),
            (call, json!({"accept_uid": ["canary-command-5"], "ref": "canary-ref-2"}).to_string()),
            (call, json!({"accept_uid": "413", "content": "canary-command-6", "encoding": "base64"}).to_string()),
            (call, "canary-command-7 is no JSON".to_owned()),
            ("ilink/call/ham_add_user", json!({"username": "canary-command-8", "nickname": "n"}).to_string()),
        ] {
            self.client.publish(topic, payload).await;
            self.client.expect(&topic.replace("ilink/", "ilink/result/")).await;
        }
        self.client.send(Out::new(TOPIC, "canary-command-9").respond_to("elsewhere/reply", b"canary")).await;
        self.client.expect(RESULT).await;
        // A retained command is refused; it is cleared again, which is another one.
        self.client.send(Out::new(TOPIC, "canary-command-10").retained()).await;
        self.client.expect(RESULT).await;
        self.client.send(Out::new(TOPIC, "").retained()).await;
    }

    async fn every_verb(&self, running: bool) {
        self.verb(&["--help"], 0).await;
        self.verb(&["--version"], 0).await;
        let shown = self.verb(&["check"], 0).await;
        assert!(shown.contains("********") && shown.contains(APPKEY), "{shown}");
        canary::none("check", &shown.replace(APPKEY, ""));
        canary::none("check --acl", &self.verb(&["check", "--acl"], 0).await);
        canary::none("status", &self.verb(&["status"], 0).await);
        self.verb(&["query"], 0).await;
        self.verb(&["register"], 0).await;
        self.verb(&["register", "--new-secret"], 64).await;
        self.verb(&["call", "send_msg/text", r#"{"accept_uid":"413","content":"canary-command-11"}"#], 0).await;
        canary::none("a refused call", &self.verb(&["call", "send_msg/text", r#"{"canary":"#], 64).await);
        canary::none("a refused call", &self.verb(&["call", "send_msg/text", r#"{"content":"canary"}"#], 64).await);
        assert!(self.verb(&["callback-url"], 0).await.contains(PATH));
        for failure in failures() {
            self.cloud.script([failure]);
            canary::none("a call that failed", &self.verb(&["call", "ham_group/list"], 69).await);
            if running {
                eventually("calls to be possible again", async || {
                    (self.admin("readyz").bearer_auth(ADMIN).send().await.ok()?.status() == 200).then_some(())
                })
                .await;
                // The session looks by itself whether the service is back.
                eventually("a call", async || {
                    (self.bridge.verb(&["call", "ham_group/list"]).await.code == Some(0)).then_some(())
                })
                .await;
            }
        }
    }

    /// What anybody on the broker could see.
    async fn topics(&self) {
        self.client.settle().await;
        let contents = ["ilink/recv/", "ilink/event/", "ilink/result/", "ilink/send/", "ilink/call/"];
        let mut seen = 0;
        for message in self.client.all(|_| true) {
            let text =
                format!("{} {} {:?}", message.topic, String::from_utf8_lossy(&message.payload), message.properties);
            if contents.iter().any(|topic| message.topic.starts_with(topic)) {
                canary::no_secret(&message.topic, &text);
            } else {
                canary::none(&message.topic, &text);
            }
            seen += 1;
        }
        assert!(seen > 20, "{seen} messages");
    }

    /// A configuration that cannot be read, with the mistake where the secret is.
    async fn broken_reloads(&mut self) {
        for (n, line) in [
            format!("secretkey = \"{SECRETKEY}"),
            format!("secretkey = {SECRETKEY}"),
            format!("secretkey = [\"{SECRETKEY}\"]"),
        ]
        .iter()
        .enumerate()
        {
            std::fs::write(self.bridge.dir().join("config.toml"), format!("[ilink]\n{line}\n")).unwrap();
            self.bridge.process().signal(Signal::HUP);
            eventually("the reload to be refused", async || {
                (self.bridge.log().matches("the configuration was not reloaded").count() == n + 1).then_some(())
            })
            .await;
        }
    }
}

/// A service out of order that repeats what it was told. Only what failed is asked: the next call is answered well.
fn failures() -> Vec<Behaviour> {
    let all = canary::SECRETS.join(" ");
    vec![
        Behaviour::response("500 canary", "X-Canary: canary\r\n", &all),
        Behaviour::response("302 Found", &format!("Location: http://canary/?access_token={ACCESS}\r\n"), ""),
        Behaviour::response("200 OK", "", &all),
        Behaviour::response("200 OK", "", json!({"code": "canary", "token": ACCESS}).to_string()),
        Behaviour::Bytes(format!("canary {all}\r\n\r\n").into_bytes()),
        Behaviour::Bytes(
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{{\"code\":0,\"x\":\"{all}").into_bytes(),
        ),
        Behaviour::Close,
    ]
}

async fn drive(mut stage: Stage) {
    stage.bridge.spawn();
    stage.client.expect_text("ilink/bridge/cloud", "online").await;
    stage.bridge.logged("commands arrive").await;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", stage.bridge.process().id())).unwrap();
    canary::none("the process's arguments", &String::from_utf8_lossy(&arguments));
    stage.every_push().await;
    stage.every_request().await;
    stage.every_command().await;
    stage.every_verb(true).await;
    stage.broken_reloads().await;
    // The broker goes, comes back, and no longer knows our password.
    write_password(&stage.passwords, "another");
    stage.broker.restart();
    stage.bridge.logged("check mqtt.username and mqtt.password").await;
    stage.topics().await;
    canary::no_file(&stage.bridge.state_dir(), &KEEPERS);
    assert_eq!(stage.bridge.stop().await.code(), Some(0));
    stage.every_verb(false).await;
    stage.verb(&["unregister"], 0).await;
    canary::no_file(&stage.bridge.state_dir(), &KEEPERS);
    let log = stage.bridge.log();
    assert!(log.contains("DEBUG") && log.contains("stored a push"), "{log}");
    assert!(!log.contains("rumqttc") && !log.contains("hyper"), "libraries log nothing below WARN: {log}");
    canary::none("the log", &log);
}

#[tokio::test]
async fn with_secrets_in_the_configuration_and_a_log_of_text() {
    let stage = Stage::new(|bridge| {
        let admin = format!("0.0.0.0:{}", bridge.admin_port());
        bridge
            .with("ilink.secretkey", SECRETKEY)
            .with("mqtt.password", PASSWORD)
            .with("callback.path_secret", PATH)
            .with("callback.token", HANDSHAKE)
            .with("admin.listen", &admin)
            .with("admin.token", ADMIN)
    })
    .await;
    drive(stage).await;
}

#[tokio::test]
async fn with_secrets_in_files_variables_and_credentials_and_a_log_of_json() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("callback.token"), HANDSHAKE).unwrap();
    std::fs::write(credentials.path().join("admin.token"), ADMIN).unwrap();
    let stage = Stage::new(|bridge| {
        let admin = format!("0.0.0.0:{}", bridge.admin_port());
        let (secretkey, path) = (bridge.dir().join("a-file"), bridge.dir().join("another-file"));
        std::fs::write(&secretkey, format!("{SECRETKEY}\n")).unwrap();
        std::fs::write(&path, PATH).unwrap();
        bridge
            .with("ilink.secretkey_file", secretkey.to_str().unwrap())
            .with_env("ILINK2MQTT_MQTT__PASSWORD", PASSWORD)
            .with_env("ILINK2MQTT_CALLBACK__PATH_SECRET_FILE", path.to_str().unwrap())
            .with_env("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())
            .with("admin.listen", &admin)
            .with("log.format", "json")
    })
    .await;
    drive(stage).await;
}
