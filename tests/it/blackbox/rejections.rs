//! What is wrong with a command is said at once, by name and in words, and the service never hears of it.

use serde_json::{Value, json};

use super::world::World;
use crate::support::client::Out;

/// Publishes to `topic` and expects this rejection.
async fn rejected(world: &World, out: Out, topic: &str, name: &str) -> Value {
    world.client.send(out).await;
    let result = world.client.expect(&format!("ilink/result/{topic}")).await.json();
    assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!(name)), "{topic}: {result}");
    assert_eq!(result.get("code"), None, "iLink was never asked: {result}");
    assert!(result["message"].as_str().is_some_and(|text| text.len() > 5), "{result}");
    result
}

/// Everything that reached the service as a call on behalf of a device.
async fn calls(world: &World) -> Vec<Value> {
    let state = world.sim.state().await;
    let calls = state["calls"].as_array().unwrap().iter();
    calls.filter(|call| call["path"] != "set_config" && call["path"] != "get_access_token").cloned().collect()
}

#[tokio::test]
async fn bad_topics() {
    let world = World::ready().await;
    for topic in [
        "send/user/413",
        "send/user/413/txt",
        "send/user/413/text/more",
        "send/user//text",
        "send/user/%/text",
        "send/user/%2/text",
        "send/user/%zz/text",
        "send/user/%ff/text",
        "send/user/%00/text",
        "send/group/",
        "send/group/a/b",
        "send/topic/",
        "send/topic/a%23",
        "send/topic/%2B/b",
        "send/nobody/413/text",
        "send",
        "call",
        "call/send_msg",
        "call/send_msg/shout",
        "call/set_config/register",
        "call/get_access_token",
        "call/ham_group/list/all",
        "by/lamp/send/user/413",
        "by/lamp/call/nothing",
    ] {
        let full = format!("ilink/{topic}");
        // `by/<client>/` moves to the front of the result's topic.
        let result = match topic.strip_prefix("by/lamp/") {
            Some(rest) => format!("ilink/by/lamp/result/{rest}"),
            None => format!("ilink/result/{topic}"),
        };
        world.client.publish(&full, "{}").await;
        let result = world.client.expect(&result).await.json();
        assert_eq!(
            (&result["status"], &result["name"]),
            (&json!("rejected"), &json!("bad_topic")),
            "{topic}: {result}"
        );
    }
    assert_eq!(calls(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn bad_payloads() {
    let world = World::ready().await;
    let long_reference = format!(r#"{{"accept_uid":"1","content":"x","ref":"{}"}}"#, "r".repeat(257));
    for (topic, payload) in [
        ("send/user/413/text", ""),
        ("send/topic/a", ""),
        ("call/send_msg/text", ""),
        ("call/send_msg/text", "hello"),
        ("call/send_msg/text", "[]"),
        ("call/send_msg/text", "{}"),
        ("call/send_msg/text", r#"{"accept_uid":"413"}"#),
        ("call/send_msg/text", r#"{"content":"x"}"#),
        ("call/send_msg/text", r#"{"accept_uid":"","content":"x"}"#),
        ("call/send_msg/text", r#"{"accept_uid":true,"content":"x"}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":[7]}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","colour":"red"}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","encoding":"hex"}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"!","encoding":"base64"}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","ref":{}}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","ref":true}"#),
        ("call/send_msg/text", &long_reference),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","ttl":0}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","ttl":2592001}"#),
        ("call/send_msg/text", r#"{"accept_uid":"413","content":"x","ttl":"5"}"#),
        ("call/send_msg/group", r#"{"accept_uid":"413","content":"x"}"#),
        ("call/ham_topic/publish", r#"{"subject":"a/#","content":"x"}"#),
        ("call/ham_topic/subscribe", r#"{"subject":"a/+"}"#),
        ("call/ham_topic/subscribe", r#"{"subject":"a","qos":3}"#),
        ("call/ham_topic/unsubscribe", r#"{"subject":"a","qos":1}"#),
        ("call/ham_group/create", r#"{"group_name":"x"}"#),
        ("call/ham_group/create", r#"{"group_name":"x","uid_list":"413"}"#),
        ("call/ham_group/delete", ""),
        ("call/ham_group/list", r#"{"group_id":"x"}"#),
        ("call/ham_user/states", r#"{"uid_list":[""]}"#),
    ] {
        let result = rejected(&world, Out::new(&format!("ilink/{topic}"), payload), topic, "bad_payload").await;
        assert_eq!(result["attempts"], json!(0), "{result}");
    }
    // The message names the field.
    let out = Out::new("ilink/call/send_msg/text", r#"{"accept_uid":"413","contnet":"x"}"#);
    let result = rejected(&world, out, "call/send_msg/text", "bad_payload").await;
    assert!(result["message"].as_str().unwrap().contains("contnet"), "{result}");
    assert_eq!(calls(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn too_large() {
    let world = World::ready_with(|bridge| bridge.with("outbound.max_content", "1KiB")).await;
    let (fits, too_large) = ("x".repeat(1024), "x".repeat(1025));
    world.client.publish("ilink/send/user/413/text", &fits).await;
    let result = world.client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!(result["status"], json!("ok"), "{result}");
    rejected(&world, Out::new("ilink/send/user/413/text", &too_large), "send/user/413/text", "too_large").await;
    let call = json!({"accept_uid": "413", "content": too_large, "ref": 7}).to_string();
    let result = rejected(&world, Out::new("ilink/call/send_msg/text", call), "call/send_msg/text", "too_large").await;
    assert_eq!(result["ref"], json!(7));
    assert_eq!(calls(&world).await.len(), 1);
}

#[tokio::test]
async fn retained_commands_are_never_executed() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    let topic = "send/user/413/text";
    // One that waits at the broker from before, one that comes live.
    world.client.send(Out::new("ilink/send/user/412/text", "stale").retained()).await;
    world.bridge.start().await;
    rejected(&world, Out::new(&format!("ilink/{topic}"), "live").retained(), topic, "retained").await;
    // To clear it is no command, and is not answered.
    for topic in ["ilink/send/user/412/text", "ilink/call/ham_group/list", "ilink/call/no/such"] {
        world.client.send(Out::new(topic, "").retained()).await;
    }
    world.client.publish("ilink/send/user/413/text", "good").await;
    world.client.expect_json("ilink/result/send/user/413/text", |result| result["status"] == "ok").await;
    let calls = calls(&world).await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    let results = world.client.all(|message| message.topic.starts_with("ilink/result/"));
    let named = |topic: &str| results.iter().filter(|message| message.topic.ends_with(topic)).count();
    assert_eq!((named("/412/text"), named("/list"), named("/such")), (1, 0, 0), "{results:?}");
}

#[tokio::test]
async fn calls_that_are_not_allowed() {
    let world = World::ready().await;
    let add_user = r#"{"username":"u","nickname":"n","ref":"r"}"#;
    let out = Out::new("ilink/call/ham_add_user", add_user);
    let result = rejected(&world, out, "call/ham_add_user", "not_allowed").await;
    assert_eq!(result["ref"], json!("r"));
    drop(world);

    let world = World::ready_with(|bridge| bridge.with_toml("mqtt.allow_calls", r#"["ham_group/list"]"#)).await;
    rejected(
        &world,
        Out::new("ilink/call/send_msg/text", r#"{"accept_uid":"413","content":"x"}"#),
        "call/send_msg/text",
        "not_allowed",
    )
    .await;
    world.client.publish("ilink/call/ham_group/list", "").await;
    let result = world.client.expect("ilink/result/call/ham_group/list").await.json();
    assert_eq!(result["status"], json!("ok"), "{result}");
    assert_eq!(calls(&world).await.len(), 1);
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let mut world = World::ready_with(|bridge| bridge.with("spool.max_bytes", "1MiB")).await;
    world.sim.kill();
    let large = "x".repeat(100_000);
    let mut sent = 0;
    while world.client.all(|message| message.topic.starts_with("ilink/result/")).is_empty() {
        world.client.publish("ilink/send/user/413/text", &large).await;
        sent += 1;
        world.client.settle().await;
        assert!(sent < 1000, "the cap does not hold");
    }
    let result = world.client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!("queue_full")), "{result}");
    // What was taken is delivered when the service is back.
    world.sim.restart().await;
    world
        .client
        .until("a good result", |all| {
            all.iter().any(|message| message.topic.starts_with("ilink/result/") && message.json()["status"] == "ok")
        })
        .await;
}

#[tokio::test]
async fn the_bridge_cannot_be_told_to_register() {
    let world = World::ready().await;
    let before = world.sim.calls("set_config").await.len();
    for action in ["register", "unregister", "query"] {
        let topic = format!("call/set_config/{action}");
        world.client.publish(&format!("ilink/{topic}"), "{}").await;
        let result = world.client.expect(&format!("ilink/result/{topic}")).await.json();
        assert_eq!(result["status"], json!("rejected"), "{result}");
    }
    assert_eq!(world.sim.calls("set_config").await.len(), before);
}
