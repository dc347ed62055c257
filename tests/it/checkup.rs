//! `check --connect`: every step names its cause and its remedy, and a bridge that runs does not notice.

use rumqttc::v5::mqttbytes::v5::ConnAckProperties;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::client::Client;
use crate::support::deserted::Deserted;
use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::process::Finished;
use crate::support::scripted_broker::{ScriptedBroker, limits};
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud};
use crate::support::sim::{SECRETKEY, Sim};

async fn check(bridge: &Bridge) -> Finished {
    let done = bridge.verb(&["check", "--connect"]).await;
    assert!(!done.text.contains(SECRETKEY) && !done.text.contains(SECRET), "{done:?}");
    done
}

/// That a line of this level and step says all of these words.
#[track_caller]
fn says(done: &Finished, level: &str, step: &str, words: &[&str]) {
    let begin = format!("{level:<6}{step:<13}");
    let found = done
        .stdout
        .lines()
        .any(|line| line.strip_prefix(&begin).is_some_and(|text| words.iter().all(|word| text.contains(word))));
    assert!(found, "no line `{begin}… {words:?}` in\n{}", done.text);
}

/// Nothing failed but this step, and the exit code says so.
#[track_caller]
fn only_fails(done: &Finished, step: &str) {
    for line in done.stdout.lines().filter(|line| line.starts_with("fail")) {
        assert_eq!(line.split_whitespace().nth(1), Some(step), "{}", done.text);
    }
    assert_eq!(done.code, Some(69), "{}", done.text);
}

#[tokio::test]
async fn all_is_well_and_a_running_bridge_does_not_notice() {
    let mut world = World::ready().await;
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    world.client.expect("ilink/bridge/health").await;
    let tokens = world.sim.calls("get_access_token").await.len();
    let before = world.sim.calls("set_config").await.len();

    let done = check(&world.bridge).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    for (step, words) in [
        ("bridge", &["it runs"][..]),
        ("clock", &["agrees"]),
        ("api", &["answers"]),
        ("credentials", &["accepts", "registered"]),
        ("broker", &["lets us in"]),
        ("publish", &["granted for 9 topics"]),
        ("subscribe", &["granted for 6 topics"]),
        ("subscribe", &["arrives"]),
        ("callback", &["leads to the running bridge"]),
    ] {
        says(&done, "ok", step, words);
    }
    // iLink was asked through the bridge, and only asked.
    let asked = world.sim.calls("set_config").await;
    assert_eq!(asked.len(), before + 1);
    assert_eq!(asked.last().unwrap().body["action_type"], json!(2));
    assert_eq!(world.sim.calls("get_access_token").await.len(), tokens);
    // Its token lives, its session is its own, both ways.
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == "ok").await;
    world.bridge.push(&text_push("413", "y")).await;
    world.client.expect_text("ilink/recv/user/413/text", "y").await;
    assert_eq!(world.sim.calls("get_access_token").await.len(), tokens);
    assert!(!world.bridge.log().contains("the connection to the broker was lost"), "{}", world.bridge.log());
    // Nothing is retained that was not before, and nothing was taken for a command.
    let late = Client::connect(&world.broker).await;
    late.subscribe("#").await;
    late.expect("ilink/bridge/info").await;
    late.settle().await;
    assert!(late.all(|message| message.topic.contains("self_test")).is_empty());
    assert!(world.client.all(|message| message.topic.starts_with("ilink/result/call/self_test")).is_empty());
    assert_eq!(world.bridge.stop().await.code(), Some(0));
}

#[tokio::test]
async fn before_the_first_start() {
    let world = World::prepared(&[], |bridge| bridge.without("callback.path_secret")).await;
    let done = check(&world.bridge).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    says(&done, "ok", "bridge", &["does not run"]);
    says(&done, "ok", "credentials", &["will register"]);
    says(&done, "ok", "callback", &["leads to callback.listen", "unchanged"]);
    assert!(!world.bridge.state_dir().exists(), "it changes nothing");
    let asked = world.sim.calls("set_config").await;
    assert!(asked.iter().all(|call| call.body["action_type"] == 2) && asked.len() == 1, "{asked:?}");
    assert!(world.sim.calls("get_access_token").await.is_empty());
}

#[tokio::test]
async fn the_broker_is_down_or_refuses() {
    let sim = Sim::start(&[]).await;
    let deserted = Deserted::new();
    let nobody = Bridge::at(&deserted.url("mqtt"), &sim);
    let done = check(&nobody).await;
    says(&done, "fail", "broker", &["refuses the connection", "mqtt.broker"]);
    only_fails(&done, "broker");

    let broker = ScriptedBroker::bind().await;
    let useless = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim);
    let nothing = ConnAckProperties { receive_max: Some(0), ..limits() };
    let (done, _peer) = tokio::join!(check(&useless), broker.accept(false, nothing));
    says(&done, "fail", "broker", &["a receive maximum of 0"]);
    only_fails(&done, "broker");

    let unknown = Bridge::at("mqtt://no-such-host.invalid", &sim);
    let done = check(&unknown).await;
    says(&done, "fail", "dns", &["mqtt.broker", "no-such-host.invalid", "correct the name"]);
    assert_eq!(done.code, Some(69), "{done:?}");

    let mut passwords = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut passwords, b"me:$7$101$AAAA$AAAA\n").unwrap();
    let broker = Mosquitto::start(&format!("allow_anonymous false\npassword_file {}", passwords.path().display()));
    let wrong = Bridge::new(&broker, &sim).with("mqtt.username", "me").with("mqtt.password", "wrong-password");
    let done = check(&wrong).await;
    says(&done, "fail", "broker", &["check mqtt.username and mqtt.password"]);
    only_fails(&done, "broker");
    assert!(!done.text.contains("wrong-password"), "{done:?}");
}

#[tokio::test]
async fn an_acl_lacks_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acl");
    let of = |acl: &str| {
        std::fs::write(&file, acl).unwrap();
        format!("acl_file {}\nmax_queued_messages 1000\n", file.display())
    };
    let sim = Sim::start(&[]).await;
    // All that `--acl` prints but one line.
    let broker = Mosquitto::start("");
    let acl = Bridge::new(&broker, &sim).verb(&["check", "--acl"]).await.stdout;
    let one_less = acl.replace("topic write ilink/event/#\n", "");
    assert_ne!(one_less, acl);
    let broker = Mosquitto::start(&of(&one_less));
    let done = check(&Bridge::new(&broker, &sim)).await;
    says(&done, "fail", "publish", &["ilink/event/# is refused", "topic write ilink/event/#"]);
    says(&done, "ok", "publish", &["granted for 8 of 9"]);
    only_fails(&done, "publish");
    // On 3.1.1 nobody can tell.
    let done = check(&Bridge::new(&broker, &sim).with("mqtt.protocol", "3.1.1")).await;
    says(&done, "warn", "publish", &["3.1.1", "check --acl"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    // A subscription that is granted and then starved.
    let broker = Mosquitto::start(&of(&acl.replace("topic read ilink/call/#\n", "")));
    let done = check(&Bridge::new(&broker, &sim)).await;
    says(&done, "fail", "subscribe", &["does not arrive", "check --acl"]);
    only_fails(&done, "subscribe");
    // And with all lines all is well.
    let broker = Mosquitto::start(&of(&acl));
    let done = check(&Bridge::new(&broker, &sim)).await;
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test]
async fn ilink_is_down_or_refuses() {
    let broker = Mosquitto::start("");
    let done = check(&Bridge::new(&broker, &Sim::absent(&[]))).await;
    says(&done, "fail", "api", &["refuses connections", "ilink.api"]);
    says(&done, "warn", "clock", &["no answer"]);
    only_fails(&done, "api");

    let sim = Sim::start(&[]).await;
    let done = check(&Bridge::new(&broker, &sim).with("ilink.secretkey", "a-wrong-secretkey")).await;
    says(&done, "fail", "credentials", &["1000", "ilink.secretkey"]);
    only_fails(&done, "credentials");
    assert!(!done.text.contains("a-wrong-secretkey"), "{done:?}");
}

#[tokio::test]
async fn a_callback_that_ilink_cannot_verify_is_a_fault() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    // Without a bridge, iLink's answer is all there is.
    world.sim.answer_code("set_config", 1006, 1).await;
    let done = check(&world.bridge).await;
    says(&done, "fail", "registration", &["1006", "callback.public_url", "start it"]);
    only_fails(&done, "registration");
    // A bridge knows more: what its callback saw. It stays so also while a mere query is answered otherwise.
    let asked = world.sim.calls("set_config").await.len();
    world.sim.answer_code("set_config", 1006, 2).await;
    world.bridge.spawn();
    world.sim.calls_until("set_config", "a query and a registration", |calls| calls.len() == asked + 2).await;
    world.client.expect_text("ilink/bridge/cloud", "degraded").await;
    let done = check(&world.bridge).await;
    says(&done, "fail", "session", &["degraded", "1006"]);
    only_fails(&done, "session");
}

#[tokio::test]
async fn trouble_at_ilink_that_passes_is_no_fault() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    world.sim.answer_code("set_config", 1016, 0).await;
    world.bridge.spawn();
    world.client.expect_text("ilink/bridge/cloud", "degraded").await;
    let done = check(&world.bridge).await;
    says(&done, "warn", "session", &["degraded", "1016"]);
    says(&done, "warn", "credentials", &["not verified: iLink is in trouble", "1016", "try again later"]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test]
async fn what_ilink_was_asked_too_often_is_not_asked_again() {
    let world = World::prepared(&[], |bridge| bridge).await;
    std::fs::create_dir(world.bridge.state_dir()).unwrap();
    world.sim.answer_code("set_config", 1004, 1).await;
    let done = check(&world.bridge).await;
    says(&done, "warn", "credentials", &["too often"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let asked = world.sim.calls("set_config").await.len();
    // Neither by this, nor by the verbs without a daemon.
    says(&check(&world.bridge).await, "warn", "credentials", &["not asked now", "not again before"]);
    for verb in ["query", "register", "unregister"] {
        let done = world.bridge.verb(&[verb]).await;
        assert_eq!(done.code, Some(69), "{verb}: {done:?}");
        assert!(done.text.contains("not again before"), "{verb}: {done:?}");
    }
    assert_eq!(world.sim.calls("set_config").await.len(), asked);
}

#[tokio::test]
async fn a_clock_that_is_far_off() {
    let cloud = ScriptedCloud::start_with(|_| {
        let headers = "Content-Type: application/json\r\nDate: Fri, 02 Jan 2026 03:04:05 GMT\r\n";
        Behaviour::response("200 OK", headers, r#"{"code":0}"#)
    })
    .await;
    let broker = Mosquitto::start("");
    let bridge = Bridge::new(&broker, &Sim::absent(&[])).with("ilink.api", cloud.api.as_str());
    let done = check(&bridge).await;
    says(&done, "fail", "clock", &["ahead of iLink's", "timedatectl"]);
    only_fails(&done, "clock");
}

#[tokio::test]
async fn the_callback_is_not_where_it_should_be() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    let elsewhere = Deserted::new();
    world.bridge.set("callback.public_url", &elsewhere.url("http"));
    // Nobody there: perhaps only this machine does not get there.
    let done = check(&world.bridge).await;
    says(&done, "warn", "callback", &["cannot be reached from this machine", "from outside"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    // Somebody else.
    world.bridge.set("callback.public_url", &world.sim.url());
    let done = check(&world.bridge).await;
    says(&done, "fail", "callback", &["something else than the bridge (404", "callback.public_url"]);
    only_fails(&done, "callback");
    // The port is taken.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", world.bridge.callback_port())).unwrap();
    let done = check(&world.bridge).await;
    says(&done, "warn", "callback", &["is in use"]);
}

/// iLink repeats what gets no answer, and gives up what was answered.
#[tokio::test]
async fn what_is_posted_while_the_way_is_tried_gets_no_answer() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    let way = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.bridge.set("callback.public_url", &format!("http://{}", way.local_addr().unwrap()));
    let callback = world.bridge.callback_port();
    let posting = tokio::spawn(async move {
        // The check asks its way, so it listens.
        let _asking = way.accept().await.unwrap();
        let mut peer = tokio::net::TcpStream::connect(("127.0.0.1", callback)).await.unwrap();
        peer.write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        let mut answer = Vec::new();
        // A reset is no answer either.
        let _ = peer.read_to_end(&mut answer).await;
        answer
    });
    check(&world.bridge).await;
    assert_eq!(posting.await.unwrap(), b"");
}

/// Writes a certificate for localhost and its key: valid for so many days from now.
fn certificate(dir: &std::path::Path, days: i64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let (past, year) = (rcgen::date_time_ymd(2024, 1, 1), if days < 0 { 2025 } else { 2090 });
    (params.not_before, params.not_after) = (past, rcgen::date_time_ymd(year, 1, 1));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let [cert, key_file] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert.to_str().unwrap().to_owned(), key_file.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn certificates_that_have_expired() {
    let sim = Sim::start(&[]).await;
    for (days, level, word) in [(-1, "fail", "has expired on 2025-01-01"), (1, "ok", "valid until 2090-01-01")] {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = certificate(dir.path(), days);
        let port = free_port();
        let tls = format!("listener {port} 127.0.0.1\ncafile {cert}\ncertfile {cert}\nkeyfile {key}\n");
        let _broker = Mosquitto::start(&tls);
        let bridge = Bridge::at(&format!("mqtts://localhost:{port}"), &sim)
            .with("mqtt.tls.ca", &cert)
            .with("callback.tls.cert", &cert)
            .with("callback.tls.key", &key);
        let public = format!("https://localhost:{}", bridge.callback_port());
        let done = check(&bridge.with("callback.public_url", &public)).await;
        for key in ["mqtt.broker", "callback.tls.cert"] {
            says(&done, level, "certificate", &[key, word]);
        }
        // Of no authority that this machine knows.
        says(&done, "warn", "callback", &["not trusted"]);
        if days < 0 {
            says(&done, "fail", "broker", &["localhost"]);
            assert_eq!(done.code, Some(69), "{done:?}");
        } else {
            assert_eq!(done.code, Some(0), "{done:?}");
        }
    }
}

#[tokio::test]
async fn inside_a_container_localhost_is_the_container() {
    let world = World::prepared(&[], |bridge| bridge.with_env("container", "podman")).await;
    let done = check(&world.bridge).await;
    says(&done, "warn", "dns", &["mqtt.broker", "inside a container"]);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_told_first() {
    let sim = Sim::absent(&[]);
    let done = check(&Bridge::at("mqtt://127.0.0.1:1", &sim).with("mqtt.output", "xml")).await;
    assert_eq!(done.code, Some(64), "{done:?}");
    let done = check(&Bridge::at("mqtts://127.0.0.1:1", &sim).with("mqtt.tls.ca", "/nonexistent/ca.pem")).await;
    assert_eq!(done.code, Some(64), "{done:?}");
    assert!(done.text.contains("mqtt.tls.ca"), "{done:?}");

    // What is there, and is no certificate or no key of this one, is found without connecting, all at once.
    let dir = tempfile::tempdir().unwrap();
    let ((cert, _), other) = (certificate(dir.path(), 1), tempfile::tempdir().unwrap());
    let (_, key) = certificate(other.path(), 1);
    let bridge = Bridge::at("mqtts://127.0.0.1:1", &sim)
        .with("ilink.tls.ca", &key)
        .with("mqtt.tls.ca", &key)
        .with_toml("cluster.endpoints", r#"["https://127.0.0.1:1"]"#)
        .with("cluster.tls.ca", &key)
        .with("callback.tls.cert", &cert)
        .with("callback.tls.key", &key);
    for verb in [&["check"][..], &["check", "--connect"]] {
        let done = bridge.verb(verb).await;
        assert_eq!(done.code, Some(64), "{done:?}");
        for says in
            ["ilink.tls.ca", "mqtt.tls.ca", "cluster.tls.ca", "no certificate", "callback.tls.key", "does not belong"]
        {
            assert!(done.text.contains(says), "{says}: {done:?}");
        }
    }
    assert_eq!(bridge.verb(&["check", "--acl"]).await.code, Some(0), "it needs no files");
}
