//! What is shipped for Mosquitto, in a real one: the bridge works with it, and nobody can do what is another's.

use std::process::{Command, Stdio};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, PubAckReason};
use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions};
use serde_json::json;

use crate::support::bridge::{Bridge, base64, text_push};
use crate::support::client::{Client, Out};
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;
use crate::support::{DEADLINE, eventually};

const CONF: &str = include_str!("../../../deploy/mosquitto/ilink2mqtt.conf");
const ACL: &str = include_str!("../../../deploy/mosquitto/ilink2mqtt.acl");
const PASSWORD: &str = "a password";

/// A house whose broker runs what is shipped.
struct House {
    bridge: Bridge,
    monitor: Client,
    broker: Mosquitto,
    sim: Sim,
    _files: tempfile::TempDir,
}

impl House {
    async fn ready() -> Self {
        Self::with("", ACL, |bridge| bridge).await
    }

    /// With these lines added to the broker's configuration, this ACL, and the bridge as configured.
    async fn with(conf: &str, acl: &str, configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let files = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(&(shipped_conf(&files, acl) + conf));
        let sim = Sim::start(&[]).await;
        let bridge = Bridge::new(&broker, &sim).with("mqtt.username", "ilink2mqtt").with("mqtt.password", PASSWORD);
        let mut bridge = configure(bridge);
        bridge.start().await;
        let monitor = Client::connect_as(&broker, Some(("monitor", PASSWORD))).await;
        monitor.subscribe("#").await;
        Self { bridge, monitor, broker, sim, _files: files }
    }

    async fn device(&self, user: &str) -> Client {
        Client::connect_as(&self.broker, Some((user, PASSWORD))).await
    }
}

/// The shipped configuration with its listener left to the test, its files in `files`, and a password for each user.
fn shipped_conf(files: &tempfile::TempDir, acl: &str) -> String {
    let dir = files.path().to_str().unwrap();
    let (acl_file, passwords) = (files.path().join("ilink2mqtt.acl"), files.path().join("ilink2mqtt.passwd"));
    std::fs::write(acl_file, acl).unwrap();
    std::fs::write(&passwords, "").unwrap();
    for user in ["ilink2mqtt", "monitor", "lamp", "fan"] {
        // In the same package as the broker.
        let set = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg(&passwords)
            .args([user, PASSWORD])
            .stderr(Stdio::null())
            .status()
            .expect("mosquitto_passwd runs");
        assert!(set.success(), "mosquitto_passwd: {set}");
    }
    let conf = CONF.replace("\nlistener 1883\n", "\n").replace("/etc/mosquitto/", &format!("{dir}/"));
    assert!(conf.len() != CONF.len() && conf.contains(&format!("acl_file {dir}/ilink2mqtt.acl\n")), "{conf}");
    conf
}

#[tokio::test]
async fn the_bridge_and_a_device_work_with_what_is_shipped() {
    let mut house = House::ready().await;
    let lamp = house.device("lamp").await;
    lamp.subscribe("ilink/by/lamp/#").await;
    lamp.subscribe("ilink/reply/lamp/#").await;
    lamp.send(Out::new("ilink/by/lamp/send/user/413/text", "x").respond_to("ilink/reply/lamp/1", b"c")).await;
    lamp.expect_json("ilink/by/lamp/result/send/user/413/text", |result| result["status"] == "ok").await;
    lamp.expect_text("ilink/by/lamp/ack/send/user/413/text", "ok").await;
    lamp.expect_json("ilink/reply/lamp/1", |result| result["status"] == "ok").await;
    lamp.publish("ilink/by/lamp/call/ham_group/list", "").await;
    lamp.expect_json("ilink/by/lamp/result/call/ham_group/list", |result| result["status"] == "ok").await;
    house.bridge.push(&text_push("413", "hello")).await;
    house.monitor.expect_text("ilink/recv/user/413/text", "hello").await;
    house.monitor.expect_json("ilink/event/text", |event| event["content"] == "hello").await;
    house.monitor.expect_text("ilink/bridge/state", "online").await;
    house.monitor.expect_json("ilink/bridge/info", |info| info["uid"] == "414").await;
    let log = house.bridge.log();
    assert!(!log.contains("broker refuse") && !log.contains("ACL"), "{log}");

    // A restart of the broker keeps sessions and what is retained.
    house.broker.restart();
    house.bridge.wait_ready().await;
    lamp.publish("ilink/by/lamp/send/user/413/text", "again").await;
    lamp.expect_json("ilink/by/lamp/result/send/user/413/text", |result| result["status"] == "ok").await;
}

#[tokio::test]
async fn a_device_cannot_speak_as_the_bridge_or_as_another() {
    let house = House::ready().await;
    let lamp = house.device("lamp").await;
    let forbidden = [
        "ilink/recv/user/413/text",
        "ilink/recv/group/1/413",
        "ilink/recv/topic/home/lamp",
        "ilink/presence/413",
        "ilink/event/text",
        "ilink/result/send/user/413/text",
        "ilink/by/lamp/result/send/user/413/text",
        "ilink/by/lamp/ack/send/user/413/text",
        "ilink/by/fan/result/send/user/413/text",
        "ilink/by/fan/ack/send/user/413/text",
        "ilink/by/fan/send/user/413/text",
        "ilink/by/fan/call/send_msg/text",
        "ilink/by/lamp",
        "ilink/by/lamp/x",
        "ilink/by//send/user/413/text",
        "ilink/bridge/state",
        "ilink/bridge/cloud",
        "ilink/bridge/info",
        "ilink/bridge/health",
        "ilink/call/self_test/0123456789abcdef",
        "ilink/call/send_msg/text",
        "ilink/send/user/413/text",
        "ilink/reply/lamp/x",
        "ilink",
        "anything/else",
    ];
    for topic in forbidden {
        for out in [Out::new(topic, "forged"), Out::new(topic, "forged").retained()] {
            assert_eq!(lamp.attempt(out).await, PubAckReason::NotAuthorized, "{topic}");
        }
        // QoS 0 is dropped without a word.
        lamp.send(Out::new(topic, "forged").qos0()).await;
    }
    // What it may do comes after all of that.
    lamp.publish("ilink/by/lamp/send/user/413/text", "true").await;
    house.monitor.expect("ilink/by/lamp/result/send/user/413/text").await;
    assert!(house.monitor.all(|message| message.payload == "forged").is_empty());
    assert_eq!(house.sim.calls("send_msg").await.len(), 1);
}

#[tokio::test]
async fn a_last_word_has_no_more_rights() {
    let house = House::ready().await;
    let fan = async |id: &str, topic: &str| {
        let will = LastWill::new(topic, "offline", QoS::AtLeastOnce, true, None);
        let configure = |options: &mut MqttOptions| {
            options.set_client_id(id.to_owned()).set_last_will(will);
        };
        Client::connect_with(house.broker.port(), Some(("fan", PASSWORD)), configure).await
    };
    let forger = fan("forger", "ilink/bridge/state").await;
    let honest = fan("honest", "ilink/by/fan/send/user/413/text").await;
    drop(forger);
    eventually("the forger's end", async || {
        let ended = |line: &str| line.contains("Client forger ") && !line.contains("connected from");
        house.broker.log().lines().any(ended).then_some(())
    })
    .await;
    drop(honest);
    // Wills can be refused and heard of: this one is, by its being retained.
    house.monitor.expect_json("ilink/by/fan/result/send/user/413/text", |result| result["name"] == "retained").await;
    let states = house.monitor.all(|message| message.topic == "ilink/bridge/state");
    assert!(states.iter().all(|message| message.payload == "online"), "{states:?}");
}

#[tokio::test]
async fn a_device_hears_only_its_own() {
    let house = House::ready().await;
    let (lamp, fan) = (house.device("lamp").await, house.device("fan").await);
    // Mosquitto grants every filter and drops what the ACL does not allow.
    for filter in [
        "#",
        "+/+/+/+/+/+/+",
        "ilink/#",
        "ilink/by/fan/#",
        "ilink/by/fan/result/#",
        "ilink/by/+/ack/#",
        "ilink/by/fan/send/#",
        "ilink/reply/#",
        "ilink/reply/fan/#",
        "ilink/send/#",
        "ilink/call/#",
        "ilink/recv/#",
        "ilink/event/#",
        "ilink/result/#",
        "ilink/presence/#",
        "ilink/bridge/#",
    ] {
        lamp.subscribe(filter).await;
    }
    fan.subscribe("ilink/by/fan/#").await;
    house.bridge.push(&text_push("413", "private")).await;
    house.monitor.expect_text("ilink/recv/user/413/text", "private").await;
    house.monitor.expect("ilink/event/text").await;
    let command = Out::new("ilink/by/fan/send/user/413/text", "private").respond_to("ilink/reply/fan/1", b"c");
    fan.send(command).await;
    fan.expect("ilink/by/fan/result/send/user/413/text").await;
    house.monitor.expect("ilink/by/fan/ack/send/user/413/text").await;
    house.monitor.expect("ilink/reply/fan/1").await;

    // What it may hear comes after all of that.
    lamp.publish("ilink/by/lamp/send/user/413/text", "x").await;
    lamp.expect("ilink/by/lamp/ack/send/user/413/text").await;
    let own = ["ilink/by/lamp/result/", "ilink/by/lamp/ack/"];
    let heard = lamp.all(|message| !own.iter().any(|own| message.topic.starts_with(own)));
    assert!(heard.is_empty(), "{heard:?}");
    // It hears nothing of what is retained either.
    let late = house.device("lamp").await;
    late.subscribe("ilink/#").await;
    lamp.publish("ilink/by/lamp/send/user/413/text", "y").await;
    late.expect("ilink/by/lamp/ack/send/user/413/text").await;
    let heard = late.all(|message| !own.iter().any(|own| message.topic.starts_with(own)));
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn a_monitor_says_nothing_and_a_stranger_does_not_come_in() {
    let house = House::ready().await;
    for topic in [
        "ilink/send/user/413/text",
        "ilink/call/ham_group/list",
        "ilink/by/monitor/send/user/413/text",
        "ilink/by/monitor/call/ham_group/list",
        "ilink/by/lamp/send/user/413/text",
        "ilink/recv/user/413/text",
        "ilink/bridge/state",
        "ilink/reply/monitor/x",
        "$SYS/x",
    ] {
        assert_eq!(house.monitor.attempt(Out::new(topic, "x")).await, PubAckReason::NotAuthorized, "{topic}");
    }
    assert!(house.sim.calls("send_msg").await.is_empty());
    for stranger in [None, Some(("lamp", "a wrong password")), Some(("nobody", PASSWORD))] {
        let mut options = MqttOptions::new("stranger", "127.0.0.1", house.broker.port());
        if let Some((user, password)) = stranger {
            options.set_credentials(user, password);
        }
        let (_client, mut eventloop) = AsyncClient::new(options, 10);
        let answer = tokio::time::timeout(DEADLINE, eventloop.poll()).await.expect("the broker answers");
        assert!(
            matches!(answer, Err(ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))),
            "{stranger:?}: {answer:?}"
        );
    }
}

/// With the line that the configuration offers, another user cannot take the bridge's client id.
#[tokio::test]
async fn user_names_as_client_ids_keep_impostors_off() {
    let line = "use_username_as_clientid true\n";
    assert!(CONF.contains(&format!("#   {line}")));
    let mut house = House::with(line, ACL, |bridge| bridge).await;
    let as_the_bridge = |options: &mut MqttOptions| {
        options.set_client_id("ilink2mqtt-414".to_owned()).set_clean_start(true);
    };
    let lamp = Client::connect_with(house.broker.port(), Some(("lamp", PASSWORD)), as_the_bridge).await;
    lamp.subscribe("ilink/by/lamp/#").await;
    lamp.publish("ilink/by/lamp/send/user/413/text", "x").await;
    lamp.expect("ilink/by/lamp/ack/send/user/413/text").await;
    house.bridge.wait_ready().await;
    let states = house.monitor.all(|message| message.topic == "ilink/bridge/state");
    assert!(states.iter().all(|message| message.payload == "online"), "{states:?}");
}

/// The limits of the two sides fit: what the callback takes, the broker takes.
#[tokio::test]
async fn the_largest_push_passes() {
    const LARGEST: usize = 1 << 20;
    let house = House::ready().await;
    let mut push =
        json!({"to_uid": "414", "from_uid": "413", "msg_type": 2, "content": "", "create_time": 1_457_408_202});
    let room = (LARGEST - push.to_string().len()) / 4 * 3;
    let content = vec![0xff; room];
    push["content"] = base64(&content).into();
    let mut body = push.to_string().into_bytes();
    body.resize(LARGEST, b' ');
    let answer = house.bridge.post_bytes(body).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})));
    let raw = house.monitor.expect("ilink/recv/user/413/file").await;
    assert!(raw.payload == content, "{} bytes", raw.payload.len());
    let event = house.monitor.expect_json("ilink/event/file", |_| true).await;
    assert_eq!(event["content"], push["content"]);
}

/// For another configuration the printed lines do what the file does for the default one.
#[tokio::test]
async fn what_check_prints_is_enough() {
    let configure =
        |bridge: Bridge| bridge.with("mqtt.base_topic", "home/im").with_toml("mqtt.response_topics", "[\"answers/+\"]");
    let (broker, sim) = (Mosquitto::start(""), Sim::absent(&[]));
    let printing = configure(Bridge::new(&broker, &sim)).with("mqtt.username", "ilink2mqtt").with("mqtt.password", "x");
    printing.write_config();
    let printed = printing.verb(&["check", "--acl"]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.text);
    let acl = printed.stdout.replace("# pattern ", "pattern ") + "user monitor\ntopic read #\n";
    let house = House::with("", &acl, configure).await;
    let lamp = house.device("lamp").await;
    lamp.subscribe("home/im/by/lamp/#").await;
    lamp.send(Out::new("home/im/by/lamp/send/user/413/text", "x").respond_to("answers/lamp", b"c")).await;
    lamp.expect_text("home/im/by/lamp/ack/send/user/413/text", "ok").await;
    house.monitor.expect_json("answers/lamp", |result| result["status"] == "ok").await;
    house.bridge.push(&text_push("413", "hello")).await;
    house.monitor.expect_text("home/im/recv/user/413/text", "hello").await;
    assert_eq!(lamp.attempt(Out::new("home/im/recv/user/413/text", "x")).await, PubAckReason::NotAuthorized);
    let log = house.bridge.log();
    assert!(!log.contains("broker refuse") && !log.contains("ACL"), "{log}");
}
