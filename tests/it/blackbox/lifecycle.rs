//! Starting and stopping: exit codes, the state directory, configuration errors, signals.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::world::World;
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::client::Client;
use crate::support::http::{Answer, http, raw_connection, raw_post, read_to_close};
use crate::support::process::finish;
use crate::support::sim::SECRETKEY;
use crate::support::{DEADLINE, eventually};

#[tokio::test]
async fn a_clean_stop_says_offline_and_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut world = World::ready().await;
        world.client.expect_text("ilink/bridge/state", "online").await;
        world.bridge.process().signal(signal);
        assert_eq!(world.bridge.process().ended().await.code(), Some(0));
        let offline = world.client.expect_text("ilink/bridge/state", "offline").await;
        assert!(offline.retain);
    }
}

/// Whoever comes later is told by neither topic that something works.
#[tokio::test]
async fn after_a_clean_stop_the_cloud_is_not_online_either() {
    let mut world = World::ready().await;
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let late = Client::connect(&world.broker).await;
    for topic in ["ilink/bridge/cloud", "ilink/bridge/state"] {
        late.subscribe(topic).await;
        assert_eq!(late.expect(topic).await.text(), "offline", "{topic}");
    }
}

#[tokio::test]
async fn a_stop_waits_for_the_call_in_flight() {
    let mut world = World::ready().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 1})).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.sim.calls_until("send_msg", "the call", |calls| calls.len() == 1).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    let result = world.client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!((&result["status"], &result["attempts"]), (&json!("ok"), &json!(1)), "{result}");
    assert_eq!(world.sim.calls("send_msg").await.len(), 1);
}

#[tokio::test]
async fn pushes_while_stopping_are_answered_or_not_taken() {
    let mut world = World::ready().await;
    let url = world.bridge.callback();
    let pushing = tokio::spawn(async move {
        let http = http();
        let mut answered = Vec::new();
        for n in 0.. {
            match Answer::try_of(http.post(&url).json(&text_push("413", &n.to_string()))).await {
                Ok(answer) if answer.status == 200 => answered.push(n.to_string()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        answered
    });
    world.client.until("some pushes", |all| all.len() > 20).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let answered = pushing.await.unwrap();
    world.bridge.start().await;
    world
        .client
        .until("every answered push", |all| {
            let seen: std::collections::HashSet<_> = all
                .iter()
                .filter(|message| message.topic == "ilink/recv/user/413/text")
                .map(|m| m.payload.clone())
                .collect();
            answered.iter().all(|text| seen.contains(text.as_bytes()))
        })
        .await;
}

/// Its request may have been lost on the way, and comes again after a second.
#[tokio::test]
async fn who_has_connected_before_the_stop_is_heard() {
    let mut world = World::ready().await;
    let request = raw_post(&format!("/{SECRET}"), text_push("413", "on the way").to_string().as_bytes());
    // On a busy machine that second may be longer than the bridge waits; not every time.
    for _ in 0..5 {
        let port = world.bridge.callback_port();
        let mut stream = raw_connection(port, b"").await;
        // They are accepted in turn.
        world.bridge.push(&text_push("412", "behind it")).await;
        world.bridge.process().signal(Signal::TERM);
        let closed = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err().then_some(());
        eventually("the callback to close", closed).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It may have been ended already.
        let _ = stream.write_all(&request).await;
        let answer = read_to_close(&mut stream, DEADLINE).await;
        assert_eq!(world.bridge.process().ended().await.code(), Some(0));
        world.bridge.start().await;
        if answer.starts_with("HTTP/1.1 200") {
            world.client.expect_text("ilink/recv/user/413/text", "on the way").await;
            return;
        }
        assert_eq!(answer, "");
    }
    panic!("its request is never heard");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_exits_73() {
    let world = World::ready().await;
    let mut second = Bridge::new(&world.broker, &world.sim)
        .with("state_dir", world.bridge.state_dir().to_str().unwrap())
        .with("mqtt.base_topic", "second");
    second.spawn();
    assert_eq!(second.process().ended().await.code(), Some(73));
    assert!(second.log().contains(world.bridge.state_dir().to_str().unwrap()), "{}", second.log());
    // The first goes on.
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect("ilink/recv/user/413/text").await;
}

#[tokio::test]
async fn an_unusable_state_directory_exits_73() {
    let world = World::prepared(&[], |bridge| bridge).await;
    let file = world.bridge.dir().join("a-file");
    std::fs::write(&file, "").unwrap();
    let mut bridge = Bridge::new(&world.broker, &world.sim).with("state_dir", file.join("state").to_str().unwrap());
    bridge.spawn();
    assert_eq!(bridge.process().ended().await.code(), Some(73));
    for verb in ["status", "query", "callback-url"] {
        let done = bridge.verb(&[verb]).await;
        assert!(done.code == Some(73) && done.text.contains("a-file"), "{verb}: {done:?}");
    }
}

#[tokio::test]
async fn the_state_directory_is_private() {
    let world = World::ready().await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect("ilink/result/send/user/413/text").await;
    let mode = |path: &std::path::Path| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777);
    let dir = world.bridge.state_dir();
    assert_eq!(mode(&dir), Some(0o700));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap().flatten() {
        // One that was only on its way to its own name may be gone.
        let is_gone = entry.path().extension() == Some("tmp".as_ref()) && !entry.path().exists();
        assert!(is_gone || mode(&entry.path()) == Some(0o600), "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    for name in ["identity.json", "token.json", "spool.db", "control.sock"] {
        assert!(names.iter().any(|seen| seen == name), "{name}: {names:?}");
    }
}

#[tokio::test]
async fn the_identity_is_made_once() {
    let mut world = World::prepared(&[], |bridge| bridge.without("callback.path_secret")).await;
    world.bridge.start().await;
    let url = async |world: &World| world.sim.state().await["registrations"][0]["url"].as_str().unwrap().to_owned();
    let first = url(&world).await;
    let secret = first.rsplit('/').next().unwrap();
    assert!(secret.len() >= 22, "less than 128 bits: {secret}");
    assert_eq!(world.sim.push(&json!({"from_uid": "413", "text": "to the secret"})).await.status, 200);
    world.client.expect_text("ilink/recv/user/413/text", "to the secret").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    assert_eq!(url(&world).await, first);
    assert!(!world.bridge.log().contains(secret), "the secret URL in the log");
}

#[tokio::test]
async fn configuration_errors_exit_64_and_say_what_is_allowed() {
    let world = World::prepared(&[], |bridge| bridge).await;
    let fresh = || Bridge::new(&world.broker, &world.sim);
    for (bridge, words) in [
        (fresh().with("ilink.secretkeys", "x"), &["ilink.secretkeys", "secretkey"][..]),
        (fresh().with("callbacks.listen", "127.0.0.1:1"), &["callbacks", "callback"]),
        (fresh().with("mqtt.output", "xml"), &["mqtt.output", "xml", "both", "raw", "json"]),
        (fresh().with("mqtt.base_topic", "a/+"), &["mqtt.base_topic", "a/+"]),
        (fresh().with("inbound.raw_max_age", "5 parsecs"), &["inbound.raw_max_age", "5 parsecs"]),
        (fresh().with("spool.max_bytes", "lots"), &["spool.max_bytes", "lots"]),
        (fresh().with("callback.public_url", "not a url"), &["callback.public_url"]),
        (fresh().with("callback.signature", "sha1"), &["callback.signature", "sha1", "chars"]),
        (fresh().with("callback.register", "never"), &["callback.token"]),
        (fresh().with_toml("outbound.concurrency", "0"), &["outbound.concurrency"]),
        (fresh().with("mqtt.protocol", "4"), &["mqtt.protocol", "3.1.1"]),
        (fresh().without("ilink.uid"), &["ilink.uid"]),
        (fresh().without("ilink.secretkey"), &["ilink.secretkey"]),
        (fresh().with("ilink.secretkey_file", "/x"), &["ilink.secretkey", "secretkey_file"]),
        (fresh().without("ilink.secretkey").with("ilink.secretkey_file", "/no/such"), &["secretkey_file", "/no/such"]),
        (fresh().with_toml("callback.allow", r#"["10.0.0.0/33"]"#), &["callback.allow", "10.0.0.0/33"]),
        (fresh().with_env("ILINK2MQTT_MQTT__OUTPTU", "raw"), &["ILINK2MQTT_MQTT__OUTPTU", "output"]),
        (fresh().with_env("ILINK2MQTT_MQTT__OUTPUT", "xml"), &["ILINK2MQTT_MQTT__OUTPUT", "xml"]),
    ] {
        for command in ["run", "check"] {
            let finished = bridge.verb(&[command]).await;
            assert_eq!(finished.code, Some(64), "{words:?}: {finished:?}");
            let text = finished.text.to_lowercase();
            for word in words {
                assert!(text.contains(&word.to_lowercase()), "{command}: {word:?} is not in: {}", finished.text);
            }
            assert!(!finished.text.contains(SECRETKEY), "{}", finished.text);
        }
    }
    let broken = finish(["--config", "/no/such/file.toml", "check"], &[]).await;
    assert_eq!(broken.code, Some(64), "{broken:?}");
    assert!(broken.text.contains("/no/such/file.toml"), "{broken:?}");
    let broken = finish(["--no-such-option"], &[]).await;
    assert_eq!(broken.code, Some(64), "{broken:?}");
    let broken = finish(["no-such-command"], &[]).await;
    assert_eq!(broken.code, Some(64), "{broken:?}");
}

#[tokio::test]
async fn the_environment_and_files_configure_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ilink.secretkey"), format!("{SECRETKEY}\n")).unwrap();
    let mut world = World::prepared(&[], |bridge| {
        bridge
            .without("ilink.secretkey")
            .without("ilink.uid")
            .with_env("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())
            // Digits stay a string.
            .with_env("ILINK2MQTT_ILINK__UID", "0414")
            .with_env("ILINK2MQTT_MQTT__OUTPUT", "json")
    })
    .await;
    world.bridge.start().await;
    let info = world.client.expect("ilink/bridge/info").await.json();
    assert_eq!(info["uid"], json!("0414"));
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect("ilink/event/text").await;
    assert!(world.client.all(|message| message.topic.starts_with("ilink/recv/")).is_empty());
}

#[tokio::test]
async fn check_prints_the_configuration_with_secrets_masked() {
    let world =
        World::prepared(&[], |bridge| bridge.with("mqtt.username", "u").with("mqtt.password", "hunter2hunter2")).await;
    let finished = world.bridge.verb(&["check"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for shown in ["base_topic", "raw_max_age", "max_content", "an-appkey"] {
        assert!(finished.text.contains(shown), "{shown}: {}", finished.text);
    }
    for secret in [SECRETKEY, "hunter2hunter2", crate::support::bridge::SECRET] {
        assert!(!finished.text.contains(secret), "{}", finished.text);
    }
    assert!(world.sim.calls("set_config").await.is_empty(), "check never registers");
}

#[tokio::test]
async fn a_reload_applies_what_it_can() {
    let mut world = World::ready().await;
    world.bridge.set_toml("inbound.allow_from", r#"["412"]"#);
    world.bridge.set_toml("ilink.subscribe.topics", r#"[{ subject = "new", qos = 1 }]"#);
    world.bridge.set("mqtt.output", "raw");
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world
        .sim
        .calls_until("ham_topic", "the new subscription", |calls| calls.iter().any(|call| call.code == Some(0)))
        .await;
    world.bridge.logged("takes effect at the next restart").await;
    world.bridge.logged("the configuration was reloaded").await;
    world.bridge.push(&text_push("413", "x")).await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!(event["not_allowed"], json!(true));
    // A broken file changes nothing.
    world.bridge.set("mqtt.output", "xml");
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world.bridge.logged("xml").await;
    world.bridge.push(&text_push("412", "y")).await;
    world.client.expect_text("ilink/recv/user/412/text", "y").await;
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let mut world = World::ready().await;
    world.sim.expire().await;
    world.client.publish("ilink/send/user/413/text", "a-private-message").await;
    world.client.expect("ilink/result/send/user/413/text").await;
    world.bridge.push(&text_push("413", "another-private-message")).await;
    world.client.expect("ilink/recv/user/413/text").await;
    world.sim.kill();
    world.client.publish("ilink/send/user/413/text", "a-private-message").await;
    world.bridge.logged("iLink: offline").await;
    let token = std::fs::read_to_string(world.bridge.state_dir().join("token.json")).unwrap();
    let identity = std::fs::read_to_string(world.bridge.state_dir().join("identity.json")).unwrap();
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let log = world.bridge.log();
    assert!(!log.is_empty());
    // Any long word of the state files may be a secret; the public ones are not in quotes of their own length.
    let state = format!("{token}{identity}");
    let words = state.split('"').filter(|word| word.len() >= 16 && word.chars().all(|c| c.is_ascii_alphanumeric()));
    for secret in words.chain([SECRETKEY, crate::support::bridge::SECRET]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    for content in ["a-private-message", "another-private-message"] {
        assert!(!log.contains(content) && !log.contains(&crate::support::bridge::base64(content.as_bytes())), "{log}");
    }
}
