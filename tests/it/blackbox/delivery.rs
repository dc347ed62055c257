//! Between the acknowledgement and the result: expiry, repeats, lanes.

use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{Bridge, base64};
use crate::support::client::Out;

async fn result(world: &World, topic: &str) -> Value {
    world.client.expect(&format!("ilink/result/{topic}")).await.json()
}

fn named(result: &Value) -> (&str, &str) {
    (result["status"].as_str().unwrap_or_default(), result["name"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_command_that_waited_too_long_expires() {
    let mut world = World::ready_with(|bridge| bridge.with("outbound.ttl", "60s")).await;
    world.sim.kill();
    // The field, the property, the smaller of both. The broker counts whole seconds down before it hands a message on, and
    // keeps for itself what expires before.
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"1","content":"x","ttl":1,"ref":1}"#).await;
    world.client.send(Out::new("ilink/send/user/2/text", "x").expires_in(10)).await;
    let both = r#"{"accept_uid":"3","content":"x","ttl":3600}"#;
    world.client.send(Out::new("ilink/call/send_msg/file", both).expires_in(10)).await;
    for topic in ["call/send_msg/text", "send/user/2/text", "call/send_msg/file"] {
        let result = result(&world, topic).await;
        assert_eq!(named(&result), ("expired", "expired"), "{result}");
        assert_eq!(result.get("code"), None, "{result}");
        assert!(result["elapsed_ms"].as_u64().unwrap() >= 1000, "{result}");
    }
    world.sim.restart().await;
    world.client.publish("ilink/send/user/2/text", "y").await;
    let result = result(&world, "send/user/2/text").await;
    assert_eq!(named(&result), ("ok", "ok"));
    let contents: Vec<_> =
        world.sim.calls("send_msg").await.into_iter().map(|call| call.body["content"].clone()).collect();
    let fresh = json!(crate::support::bridge::base64(b"y"));
    assert!(contents.iter().all(|content| *content == fresh), "an expired command is not sent: {contents:?}");
}

#[tokio::test]
async fn an_expired_command_tells_what_ilink_answered_last() {
    let world = World::ready().await;
    world.sim.answer_code("send_msg", 1008, 100).await;
    // Time for one attempt on a busy machine; the next one would be made after 30 s.
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"1","content":"x","ttl":6}"#).await;
    let result = result(&world, "call/send_msg/text").await;
    assert_eq!(named(&result), ("expired", "expired"), "{result}");
    assert_eq!((&result["code"], &result["attempts"]), (&json!(1008), &json!(1)), "{result}");
}

#[tokio::test]
async fn the_default_expiry_is_configurable() {
    let mut world = World::ready_with(|bridge| bridge.with("outbound.ttl", "1s")).await;
    world.sim.kill();
    world.client.publish("ilink/send/user/2/text", "x").await;
    assert_eq!(named(&result(&world, "send/user/2/text").await), ("expired", "expired"));
}

#[tokio::test]
async fn ambiguous_is_retried_by_default() {
    let world = World::ready_with(|bridge| bridge.with("ilink.timeout", "10s")).await;
    for fault in [
        json!({"path": "send_msg", "mode": "drop"}),
        json!({"path": "send_msg", "mode": "hang"}),
        json!({"path": "send_msg", "mode": "garbage"}),
        json!({"path": "send_msg", "mode": "status", "code": 500}),
        json!({"path": "send_msg", "mode": "status", "code": 302}),
        json!({"path": "send_msg", "mode": "code", "code": 1017}),
        json!({"path": "send_msg", "mode": "code", "code": 1016}),
    ] {
        world.sim.fault(&fault).await;
        world.client.publish("ilink/send/user/413/text", "x").await;
        let result = result(&world, "send/user/413/text").await;
        assert_eq!((named(&result), result["attempts"].as_u64()), (("ok", "ok"), Some(2)), "{fault}: {result}");
    }
}

#[tokio::test]
async fn ambiguous_can_be_reported_instead() {
    let mut world =
        World::ready_with(|bridge| bridge.with("ilink.timeout", "10s").with("outbound.ambiguous", "report")).await;
    for fault in [
        json!({"path": "send_msg", "mode": "drop"}),
        json!({"path": "send_msg", "mode": "hang"}),
        json!({"path": "send_msg", "mode": "garbage"}),
        json!({"path": "send_msg", "mode": "status", "code": 502}),
        json!({"path": "send_msg", "mode": "code", "code": 1017}),
    ] {
        world.sim.fault(&fault).await;
        let before = world.sim.calls("send_msg").await.len();
        world.client.publish("ilink/send/user/413/text", "x").await;
        let result = result(&world, "send/user/413/text").await;
        assert_eq!(named(&result), ("uncertain", "ambiguous"), "{fault}: {result}");
        assert_eq!(result["attempts"], json!(1), "{fault}: {result}");
        assert!(!result["message"].as_str().unwrap().contains("tried again"), "{fault}: {result}");
        assert_eq!(world.sim.calls("send_msg").await.len(), before + 1, "{fault}: it was sent again");
    }
    // A refused connection is known unsent, and so is a transient code.
    world.sim.answer_code("send_msg", 1016, 1).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    assert_eq!(named(&result(&world, "send/user/413/text").await), ("ok", "ok"));
    world.sim.kill();
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.bridge.logged("iLink: offline").await;
    world.sim.restart().await;
    assert_eq!(named(&result(&world, "send/user/413/text").await), ("ok", "ok"));
}

#[tokio::test]
async fn what_makes_new_things_is_never_repeated() {
    let world = World::ready_with(|bridge| {
        bridge.with("outbound.ambiguous", "retry").with_toml("mqtt.allow_calls", r#"["*"]"#)
    })
    .await;
    for (topic, path, payload) in [
        ("call/ham_group/create", "ham_group", r#"{"group_name":"g","uid_list":["1"]}"#),
        ("call/ham_add_user", "ham_add_user", r#"{"username":"u","nickname":"n"}"#),
    ] {
        world.sim.fault(&json!({"path": path, "mode": "drop"})).await;
        world.client.publish(&format!("ilink/{topic}"), payload).await;
        let result = result(&world, topic).await;
        assert_eq!(named(&result), ("uncertain", "ambiguous"), "{result}");
        assert_eq!(world.sim.calls(path).await.len(), 1);
    }
}

#[tokio::test]
async fn expired_after_an_ambiguous_attempt_is_uncertain() {
    let world = World::ready().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "drop", "times": 0})).await;
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"1","content":"x","ttl":6}"#).await;
    let result = result(&world, "call/send_msg/text").await;
    assert_eq!(named(&result), ("uncertain", "ambiguous"), "{result}");
    assert!(result["attempts"].as_u64().unwrap() >= 1, "{result}");
}

#[tokio::test]
async fn one_receiver_is_served_in_order_whatever_the_form() {
    let world = World::ready().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "code", "code": 1016, "times": 2})).await;
    for n in 0..30 {
        match n % 3 {
            0 => world.client.publish("ilink/send/user/413/text", n.to_string()).await,
            1 => world.client.publish("ilink/by/lamp/send/user/413/file", n.to_string()).await,
            _ => {
                let call = json!({"accept_uid": 413, "content": n.to_string()}).to_string();
                world.client.publish("ilink/call/send_msg/text", call).await;
            }
        }
    }
    let answered = |calls: &[crate::support::sim::Call]| calls.iter().filter(|call| call.code == Some(0)).count() == 30;
    let calls = world.sim.calls_until("send_msg", "30 good calls", answered).await;
    let contents: Vec<_> =
        calls.iter().filter(|call| call.code == Some(0)).map(|call| call.body["content"].clone()).collect();
    let expected: Vec<_> = (0..30).map(|n| json!(crate::support::bridge::base64(n.to_string().as_bytes()))).collect();
    assert_eq!(contents, expected);
}

#[tokio::test]
async fn a_burst_to_one_receiver_keeps_its_order() {
    const BURST: usize = 900;
    let bridge = |bridge: Bridge| bridge.with("mqtt.protocol", "3.1.1").with_toml("mqtt.persistent_session", "true");
    // No window and no receive maximum: what waited comes all at once.
    let broker = "max_inflight_messages 0\nmax_queued_messages 2000\n";
    let mut world = World::prepared_on(broker, &[], bridge).await;
    world.bridge.start().await;
    world.bridge.stop().await;
    world.client.send_all((0..BURST).map(|number| Out::new("ilink/send/user/413/text", number.to_string()))).await;
    world.bridge.start().await;
    let calls = world.sim.calls_until("send_msg", "the burst", |calls| calls.len() == BURST).await;
    let sent: Vec<&Value> = calls.iter().map(|call| &call.body["content"]).collect();
    let wanted: Vec<Value> = (0..BURST).map(|number| base64(number.to_string().as_bytes()).into()).collect();
    assert!(sent.into_iter().eq(&wanted));
}

#[tokio::test]
async fn a_stuck_receiver_delays_no_other() {
    let world = World::ready_with(|bridge| bridge.with("ilink.timeout", "1m")).await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 20})).await;
    world.client.publish("ilink/send/user/slow/text", "first").await;
    world.sim.calls_until("send_msg", "the slow call", |calls| calls.len() == 1).await;
    world.client.publish("ilink/send/user/slow/text", "second").await;
    for receiver in ["send/user/quick/text", "send/group/none", "send/topic/slow", "call/ham_group/list"] {
        world.client.publish(&format!("ilink/{receiver}"), if receiver.starts_with("call") { "" } else { "x" }).await;
        result(&world, receiver).await;
    }
    let slow = world.client.all(|message| message.topic == "ilink/result/send/user/slow/text");
    assert!(slow.is_empty(), "{slow:?}");
    for _ in 0..2 {
        assert_eq!(named(&result(&world, "send/user/slow/text").await), ("ok", "ok"));
    }
}

#[tokio::test]
async fn a_flood_to_one_receiver_delays_no_other() {
    const FLOOD: usize = 60;

    let configure = |bridge: Bridge| bridge.with_toml("outbound.concurrency", "1").with("ilink.timeout", "5m");
    let world = World::ready_with(configure).await;
    // The service stands still until all of it is there, so that their order is nothing of the machine's doing.
    world.sim.pause();
    world.client.send_all((0..FLOOD).map(|n| Out::new("ilink/send/user/flood/text", n.to_string()))).await;
    world.client.publish("ilink/send/user/other/text", "x").await;
    world.bridge.waiting("outbound", FLOOD + 1).await;
    world.sim.resume();
    result(&world, "send/user/other/text").await;
    let calls = world.sim.calls("send_msg").await;
    let position = calls.iter().position(|call| call.body["accept_uid"] == "other").unwrap();
    // It had to wait for the call in progress; the rest of the flood comes after.
    assert!(position <= 1, "position {position}");
}

#[tokio::test]
async fn the_service_is_not_called_faster_than_configured() {
    let world = World::ready_with(|bridge| bridge.with_toml("outbound.rate_per_s", "5")).await;
    let started = std::time::Instant::now();
    for n in 0..15 {
        world.client.publish(&format!("ilink/send/user/{n}/text"), "x").await;
    }
    world.sim.calls_until("send_msg", "15 calls", |calls| calls.len() == 15).await;
    // 15 calls at 5 a second, of which a burst of one second's worth may go at once.
    assert!(started.elapsed().as_millis() >= 1800, "{:?}", started.elapsed());
}

#[tokio::test]
async fn two_equal_commands_are_two() {
    let world = World::ready().await;
    for _ in 0..2 {
        world.client.publish("ilink/send/user/413/text", "toggle").await;
    }
    let (first, second) = (result(&world, "send/user/413/text").await, result(&world, "send/user/413/text").await);
    assert_ne!(first["id"], second["id"]);
    assert_eq!(world.sim.calls("send_msg").await.len(), 2);
}
