//! Home Assistant, as its MQTT integration sees the bridge: a client that reads what is under the discovery prefix.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, UID, base64, push_of};
use crate::support::client::{Client, Message, Out};
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;
use crate::support::{eventually, within};

/// Two of iLink, six of queues, one present, three contacts, one's picture, one for messages.
const ENTITIES: usize = 14;

const CONTACTS: &str =
    r#"[{ uid = "413", name = "Ann" }, { group = "g/1", name = "Family" }, { subject = "home/lamp", name = "Lamp" }]"#;

fn enabled(bridge: Bridge) -> Bridge {
    bridge
        .with_toml("homeassistant.enabled", "true")
        .with_toml("homeassistant.contacts", CONTACTS)
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
async fn groups_and_subjects_are_written_to() {
    let world = world(|bridge| bridge).await;
    let entities = entities(&world.client, 1).await;
    for (object, path, field, to) in [
        ("group_notify_g_2F1", "send_msg", "group_id", "g/1"),
        ("topic_notify_home_2Flamp", "ham_topic", "subject", "home/lamp"),
    ] {
        let notify = one(&entities, "notify", object);
        world.client.publish(notify["command_topic"].as_str().unwrap(), "dinner").await;
        let calls = world.sim.calls_until(path, "the notification", |calls| !calls.is_empty()).await;
        assert_eq!((&calls[0].body[field], &calls[0].body["content"]), (&json!(to), &json!(base64(b"dinner"))));
    }
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest";
const JPEG: &[u8] = b"\xff\xd8\xff and the rest";

#[tokio::test]
async fn the_last_picture_of_a_contact_stays() {
    let mut world = world(|bridge| bridge.with_toml("inbound.allow_from", r#"["413", "412"]"#)).await;
    let entities = entities(&world.client, 1).await;
    let topic = one(&entities, "image", "picture_413")["image_topic"].as_str().unwrap().to_owned();
    assert_eq!(topic, "ilink/picture/413");
    for (from, file) in [("413", PNG), ("412", PNG), ("413", &b"a text file"[..]), ("413", JPEG)] {
        world.bridge.push(&push_of(from, 2, file)).await;
    }
    // A text is no file, whatever it begins with.
    world.bridge.push(&push_of("413", 1, b"GIF89a")).await;
    world.client.expect("ilink/recv/user/413/text").await;
    let pictures = world.client.all(|message| message.topic.starts_with("ilink/picture/"));
    let told: Vec<_> =
        pictures.iter().map(|p| (p.topic.as_str(), &p.payload[..], p.properties.content_type.as_deref())).collect();
    assert_eq!(told, [(&*topic, PNG, Some("image/png")), (&*topic, JPEG, Some("image/jpeg"))]);
    assert!(pictures.iter().all(|picture| picture.retain && picture.user("kind") == Some("file")), "{pictures:?}");
    assert_eq!(retained(&world, "ilink/picture/#").await, std::slice::from_ref(&topic));

    // It goes when he is a contact no more; of who may not say anything there is none.
    world.bridge.stop().await;
    world.bridge.set_toml("homeassistant.contacts", r#"[{ uid = "500", name = "Bob" }]"#);
    world.bridge.start().await;
    world.client.expect_where("the picture to be cleared", |m| m.topic == topic && m.payload.is_empty()).await;
    world.bridge.push(&push_of("500", 2, PNG)).await;
    world.client.expect_json("ilink/event/file", |event| event["not_allowed"] == true).await;
    eventually("nothing to be left", async || retained(&world, "ilink/picture/#").await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_queue_sensors_show_what_waits_now() {
    let mut world = world(|bridge| bridge).await;
    let waiting = |health: &Value| health["queues"]["inbound"]["depth"].as_u64().unwrap();
    world.broker.stop();
    world.bridge.push(&crate::support::bridge::text_push("413", "x")).await;
    // Its first words are of what waited while the broker was away.
    world.broker.restart();
    world.client.expect_text("ilink/recv/user/413/text", "x").await;
    let last = || world.client.all(|message| message.topic == "ilink/bridge/health").last().map(Message::json);
    // Long before the minute is over, within which it was not told before; a slow machine may take some of it.
    let limit = std::time::Duration::from_secs(40);
    within(limit, "the empty queue to be told", async || last().filter(|health| waiting(health) == 0)).await;
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
    let left = eventually("five entities less", async || {
        let left = retained(&world, "homeassistant/#").await;
        (left.len() == ENTITIES - 5).then_some(left)
    })
    .await;
    let others = ["presence", "notify", "picture"];
    assert!(left.iter().all(|topic| others.iter().all(|other| !topic.contains(other))), "{left:?}");

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
    for line in [
        "topic read homeassistant/status",
        "topic write homeassistant/+/ilink2mqtt_414/+/config",
        "topic write ilink/picture/+",
    ] {
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
    client.subscribe("ilink/picture/#").await;
    bridge.push(&push_of("413", 2, PNG)).await;
    client.expect("ilink/picture/413").await;
}

#[tokio::test]
async fn without_envelopes_there_is_a_warning_and_no_event_entity() {
    let world = world(|bridge| bridge.with("mqtt.output", "raw")).await;
    let configs = world.client.gather("configurations", ENTITIES - 1, is_config).await;
    assert!(configs.iter().all(|config| !config.topic.contains("/event/")), "{configs:?}");
    assert!(world.bridge.log().contains("leaves out the envelopes"), "{}", world.bridge.log());
}
