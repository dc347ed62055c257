//! A push of each kind arrives on its topics, in both payload forms, with what MQTT 5 carries beside.

use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{TIME, UID, base64, push_of, text_push};
use crate::support::client::Message;

/// The envelope without what the bridge makes up, after checking that.
fn envelope(message: &Message) -> Value {
    assert_eq!(message.qos, QoS::AtLeastOnce, "{message:?}");
    assert!(!message.retain, "{message:?}");
    assert_eq!(message.properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.properties.payload_format_indicator, Some(1));
    let mut json = message.json();
    let fields = json.as_object_mut().expect("an object");
    assert_eq!(fields.remove("v"), Some(json!(1)));
    let id = fields.remove("id").expect("an id");
    assert_eq!(id.as_str().map(str::len), Some(26), "not a ULID: {id}");
    assert_eq!(message.user("id"), id.as_str());
    let received_at = fields.remove("received_at").expect("when it was received");
    let received_at = received_at.as_str().expect("a text");
    assert_eq!(received_at.len(), "2026-01-02T03:04:05.678Z".len(), "{received_at}");
    assert!(humantime::parse_rfc3339(received_at).is_ok(), "{received_at}");
    assert_eq!(message.user("kind"), fields["kind"].as_str());
    json
}

/// What every raw copy has, besides its topic and payload.
fn check_raw(message: &Message, kind: &str, utf8: bool) {
    assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false), "{message:?}");
    let content_type = if utf8 { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    assert_eq!(message.properties.content_type.as_deref(), Some(content_type), "{message:?}");
    assert_eq!(message.properties.payload_format_indicator == Some(1), utf8, "{message:?}");
    assert_eq!(message.user("kind"), Some(kind), "{message:?}");
    let rest = message.properties.message_expiry_interval.expect("the rest of raw_max_age");
    assert!((1..=300).contains(&rest), "{rest}");
}

#[tokio::test]
async fn text() {
    let world = World::ready().await;
    world.bridge.push(&text_push("413", "你好")).await;
    let raw = world.client.expect_text("ilink/recv/user/413/text", "你好").await;
    check_raw(&raw, "text", true);
    assert_eq!((raw.user("from_uid"), raw.user("time")), (Some("413"), Some("1457408202")));
    assert_eq!(raw.user("group_id"), None);
    let event = world.client.expect("ilink/event/text").await;
    assert_eq!(event.user("id"), raw.user("id"), "every copy has the same id");
    assert_eq!(event.properties.message_expiry_interval, None, "an event is a record, it does not expire");
    assert_eq!(
        envelope(&event),
        json!({"kind": "text", "from_uid": "413", "to_uid": UID, "time": TIME, "content": "你好", "encoding": "utf8"})
    );
}

#[tokio::test]
async fn file_of_any_bytes() {
    let world = World::ready().await;
    let bytes = [0xff, 0x00, 0xfe, b'x'];
    world.bridge.push(&push_of("413", 2, &bytes)).await;
    let raw = world.client.expect("ilink/recv/user/413/file").await;
    assert_eq!(raw.payload, bytes.as_slice());
    check_raw(&raw, "file", false);
    let event = world.client.expect("ilink/event/file").await;
    assert_eq!(
        envelope(&event),
        json!({"kind": "file", "from_uid": "413", "to_uid": UID, "time": TIME, "content": base64(&bytes),
            "encoding": "base64"})
    );
}

#[tokio::test]
async fn group_message_with_either_type() {
    let world = World::ready().await;
    // The manual's table says 3, its sample has 1.
    for (msg_type, text) in [(3, "by the table"), (1, "by the sample")] {
        let push = json!({"to_uid": UID, "from_uid": "413", "group_id": "4cdad356-85b4-008627", "create_time": TIME,
            "msg_type": msg_type, "content": base64(text.as_bytes())});
        world.bridge.push(&push).await;
        let raw = world.client.expect_text("ilink/recv/group/4cdad356-85b4-008627/413", text).await;
        check_raw(&raw, "group", true);
        assert_eq!(raw.user("group_id"), Some("4cdad356-85b4-008627"));
        let event = world.client.expect("ilink/event/group").await;
        assert_eq!(
            envelope(&event),
            json!({"kind": "group", "from_uid": "413", "to_uid": UID, "group_id": "4cdad356-85b4-008627", "time": TIME,
                "content": text, "encoding": "utf8"})
        );
    }
}

#[tokio::test]
async fn topic_message() {
    let world = World::ready().await;
    let push = json!({"to_uid": UID, "from_uid": "413", "group_id": "home/lamp", "create_time": TIME, "msg_type": 4,
        "content": base64(b"on")});
    world.bridge.push(&push).await;
    let raw = world.client.expect_text("ilink/recv/topic/home/lamp", "on").await;
    check_raw(&raw, "topic", true);
    let event = world.client.expect("ilink/event/topic").await;
    assert_eq!(
        envelope(&event),
        json!({"kind": "topic", "from_uid": "413", "to_uid": UID, "subject": "home/lamp", "time": TIME,
            "content": "on", "encoding": "utf8"})
    );
}

#[tokio::test]
async fn presence_is_retained() {
    let world = World::ready().await;
    for (state, time, payload) in [(1, 100, "online"), (0, 200, "offline")] {
        let push = json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": state, "time": time});
        world.bridge.push(&push).await;
        let raw = world.client.expect_text("ilink/presence/413", payload).await;
        assert!(raw.retain, "{raw:?}");
        assert_eq!(raw.properties.message_expiry_interval, None);
        let event = world.client.expect("ilink/event/presence").await;
        assert_eq!(
            envelope(&event),
            json!({"kind": "presence", "from_uid": "413", "to_uid": UID, "time": time, "online": state == 1})
        );
    }
    // Older than the last published one: not the present state.
    world.bridge.push(&json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": 1, "time": 150})).await;
    let event = world.client.expect("ilink/event/presence").await;
    assert_eq!(event.json()["online"], json!(true));
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic == "ilink/presence/413").len(), 2);
}

#[tokio::test]
async fn anything_else_is_other_and_kept_whole() {
    let world = World::ready().await;
    let others = [
        json!({"msg_type": 99, "what": {"ever": [1, 2, 3]}}),
        // Ids that their topics need, empty or missing.
        json!({"to_uid": UID, "from_uid": "", "msg_type": 1, "content": base64(b"x")}),
        json!({"to_uid": UID, "msg_type": 2, "content": base64(b"x")}),
        json!({"to_uid": UID, "from_uid": "413", "group_id": "", "msg_type": 3, "content": base64(b"x")}),
        json!({}),
    ];
    for push in &others {
        world.bridge.push(push).await;
        let event = world.client.expect("ilink/event/other").await;
        let envelope = envelope(&event);
        assert_eq!((&envelope["kind"], &envelope["body"]), (&json!("other"), push));
    }
    world.client.settle().await;
    assert!(world.client.all(|message| message.topic.starts_with("ilink/recv/")).is_empty());
}

#[tokio::test]
async fn liberal_in_what_it_takes() {
    let world = World::ready().await;
    // Ids as numbers, an integer as a string, keys with stray spaces, unknown fields, another content type.
    let body = format!(
        r#"{{"to_uid":{UID},"from_uid ":413," msg_type":"1","content":"{}","create_time":"{TIME}","more":null}}"#,
        base64(b"liberal").trim_end_matches('=')
    );
    world.bridge.push(&serde_json::from_str(&body).unwrap()).await;
    world.client.expect_text("ilink/recv/user/413/text", "liberal").await;
    let event = world.client.expect("ilink/event/text").await;
    assert_eq!(envelope(&event)["from_uid"], json!("413"));
    assert_eq!(event.json()["time"], json!(TIME));

    let push =
        json!({"to_uid": UID, "from_uid": "413", "msg_type": 1, "content": "not base64 at all!", "create_time": 1});
    world.bridge.push(&push).await;
    world.client.expect_text("ilink/recv/user/413/text", "not base64 at all!").await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!((&event["content"], &event["content_not_base64"]), (&json!("not base64 at all!"), &json!(true)));
}

#[tokio::test]
async fn ids_become_one_level_each() {
    let world = World::ready().await;
    world.bridge.push(&text_push("a/b+c#d%e\u{1}", "x")).await;
    world.client.expect_text("ilink/recv/user/a%2Fb%2Bc%23d%25e%01/text", "x").await;
    for (subject, levels) in
        [("a//b", "a/%2Fb"), ("a/", "a%2F"), ("/a", "%2Fa"), ("a/b/c", "a/b/c"), ("a///b", "a/%2F%2Fb")]
    {
        let push =
            json!({"to_uid": UID, "from_uid": "413", "group_id": subject, "msg_type": 4, "content": base64(b"x")});
        world.bridge.push(&push).await;
        world.client.expect(&format!("ilink/recv/topic/{levels}")).await;
    }
}

#[tokio::test]
async fn output_raw_publishes_only_raw() {
    let world = World::ready_with(|bridge| bridge.with("mqtt.output", "raw")).await;
    world.bridge.push(&text_push("413", "one")).await;
    world.bridge.push(&json!({"from_uid": "413", "type": 1, "time": 1, "msg_type": 4})).await;
    world.client.expect("ilink/recv/user/413/text").await;
    world.client.expect("ilink/presence/413").await;
    world.client.settle().await;
    let events = world.client.all(|message| message.topic.starts_with("ilink/event/"));
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test]
async fn output_json_publishes_only_events_and_presence() {
    let world = World::ready_with(|bridge| bridge.with("mqtt.output", "json")).await;
    world.bridge.push(&text_push("413", "one")).await;
    world.bridge.push(&json!({"from_uid": "413", "type": 1, "time": 1, "msg_type": 4})).await;
    world.client.expect("ilink/event/text").await;
    world.client.expect("ilink/event/presence").await;
    assert!(world.client.expect("ilink/presence/413").await.retain);
    world.client.settle().await;
    let raw = world.client.all(|message| message.topic.starts_with("ilink/recv/"));
    assert!(raw.is_empty(), "{raw:?}");
}

#[tokio::test]
async fn a_late_command_reaches_no_device() {
    let configure = |output: &'static str, age: &'static str| {
        move |bridge: crate::support::bridge::Bridge| {
            bridge.with("inbound.raw_max_age", age).with("mqtt.output", output)
        }
    };
    // Whatever `output` says, the late one goes to event/ and nowhere else, once, and says that it is late.
    for output in ["raw", "json", "both"] {
        let mut world = World::ready_with(configure(output, "10ms")).await;
        world.broker.stop();
        // The broker's start takes longer than these are fresh.
        world.bridge.push(&text_push("413", "late")).await;
        world.bridge.push(&json!({"from_uid": "413", "type": 1, "time": 1, "msg_type": 4})).await;
        world.broker.restart();
        // Presence is a state, no command.
        world.client.expect_text("ilink/presence/413", "online").await;
        world.client.expect("ilink/event/text").await;
        world.client.settle().await;
        let of = |prefix: &'static str| world.client.all(move |message| message.topic.starts_with(prefix));
        let events: Vec<_> = of("ilink/event/text").iter().map(Message::json).collect();
        assert_eq!(events.len(), 1, "{output}: {events:?}");
        assert_eq!((&events[0]["content"], &events[0]["late"]), (&json!("late"), &json!(true)), "{output}");
        assert!(of("ilink/recv/").is_empty(), "{output}");
    }

    let mut world = World::ready_with(configure("raw", "0s")).await;
    world.broker.stop();
    world.bridge.push(&text_push("413", "never late")).await;
    world.broker.restart();
    let raw = world.client.expect_text("ilink/recv/user/413/text", "never late").await;
    assert_eq!(raw.properties.message_expiry_interval, None, "there is no limit");
}

#[tokio::test]
async fn an_unwelcome_sender_reaches_no_device() {
    let world =
        World::ready_with(|bridge| bridge.with_toml("inbound.allow_from", r#"["412"]"#).with("mqtt.output", "raw"))
            .await;
    world.bridge.push(&text_push("413", "unwelcome")).await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!((&event["content"], &event["not_allowed"]), (&json!("unwelcome"), &json!(true)));
    world.bridge.push(&text_push("412", "welcome")).await;
    world.client.expect_text("ilink/recv/user/412/text", "welcome").await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic.starts_with("ilink/recv/")).len(), 1);
    assert_eq!(world.client.all(|message| message.topic.starts_with("ilink/event/")).len(), 1);
}

#[tokio::test]
async fn through_the_service_as_well() {
    let world = World::ready().await;
    let answer = world.sim.push(&json!({"from_uid": "413", "text": "by order"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = answer.json();
    assert_eq!((&record["outcome"], &record["tries"][0]["code"]), (&json!("answered"), &json!(0)), "{record}");
    world.client.expect_text("ilink/recv/user/413/text", "by order").await;
}
