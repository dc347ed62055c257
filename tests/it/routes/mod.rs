//! Routes, from outside: devices with topics and payloads of their own, a real broker, the simulated service.
//!
//! Payloads are as the projects document them: Tasmota (`cmnd/…`, `stat/…`, `tele/…`), zigbee2mqtt
//! (`zigbee2mqtt/<name>`, `…/set`) and `ESPHome` (`<prefix>/<component>/<id>/state`, retained).

mod answers;
mod durable;
mod examples;
mod limits;
mod numbers;
mod reload;
mod verbs;

use serde_json::{Value, json};

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, TIME, UID, base64};
use crate::support::eventually;

/// The examples of routes.md.
const EXAMPLES: &str = r#"
[[route.from_ilink]]                  # "lamp on" → Tasmota
name = "power"
from = "user/413/text"
match = '(?i)^(?<dev>lamp|fan) (?<v>on|off)$'
topic = "cmnd/${dev}/POWER"
payload = "${v|upper}"

[[route.from_ilink]]                  # a word table
name = "heater"
from = "group/4cdad356-85b4-008627/413"
match = '^暖气(?<v>开|关)$'
map.v = { "开" = "ON", "关" = "OFF" }
topic = "cmnd/heater/POWER"
payload = "${v}"
max_age = "30s"

[[route.from_ilink]]                  # JSON in, zigbee2mqtt out
name = "dim"
from = "topic/home/lamp"
topic = "zigbee2mqtt/lamp/set"
payload = '{"brightness":${json:/level}}'

[[route.to_ilink]]                    # a state back
name = "power-state"
subscribe = "stat/+/POWER"
to = "user/413/text"
payload = "${1}: ${payload}"
on_change = true

[[route.to_ilink]]                    # a reading, newest only
name = "temp"
subscribe = "tele/+/SENSOR"
to = "topic/home/${1}/temp"
payload = "${json:/AM2301/Temperature}"
keep = "latest"
ttl = "1h"
min_interval = "5m"
"#;

/// What a Tasmota with an AM2301 says every `TelePeriod`.
fn sensor(temperature: f64) -> String {
    format!(
        r#"{{"Time":"2026-11-23T07:00:00","AM2301":{{"Temperature":{temperature},"Humidity":54.7,"DewPoint":12.2}},"TempUnit":"C"}}"#
    )
}

fn group_push(group: &str, from: &str, text: &str) -> Value {
    json!({"to_uid": UID, "group_id": group, "from_uid": from, "msg_type": 3, "content": base64(text.as_bytes()), "create_time": TIME})
}

fn topic_push(subject: &str, text: &str) -> Value {
    json!({"to_uid": UID, "group_id": subject, "from_uid": "413", "msg_type": 4, "content": base64(text.as_bytes()), "create_time": TIME})
}

/// A ready world with these routes, whose client hears devices' topics too.
async fn world(routes: &str) -> World {
    world_with(routes, |bridge| bridge).await
}

async fn world_with(routes: &str, configure: impl FnOnce(Bridge) -> Bridge) -> World {
    let mut world = World::prepared(&[], |bridge| configure(bridge.with_tables(routes))).await;
    for filter in ["cmnd/#", "zigbee2mqtt/+/set", "out/#"] {
        world.client.subscribe(filter).await;
    }
    world.bridge.start().await;
    world
}

/// Receiver and text of the messages that iLink took, in order.
async fn told(world: &World) -> Vec<(String, String)> {
    let calls = world.sim.calls("send_msg").await;
    calls.iter().filter(|call| call.code == Some(0)).map(|call| receiver_and_text(&call.body)).collect()
}

fn receiver_and_text(body: &Value) -> (String, String) {
    use base64::Engine as _;
    let content = base64::engine::general_purpose::STANDARD.decode(body["content"].as_str().unwrap()).unwrap();
    let receiver = ["accept_uid", "group_id", "subject"].iter().find_map(|key| body[*key].as_str());
    (receiver.unwrap().to_owned(), String::from_utf8(content).unwrap())
}

/// Waits until iLink took so many messages, and gives their texts.
async fn texts(world: &World, n: usize) -> Vec<String> {
    eventually(&format!("{n} messages to iLink"), async || {
        let all: Vec<String> = told(world).await.into_iter().map(|(_, text)| text).collect();
        (all.len() >= n).then_some(all)
    })
    .await
}

/// Waits until `status` says this of a route.
async fn counted(world: &World, route: &str, count: &str) {
    let line = format!("route {route}:");
    eventually(&format!("{line} {count}"), async || {
        let status = world.bridge.verb(&["status"]).await.stdout;
        let ours = status.lines().find(|text| text.trim_start().starts_with(&line))?;
        ours.split([':', ',']).any(|part| part.trim() == count).then_some(())
    })
    .await;
}
