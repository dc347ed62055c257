//! `[names]`: who is called ann is reached as `@ann`, and called so in events; SIGHUP reads the names again.

use rustix::process::Signal;
use serde_json::json;

use super::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::Message;
use crate::support::eventually;

const NAMES: &str = r#"
[names]
ann = "413"
family = { group = "4cdad356-85b4-008627" }
lamp = { subject = "home/lamp" }

[[route.from_ilink]]
name = "in"
from = "user/@ann/text"
topic = "ilinkless/x"

[[route.to_ilink]]
name = "out"
subscribe = "stat/+"
to = "user/@ann/text"
"#;

async fn world(configure: impl FnOnce(Bridge) -> Bridge) -> World {
    World::ready_with(|bridge| configure(bridge.with_tables(NAMES))).await
}

/// Sends and expects the result on the topic as it was written, with this receiver at iLink.
async fn reaches(world: &World, topic: &str, payload: &str, path: &str, field: &str, id: serde_json::Value) {
    let before = world.sim.calls(path).await.len();
    world.client.publish(&format!("ilink/{topic}"), payload).await;
    let calls = world.sim.calls_until(path, topic, |calls| calls.len() > before).await;
    assert_eq!(calls.last().unwrap().body[field], id, "{topic}");
    world.client.expect(&format!("ilink/result/{topic}")).await;
}

#[tokio::test]
async fn a_name_reaches_whom_it_means_and_the_result_comes_to_the_name() {
    let world = world(|bridge| bridge).await;
    reaches(&world, "send/user/@ann/text", "hi", "send_msg", "accept_uid", json!("413")).await;
    reaches(&world, "send/group/@family", "hi", "send_msg", "group_id", json!("4cdad356-85b4-008627")).await;
    reaches(&world, "send/topic/@lamp", "on", "ham_topic", "subject", json!("home/lamp")).await;
    let call = r#"{"uid_list":["@ann","412"]}"#;
    reaches(&world, "call/ham_user/states", call, "ham_user", "uid_list", json!(["413", "412"])).await;
    // An id that looks like one.
    reaches(&world, "send/user/%40ann/text", "hi", "send_msg", "accept_uid", json!("@ann")).await;

    for (topic, payload, name, says) in [
        ("send/user/@an/text", "hi", "bad_topic", "did you mean @ann?"),
        ("call/send_msg/text", r#"{"accept_uid":"@family","content":"x"}"#, "bad_payload", "@family is a group"),
    ] {
        world.client.publish(&format!("ilink/{topic}"), payload).await;
        let result = world.client.expect(&format!("ilink/result/{topic}")).await.json();
        assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!(name)), "{result}");
        assert!(result["message"].as_str().unwrap().contains(says), "{result}");
    }
    let by_hand = world.bridge.verb(&["call", "ham_user/states", r#"{"uid_list":["@an"]}"#]).await;
    assert!(by_hand.code == Some(64) && by_hand.text.contains("@ann?"), "{by_hand:?}");
}

#[tokio::test]
async fn events_and_the_page_have_the_name_and_topics_keep_the_id() {
    let world = world(|bridge| bridge.with_toml("inbound.allow_from", r#"["@ann"]"#)).await;
    world.client.subscribe("ilinkless/#").await;
    for from in ["413", "412"] {
        world.bridge.push(&text_push(from, "x")).await;
    }
    // Who has a name, is allowed by it and fires a route by it.
    world.client.expect_text("ilink/recv/user/413/text", "x").await;
    world.client.expect_text("ilinkless/x", "x").await;
    let events =
        world.client.until("two events", |all| all.iter().filter(|m| m.topic == "ilink/event/text").count() == 2).await;
    let events: Vec<_> = events.iter().filter(|m| m.topic == "ilink/event/text").map(Message::json).collect();
    let ann = events.iter().find(|event| event["from_uid"] == "413").unwrap();
    let other = events.iter().find(|event| event["from_uid"] == "412").unwrap();
    assert_eq!((&ann["name"], &other["name"]), (&json!("ann"), &serde_json::Value::Null));
    assert_eq!(other["not_allowed"], json!(true));
    world.client.publish("stat/door", "open").await;
    world.sim.calls_until("send_msg", "the route's message", |calls| !calls.is_empty()).await;
    eventually("the page to show both", async || {
        let page = world.bridge.admin("").await.body;
        (page.matches("@ann").count() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn names_are_read_again() {
    let mut world = world(|bridge| bridge).await;
    world.bridge.set_tables(&NAMES.replace("\"413\"", "\"500\""));
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world.bridge.logged("the configuration was reloaded").await;
    assert!(!world.bridge.log().contains("takes effect at the next restart"), "{}", world.bridge.log());
    reaches(&world, "send/user/@ann/text", "hi", "send_msg", "accept_uid", json!("500")).await;
    world.bridge.push(&text_push("500", "x")).await;
    assert_eq!(world.client.expect("ilink/event/text").await.json()["name"], json!("ann"));

    // A broken table changes nothing.
    world.bridge.set_tables(&NAMES.replace("\"413\"", "\"\""));
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world.bridge.logged("was not reloaded").await;
    reaches(&world, "send/user/@ann/text", "hi", "send_msg", "accept_uid", json!("500")).await;
}
