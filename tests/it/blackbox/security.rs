//! TLS on every side, passwords, and who may see the admin listener.

use serde_json::json;

use super::world::World;
use crate::support::bridge::text_push;
use crate::support::http::{Answer, http, raw_connection, read_to_close};
use crate::support::mosquitto::free_port;
use crate::support::pki::{Authority, LOOPBACK};
use crate::support::{DEADLINE, eventually};

#[tokio::test]
async fn the_broker_over_tls_with_a_client_certificate() {
    let pki = Authority::new("the test's authority");
    pki.issue("broker", &LOOPBACK, &[]);
    pki.issue("bridge", &LOOPBACK, &[]);
    let port = free_port();
    let conf = format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        pki.file("ca.pem"),
        pki.file("broker.pem"),
        pki.file("broker.key")
    );
    let mut world = World::prepared_on(&conf, &[], |bridge| {
        bridge
            .with("mqtt.broker", &format!("mqtts://127.0.0.1:{port}"))
            .with("mqtt.tls.cert", &pki.file("bridge.pem"))
            .with("mqtt.tls.key", &pki.file("bridge.key"))
    })
    .await;
    // An unknown issuer is explained with its remedy.
    world.bridge.spawn();
    world.bridge.logged("mqtt.tls.ca").await;
    world.bridge.kill();

    world.bridge.set("mqtt.tls.ca", &pki.file("ca.pem"));
    world.bridge.start().await;
    world.bridge.push(&text_push("413", "over TLS")).await;
    world.client.expect_text("ilink/recv/user/413/text", "over TLS").await;
    world.client.publish("ilink/send/user/413/text", "back").await;
    world.client.expect("ilink/result/send/user/413/text").await;
}

#[tokio::test]
async fn the_callback_over_tls() {
    let pki = Authority::new("the test's authority");
    let world = World::ready_with(|bridge| bridge.with_callback_over_tls(&pki)).await;
    assert_eq!(world.sim.push(&json!({"from_uid": "413", "text": "secret"})).await.status, 200);
    world.client.expect_text("ilink/recv/user/413/text", "secret").await;
    // In the clear there is nothing.
    let plain = Answer::try_of(http().post(world.bridge.callback()).body("{}")).await;
    assert!(plain.is_err() || plain.is_ok_and(|answer| answer.status == 400), "plain HTTP is served too");
}

#[tokio::test]
async fn a_wrong_broker_password_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("passwords");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-c", "-b", passwords.to_str().unwrap(), "bridge", "the-right-one"])
        .status()
        .expect("mosquitto_passwd comes with Mosquitto");
    assert!(made.success());
    let conf = format!("password_file {}\n", passwords.display());
    let mut world = World::prepared_on(&conf, &[], |bridge| {
        bridge.with("mqtt.username", "bridge").with("mqtt.password", "the-wrong-one")
    })
    .await;
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    let ready = eventually("the refusal to be named", async || {
        let answer = world.bridge.admin("readyz").await;
        answer.body.contains("mqtt.password").then_some(answer)
    })
    .await;
    assert_eq!(ready.status, 503);
    assert!(!world.bridge.log().contains("the-wrong-one"));
    world.bridge.kill();
    world.bridge.set("mqtt.password", "the-right-one");
    world.bridge.start().await;
}

#[tokio::test]
async fn the_admin_listener_answers_only_its_own_names() {
    let world = World::ready().await;
    let port = world.bridge.admin_port();
    for (host, expected) in [("127.0.0.1", true), ("localhost", true), ("[::1]", true), ("evil.example", false)] {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        let mut stream = raw_connection(port, request.as_bytes()).await;
        let answer = read_to_close(&mut stream, DEADLINE).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), expected, "{host}: {answer}");
    }
    drop(world);
    let world = World::ready_with(|bridge| bridge.with_toml("admin.hosts", r#"["bridge.example"]"#)).await;
    let port = world.bridge.admin_port();
    let request = format!("GET /readyz HTTP/1.1\r\nHost: bridge.example:{port}\r\nConnection: close\r\n\r\n");
    let mut stream = raw_connection(port, request.as_bytes()).await;
    let answer = read_to_close(&mut stream, DEADLINE).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn off_loopback_the_admin_listener_needs_a_token() {
    let world = World::with_open_admin_listener("an-admin-token").await;
    let url = format!("http://127.0.0.1:{}", world.bridge.admin_port());
    let get = |path: &str| http().get(format!("{url}/{path}"));
    assert_eq!(Answer::of(get("healthz")).await.status, 200);
    assert_eq!(Answer::of(get("readyz")).await.status, 401);
    assert_eq!(Answer::of(get("readyz").bearer_auth("another")).await.status, 401);
    eventually("readiness", async || {
        (Answer::of(get("readyz").bearer_auth("an-admin-token")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(Answer::of(get("readyz").basic_auth("anyone", Some("an-admin-token"))).await.status, 200);
}

#[tokio::test]
async fn the_admin_listener_can_be_off() {
    let mut world = World::prepared(&[], |bridge| bridge.with("admin.listen", "")).await;
    world.bridge.spawn();
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    assert!(
        Answer::try_of(http().get(format!("http://127.0.0.1:{}/healthz", world.bridge.admin_port()))).await.is_err()
    );
}
