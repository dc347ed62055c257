//! Home Assistant, as its MQTT integration sees the bridge: a client that reads what is under the discovery prefix.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, UID, base64};
use crate::support::client::{Client, Message, Out};
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

/// Two of iLink, six of queues, one present, one contact, one for messages.
const ENTITIES: usize = 11;

fn enabled(bridge: Bridge) -> Bridge {
    bridge
        .with_toml("homeassistant.enabled", "true")
        .with_toml("homeassistant.contacts", r#"[{ uid = "413", name = "Ann" }]"#)
        .with_toml("ilink.subscribe.presence", r#"["413"]"#)
}

async fn world(configure: impl FnOnce(Bridge) -> Bridge) -> World {
    let mut world = World::prepared(&[], |bridge| configure(enabled(bridge))).await;
    world.client.subscribe("homeassistant/#").await;
    world.bridge.start().await;
    world
}

fn is_config(message: &Message) -> bool {
    message.topic.starts_with("homeassistant/") && message.topic.ends_with("/config")
}

/// What every entity was told to be in the end, once so many configurations came.
async fn entities(client: &Client, times: usize) -> BTreeMap<String, Value> {
    let configs = client.gather("configurations", times * ENTITIES, is_config).await;
    assert!(configs.iter().all(|config| config.retain), "{configs:?}");
    configs.into_iter().map(|config| (config.topic.clone(), config.json())).collect()
}

fn one<'e>(entities: &'e BTreeMap<String, Value>, component: &str, object: &str) -> &'e Value {
    &entities[&format!("homeassistant/{component}/ilink2mqtt_{UID}/{object}/config")]
}

/// The retained topics under this prefix that somebody finds who comes now.
async fn retained(world: &World, filter: &str) -> Vec<String> {
    let late = Client::connect(&world.broker).await;
    late.subscribe(filter).await;
    late.settle().await;
    late.all(|message| message.retain).into_iter().map(|message| message.topic).collect()
}

#[tokio::test]
async fn it_finds_every_entity_and_each_works() {
    let world = world(|bridge| bridge).await;
    let entities = entities(&world.client, 1).await;
    assert_eq!(entities.len(), ENTITIES);

    // What the state of each is made of is there, retained, for whoever starts after us.
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    world.client.expect_text("ilink/presence/413", "offline").await;
    let there = retained(&world, "ilink/#").await;
    for config in entities.values() {
        for key in ["state_topic", "availability_topic", "json_attributes_topic"] {
            let topic = config[key].as_str().filter(|topic| !topic.contains('+'));
            assert!(topic.is_none_or(|topic| there.iter().any(|other| other == topic)), "{topic:?} in {there:?}");
        }
    }
    assert_eq!(one(&entities, "binary_sensor", "cloud")["state_topic"], "ilink/bridge/cloud");
    let options = &one(&entities, "sensor", "cloud_state")["options"];
    assert!(options.as_array().unwrap().contains(&json!("online")), "{options}");

    // The templates name what is in the health report.
    let health = world.client.expect("ilink/bridge/health").await.json();
    for queue in ["inbound", "outbound", "set_aside"] {
        for (object, value) in [("depth", "depth"), ("age", "oldest_s")] {
            let config = one(&entities, "sensor", &format!("{queue}_{object}"));
            assert_eq!(config["state_topic"], "ilink/bridge/health");
            let template = config["value_template"].as_str().unwrap();
            assert!(template.contains(&format!("value_json.queues.{queue}.{value} ")), "{template}");
            assert!(health["queues"][queue].as_object().unwrap().contains_key(value), "{health}");
        }
    }

    // Presence flips.
    let sensor = one(&entities, "binary_sensor", "presence_413");
    let push = json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": 1, "time": 4_000_000_000_u64});
    world.bridge.push(&push).await;
    let state = sensor["state_topic"].as_str().unwrap();
    world.client.expect_text(state, sensor["payload_on"].as_str().unwrap()).await;

    // A notification goes out.
    let notify = one(&entities, "notify", "notify_413");
    assert_eq!(notify["name"], "Ann");
    world.client.publish(notify["command_topic"].as_str().unwrap(), "the door is open").await;
    let calls = world.sim.calls_until("send_msg", "the notification", |calls| !calls.is_empty()).await;
    assert_eq!(
        (&calls[0].body["accept_uid"], &calls[0].body["content"]),
        (&json!("413"), &json!(base64(b"the door is open")))
    );

    // A message is an event of a type that was told.
    let event = one(&entities, "event", "message");
    assert_eq!(event["state_topic"], "ilink/event/+");
    world.bridge.push(&crate::support::bridge::text_push("413", "hello")).await;
    let envelope = world.client.expect("ilink/event/text").await.json();
    assert!(event["event_types"].as_array().unwrap().contains(&envelope["kind"]), "{envelope}");
}

#[tokio::test]
async fn it_is_told_again_when_it_has_started() {
    for protocol in ["5", "3.1.1"] {
        let world = world(|bridge| bridge.with("mqtt.protocol", protocol)).await;
        let first = entities(&world.client, 1).await;
        // Nobody has to wait for this one: the next says that it was read.
        world.client.publish("homeassistant/status", "offline").await;
        world.client.publish("homeassistant/status", "online").await;
        assert_eq!(entities(&world.client, 2).await, first);
        // Retained, as some configure it, and at QoS 0, which is Home Assistant's default.
        world.client.send(Out::new("homeassistant/status", "online").qos0().retained()).await;
        assert_eq!(entities(&world.client, 3).await, first);
        world.client.settle().await;
        assert_eq!(world.client.all(is_config).len(), 3 * ENTITIES);
        // It is no command, and has no result.
        let results = world.client.all(|message| message.topic.contains("/result/"));
        assert!(results.is_empty(), "{results:?}");
        assert!(world.sim.calls("send_msg").await.is_empty());
    }
}

#[tokio::test]
async fn a_route_that_hears_it_too_hears_it_once() {
    let route = "\n[[route.to_ilink]]\nname = \"ha\"\nsubscribe = \"homeassistant/+\"\nto = \"user/413/text\"\npayload = \"ha ${payload}\"\n";
    let world = world(|bridge| bridge.with_tables(route)).await;
    entities(&world.client, 1).await;
    world.client.publish("homeassistant/status", "online").await;
    entities(&world.client, 2).await;
    world.client.publish("homeassistant/other", "last").await;
    let calls = world.sim.calls_until("send_msg", "both", |calls| calls.len() >= 2).await;
    let said: Vec<_> = calls.iter().map(|call| call.body["content"].clone()).collect();
    assert_eq!(said, [json!(base64(b"ha online")), json!(base64(b"ha last"))]);
}

#[tokio::test]
async fn what_is_configured_no_longer_is_taken_back() {
    let mut world = world(|bridge| bridge.with_toml("ilink.subscribe.presence", r#"["413","412"]"#)).await;
    world.client.gather("configurations", ENTITIES + 1, is_config).await;
    let presence = |uid: &str| format!("homeassistant/binary_sensor/ilink2mqtt_{UID}/presence_{uid}/config");

    // By a reload.
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world.client.expect_text(&presence("413"), "").await;
    eventually("one entity less", async || (retained(&world, "homeassistant/#").await.len() == ENTITIES).then_some(()))
        .await;

    // By a restart, after a crash even.
    world.bridge.kill();
    world.bridge.set_toml("ilink.subscribe.presence", "[]");
    world.bridge.set_toml("homeassistant.contacts", "[]");
    world.bridge.start().await;
    world.client.expect_text(&presence("412"), "").await;
    world.client.expect_text(&format!("homeassistant/notify/ilink2mqtt_{UID}/notify_413/config"), "").await;
    let left = eventually("two entities less", async || {
        let left = retained(&world, "homeassistant/#").await;
        (left.len() == ENTITIES - 2).then_some(left)
    })
    .await;
    assert!(left.iter().all(|topic| !topic.contains("presence") && !topic.contains("notify")), "{left:?}");

    // And all of it when it is switched off; then there is nothing to hear either.
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_toml("homeassistant.enabled", "false");
    world.bridge.start().await;
    eventually("nothing to be left", async || retained(&world, "homeassistant/#").await.is_empty().then_some(())).await;
    eventually("the bridge to unsubscribe", async || {
        world.broker.log().contains("Received UNSUBSCRIBE from ilink2mqtt-414").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_printed_rights_are_enough() {
    let sim = Sim::start(&[]).await;
    let lines = enabled(Bridge::at("mqtt://127.0.0.1:1", &sim)).verb(&["check", "--acl"]).await;
    assert_eq!(lines.code, Some(0), "{}", lines.text);
    for line in ["topic read homeassistant/status", "topic write homeassistant/+/ilink2mqtt_414/+/config"] {
        assert!(lines.stdout.lines().any(|printed| printed == line), "{line} in {}", lines.stdout);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, format!("{}\nuser monitor\ntopic readwrite #\n", lines.stdout).as_bytes())
        .unwrap();
    let broker = Mosquitto::start(&format!("acl_file {}", file.path().display()));
    let client = Client::connect_as(&broker, Some(("monitor", "x"))).await;
    client.subscribe("homeassistant/#").await;
    let mut bridge = enabled(Bridge::new(&broker, &sim));
    bridge.start().await;
    entities(&client, 1).await;
    client.publish("homeassistant/status", "online").await;
    entities(&client, 2).await;
}

#[tokio::test]
async fn without_envelopes_there_is_a_warning_and_no_event_entity() {
    let world = world(|bridge| bridge.with("mqtt.output", "raw")).await;
    let configs = world.client.gather("configurations", ENTITIES - 1, is_config).await;
    assert!(configs.iter().all(|config| !config.topic.contains("/event/")), "{configs:?}");
    assert!(world.bridge.log().contains("leaves out the envelopes"), "{}", world.bridge.log());
}
