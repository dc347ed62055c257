//! Numbers that cross a limit, with the payloads that devices really send: Tasmota, zigbee2mqtt, `ESPHome`, Shelly Gen 2.

use serde_json::json;

use super::{World, counted, eventually, receiver_and_text, sensor, texts, told, world};
use crate::support::client::Out;

/// The examples of routes.md.
pub(super) const NUMBERS: &str = r#"
[[route.to_ilink]]
name = "heat"
subscribe = "tele/+/SENSOR"
to = "user/413/text"
value = "${json:/AM2301/Temperature}"
above = 30
hysteresis = 2
round = 1
payload = "${1} is at ${value} °C"

[[route.to_ilink]]
name = "humidity"
subscribe = "zigbee2mqtt/+"
to = "user/413/text"
value = "${json:/humidity}"
above = 70
below = 30
payload = "${1}: ${value} %"

[[route.to_ilink]]
name = "pump"
subscribe = "cellar/sensor/+/state"
to = "user/413/text"
below = 0.5
payload = "${1} is low: ${value} bar"

[[route.to_ilink]]
name = "forgotten"
subscribe = "kettle/events/rpc"
to = "user/413/text"
value = "${json:/params/switch:0/apower}"
above = 5
for = "1s"
payload = "the kettle draws ${value} W"

[[route.to_ilink]]
name = "meter"
subscribe = "meter/status/switch:0"
to = "topic/home/power"
value = "${json:/apower}"
round = 0
on_change = true
"#;

/// What a zigbee2mqtt climate sensor says.
fn climate(humidity: f64) -> String {
    json!({"battery": 97, "humidity": humidity, "linkquality": 131, "temperature": 21.3, "voltage": 3000}).to_string()
}

/// What a Shelly Gen 2 says on `<id>/events/rpc` when a switch's power changes.
fn notify_status(apower: f64) -> String {
    json!({"src": "shellyplus1pm-a8032abe54dc", "dst": "kettle/events", "method": "NotifyStatus",
        "params": {"ts": 1_631_266_595.43, "switch:0": {"id": 0, "apower": apower}}})
    .to_string()
}

/// And on `<id>/status/switch:0`.
fn switch_status(apower: f64) -> String {
    json!({"id": 0, "source": "timer", "output": true, "apower": apower, "voltage": 225.9, "current": 0.041,
        "aenergy": {"total": 11.679, "by_minute": [0.0, 0.0, 0.0], "minute_ts": 1_626_935_779},
        "temperature": {"tC": 53.3, "tF": 127.9}})
    .to_string()
}

async fn said(world: &World, topic: &str, payloads: impl IntoIterator<Item = String>) {
    for payload in payloads {
        world.client.publish(topic, payload).await;
    }
}

#[tokio::test]
async fn a_tasmota_gets_too_hot_once_until_it_has_cooled_down() {
    let world = world(NUMBERS).await;
    said(&world, "tele/hall/SENSOR", [21.5, 30.0, 30.26, 31.0, 29.0, 31.0, 27.9, 32.0].map(sensor)).await;
    said(&world, "tele/attic/SENSOR", [35.04].map(sensor)).await;
    assert_eq!(texts(&world, 3).await, ["hall is at 30.3 °C", "hall is at 32.0 °C", "attic is at 35.0 °C"]);
    counted(&world, "heat", "not_crossed 6").await;
}

#[tokio::test]
async fn a_zigbee_sensor_leaves_its_band_on_either_side() {
    let world = world(NUMBERS).await;
    said(&world, "zigbee2mqtt/bath", [55.0, 71.5, 80.0, 20.0, 25.0, 50.0, 29.0].map(climate)).await;
    assert_eq!(texts(&world, 3).await, ["bath: 71.5 %", "bath: 20.0 %", "bath: 29.0 %"]);
}

#[tokio::test]
async fn a_bare_number_of_esphome_and_what_is_none() {
    let world = world(NUMBERS).await;
    let topic = "cellar/sensor/pressure/state";
    let not_numbers = ["nan", "NaN", "inf", "-inf", "1e999", "0,4", "", "true", "unknown", "0.4 bar", "0x0"];
    for payload in not_numbers {
        world.client.send(Out::new(topic, payload).retained()).await;
        world.client.publish(topic, payload).await;
    }
    for payload in ["1.2", "0.43", "0.41"] {
        world.client.publish(topic, payload).await;
    }
    assert_eq!(texts(&world, 1).await, ["pressure is low: 0.43 bar"]);
    counted(&world, "pump", &format!("missing {}", not_numbers.len())).await;
    counted(&world, "pump", "not_crossed 2").await;
}

#[tokio::test]
async fn a_shelly_that_draws_power_for_long_is_told_without_another_word_of_it() {
    let world = world(NUMBERS).await;
    // Too short.
    said(&world, "kettle/events/rpc", [2000.0, 0.0].map(notify_status)).await;
    counted(&world, "forgotten", "lasting 1").await;
    said(&world, "kettle/events/rpc", [1999.0, 2001.5].map(notify_status)).await;
    // What is about something else.
    let other = json!({"method": "NotifyStatus", "params": {"ts": 1.0, "sys": {"uptime": 5}}}).to_string();
    said(&world, "kettle/events/rpc", [other]).await;
    assert_eq!(texts(&world, 1).await, ["the kettle draws 2001.5 W"]);
    counted(&world, "forgotten", "fired 1").await;
    counted(&world, "forgotten", "missing 1").await;
}

#[tokio::test]
async fn a_rounded_reading_is_a_change_only_when_it_shows() {
    let world = world(NUMBERS).await;
    said(&world, "meter/status/switch:0", [8.9, 9.1, 9.4, 9.6, -0.2].map(switch_status)).await;
    let calls = world.sim.calls_until("ham_topic", "three readings", |calls| calls.len() == 3).await;
    let read: Vec<_> = calls.iter().map(|call| receiver_and_text(&call.body).1).collect();
    assert_eq!(read, ["9", "10", "0"]);
    counted(&world, "meter", "unchanged 2").await;
}

#[tokio::test]
async fn what_was_told_is_known_after_a_crash() {
    let mut world = world(NUMBERS).await;
    said(&world, "tele/hall/SENSOR", [31.0].map(sensor)).await;
    texts(&world, 1).await;
    // What is remembered of it is stored with the next message at the latest.
    said(&world, "tele/attic/SENSOR", [31.0].map(sensor)).await;
    texts(&world, 2).await;
    world.bridge.waiting("outbound", 0).await;
    world.bridge.kill();
    world.bridge.start().await;
    said(&world, "tele/hall/SENSOR", [31.5, 27.0, 33.0].map(sensor)).await;
    assert_eq!(texts(&world, 3).await[2], "hall is at 33.0 °C");
    counted(&world, "heat", "not_crossed 2").await;
}

#[tokio::test]
async fn what_lasts_goes_on_across_a_restart() {
    let mut world = world(NUMBERS).await;
    said(&world, "kettle/events/rpc", [2000.0].map(notify_status)).await;
    counted(&world, "forgotten", "lasting 1").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    assert_eq!(texts(&world, 1).await, ["the kettle draws 2000.0 W"]);
}

#[tokio::test]
async fn an_alarm_that_ilink_did_not_get_is_told_by_the_next_reading() {
    let world = world(NUMBERS).await;
    world.sim.answer_code("send_msg", 1010, 1).await;
    said(&world, "tele/hall/SENSOR", [31.0].map(sensor)).await;
    counted(&world, "heat", "failed 1").await;
    said(&world, "tele/hall/SENSOR", [31.0, 31.2].map(sensor)).await;
    eventually("the second try", async || (told(&world).await.len() == 1).then_some(())).await;
    counted(&world, "heat", "not_crossed 1").await;
}

#[tokio::test]
async fn a_dry_run_shows_when_a_number_counts() {
    let world = World::prepared(&[], |bridge| bridge.with_tables(NUMBERS)).await;
    for (topic, payload, says) in [
        (
            "tele/hall/SENSOR",
            sensor(30.26),
            "heat: sends a text to user 413: hall is at 30.3 °C (once, when 30.26 is newly above the limit)\n",
        ),
        ("tele/hall/SENSOR", sensor(30.0), "heat: does not fire: 30 is not above 30\n"),
        ("tele/hall/SENSOR", "{}".to_owned(), "heat: does not fire: there is no ${json:/AM2301/Temperature}\n"),
        ("zigbee2mqtt/bath", climate(50.0), "humidity: does not fire: 50 is not above 70 or below 30\n"),
        ("cellar/sensor/x/state", "0,4".to_owned(), "pump: does not fire: the value is not a number\n"),
        (
            "kettle/events/rpc",
            notify_status(7.0),
            "forgotten: sends a text to user 413: the kettle draws 7.0 W (once, when 7 is newly above the limit and has \
             stayed so for 1s)\n",
        ),
        ("meter/status/switch:0", switch_status(8.9), "meter: sends to topic home/power: 9\n"),
    ] {
        let ran = world.bridge.verb(&["route", "test", "--topic", topic, &payload]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), says), "{}", ran.text);
    }
    let list = world.bridge.verb(&["route", "list"]).await.stdout;
    for line in [
        "humidity: to iLink user/413/text from zigbee2mqtt/+ (above 70, below 30)",
        "forgotten: to iLink user/413/text from kettle/events/rpc (above 5, for 1s)",
    ] {
        assert!(list.lines().any(|other| other == line), "{line} in\n{list}");
    }
}
