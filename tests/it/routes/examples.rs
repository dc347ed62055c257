//! The five examples of routes.md, and what else the three projects' devices say.

use serde_json::json;

use super::{EXAMPLES, World, counted, group_push, receiver_and_text, sensor, texts, told, topic_push, world};
use crate::support::bridge::text_push;
use crate::support::client::Out;

#[tokio::test]
async fn a_word_switches_a_tasmota_and_its_state_comes_back() {
    let world = world(EXAMPLES).await;
    world.bridge.push(&text_push("413", "Lamp On")).await;
    let order = world.client.expect_text("cmnd/Lamp/POWER", "ON").await;
    assert!(!order.retain);
    assert_eq!(order.user("route"), Some("power"));
    // The message itself comes as ever, under the same id.
    assert_eq!(world.client.expect("ilink/recv/user/413/text").await.user("id"), order.user("id"));
    world.client.expect("ilink/event/text").await;

    // A Tasmota answers at QoS 0, on two topics.
    for state in ["ON", "ON", "OFF"] {
        world.client.send(Out::new("stat/Lamp/RESULT", json!({"POWER": state}).to_string()).qos0()).await;
        world.client.send(Out::new("stat/Lamp/POWER", state).qos0()).await;
    }
    assert_eq!(texts(&world, 2).await, ["Lamp: ON", "Lamp: OFF"]);
    assert_eq!(told(&world).await[0].0, "413");
    counted(&world, "power-state", "unchanged 1").await;
    // What went well is told to nobody.
    world.client.settle().await;
    assert!(world.client.all(|message| message.topic.starts_with("ilink/result/")).is_empty());

    // Other words, and other people's, are only messages.
    world.bridge.push(&text_push("413", "good morning")).await;
    world.bridge.push(&text_push("412", "lamp on")).await;
    world.client.expect("ilink/recv/user/412/text").await;
    counted(&world, "power", "no_match 1").await;
    assert_eq!(world.client.all(|message| message.topic.starts_with("cmnd/")).len(), 1);
}

#[tokio::test]
async fn a_word_table_in_a_group() {
    let world = world(EXAMPLES).await;
    let group = "4cdad356-85b4-008627";
    for (word, state) in [("暖气开", "ON"), ("暖气关", "OFF")] {
        world.bridge.push(&group_push(group, "413", word)).await;
        world.client.expect_text("cmnd/heater/POWER", state).await;
    }
    world.bridge.push(&group_push(group, "412", "暖气开")).await;
    world.client.expect(&format!("ilink/recv/group/{group}/412")).await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic.starts_with("cmnd/")).len(), 2);
}

#[tokio::test]
async fn json_dims_a_zigbee_lamp() {
    let world = world(EXAMPLES).await;
    world.bridge.push(&topic_push("home/lamp", r#"{"level":120}"#)).await;
    let set = world.client.expect("zigbee2mqtt/lamp/set").await;
    assert_eq!(set.json(), json!({"brightness": 120}));
    for nothing in ["{}", "no json", r#"{"level":null}"#] {
        world.bridge.push(&topic_push("home/lamp", nothing)).await;
    }
    counted(&world, "dim", "missing 3").await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic == "zigbee2mqtt/lamp/set").len(), 1);
}

#[tokio::test]
async fn a_tasmotas_reading_reaches_a_topic() {
    let world = world(EXAMPLES).await;
    world.client.send(Out::new("tele/hall/STATE", r#"{"Time":"2026-11-23T07:00:00","POWER":"ON"}"#).qos0()).await;
    world.client.send(Out::new("tele/hall/SENSOR", sensor(21.5)).qos0()).await;
    // Within five minutes of the first.
    world.client.send(Out::new("tele/hall/SENSOR", sensor(22.0)).qos0()).await;
    world.client.send(Out::new("tele/attic/SENSOR", sensor(-3.5)).qos0()).await;
    let calls = world.sim.calls_until("ham_topic", "two readings", |calls| calls.len() == 2).await;
    let mut read: Vec<_> = calls.iter().map(|call| receiver_and_text(&call.body)).collect();
    read.sort();
    let reading = |subject: &str, text: &str| (subject.to_owned(), text.to_owned());
    assert_eq!(read, [reading("home/attic/temp", "-3.5"), reading("home/hall/temp", "21.5")]);
    counted(&world, "temp", "too_soon 1").await;
}

#[tokio::test]
async fn esphome_states_are_retained() {
    let routes = r#"
[[route.to_ilink]]
name = "esphome"
subscribe = "livingroom/switch/+/state"
match = '^(?<v>ON|OFF)$'
map.v = { "ON" = "开", "OFF" = "关" }
to = "group/g1"
payload = "${1} ${v}"
retained = true
on_change = true

[[route.from_ilink]]
name = "relay"
from = "group/g1/413"
match = '^(?<id>\w+) (?<v>on|off)$'
topic = "livingroom/switch/${id}/command"
payload = "${v|upper}"
"#;
    let mut world = World::prepared(&[], |bridge| bridge.with_tables(routes)).await;
    world.client.subscribe("livingroom/#").await;
    // The node is there before the bridge.
    world.client.send(Out::new("livingroom/switch/relay/state", "ON").retained()).await;
    world.bridge.start().await;
    world.bridge.push(&group_push("g1", "413", "relay off")).await;
    world.client.expect_text("livingroom/switch/relay/command", "OFF").await;
    world.client.send(Out::new("livingroom/switch/relay/state", "OFF").retained()).await;
    let calls = world.sim.calls_until("send_msg", "two states", |calls| calls.len() >= 2).await;
    let told: Vec<_> = calls.iter().map(|call| receiver_and_text(&call.body).1).collect();
    assert_eq!(told, ["relay 开", "relay 关"]);
    // The simulator knows no such group: a failure is told, to whoever listens.
    for _ in 0..2 {
        let result = world.client.expect("ilink/result/route/esphome").await.json();
        assert_eq!((&result["status"], &result["name"]), (&json!("error"), &json!("no_such_group")), "{result}");
    }
    counted(&world, "esphome", "failed 2").await;
    // What could not be delivered was not told: the same state is told again.
    world.client.send(Out::new("livingroom/switch/relay/state", "OFF").retained()).await;
    world.sim.calls_until("send_msg", "the state once more", |calls| calls.len() == 3).await;
}

#[tokio::test]
async fn a_zigbee_contact_and_button() {
    let routes = r#"
[[route.to_ilink]]
name = "contact"
subscribe = "zigbee2mqtt/+"
to = "user/413/text"
map."json:/contact" = { "true" = "closed", "false" = "open" }
payload = "${1} is ${json:/contact}, battery ${json:/battery} %"
on_change = true

[[route.to_ilink]]
name = "button"
subscribe = "zigbee2mqtt/+/action"
to = "user/413/text"
payload = '{"button":${1|json},"action":${payload|json}}'
"#;
    let world = world(routes).await;
    let door = |contact: bool, battery: u8| {
        json!({"battery": battery, "contact": contact, "device_temperature": 24, "linkquality": 96, "voltage": 3035})
            .to_string()
    };
    world.client.publish("zigbee2mqtt/front door", door(false, 100)).await;
    world.client.publish("zigbee2mqtt/front door", door(false, 100)).await;
    world.client.publish("zigbee2mqtt/front door", door(true, 99)).await;
    // A lamp has no contact.
    world.client.publish("zigbee2mqtt/lamp", r#"{"state":"ON","brightness":215,"linkquality":90}"#).await;
    world.client.publish("zigbee2mqtt/remote \"1\"/action", "brightness_up_click").await;
    assert_eq!(
        texts(&world, 3).await,
        [
            "front door is open, battery 100 %",
            "front door is closed, battery 99 %",
            r#"{"button":"remote \"1\"","action":"brightness_up_click"}"#,
        ]
    );
    counted(&world, "contact", "missing 1").await;
}
