//! Routes answer whoever typed: once the broker has taken the publish, in the group if it came from there, and never us.

use rustix::process::Signal;

use super::{UID, World, counted, eventually, group_push, receiver_and_text, texts, told, world, world_with};
use crate::support::bridge::text_push;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const GROUP: &str = "4cdad356-85b4-008627";

/// The example of routes.md, and a group.
const ANSWERS: &str = r#"
[[route.from_ilink]]
name = "light"
from = "user/413/text"
match = '^light (?<v>on|off)$'
topic = "cmnd/light/POWER"
payload = "${v|upper}"
reply = "light: ${v}"
help = "light on | off"

[[route.otherwise]]
from = "user/413/text"
reply = """
I do not understand. You can say:
${help}"""

[[route.from_ilink]]
name = "in-group"
from = "group/4cdad356-85b4-008627/+"
any_sender = true
match = '^light (?<v>on|off)$'
topic = "out/group"
reply = "${from_uid} says ${v}"

[[route.otherwise]]
from = "group/4cdad356-85b4-008627/+"
any_sender = true
reply = "what?"
max_rate = "2/h"
"#;

/// Receiver and text of everything that iLink was asked to send: it knows no such group.
async fn asked(world: &World, n: usize) -> Vec<(String, String)> {
    let calls = world.sim.calls_until("send_msg", "answers", |calls| calls.len() >= n).await;
    calls.iter().map(|call| receiver_and_text(&call.body)).collect()
}

fn told_to(receiver: &str, text: &str) -> (String, String) {
    (receiver.to_owned(), text.to_owned())
}

#[tokio::test]
async fn who_typed_is_answered() {
    let world = world(ANSWERS).await;
    world.bridge.push(&text_push("413", "light on")).await;
    world.client.expect_text("cmnd/light/POWER", "ON").await;
    asked(&world, 1).await;
    world.bridge.push(&text_push("413", "make coffee")).await;
    asked(&world, 2).await;
    world.bridge.push(&group_push(GROUP, "7", "light off")).await;
    assert_eq!(
        asked(&world, 3).await,
        [
            told_to("413", "light: on"),
            told_to("413", "I do not understand. You can say:\nlight on | off"),
            told_to(GROUP, "7 says off"),
        ]
    );
    counted(&world, "light", "no_match 1").await;
    counted(&world, "otherwise", "fired 1").await;
    // What became of an answer is told if it failed, as of every route's message.
    counted(&world, "in-group", "failed 1").await;
    let result = world.client.expect("ilink/result/route/in-group").await.json();
    assert_eq!(result["name"], "no_such_group", "{result}");
    // Nobody's route, and ours: no answer.
    world.bridge.push(&text_push("412", "make coffee")).await;
    world.bridge.push(&group_push(GROUP, UID, "light on")).await;
    world.bridge.push(&group_push(GROUP, UID, "make coffee")).await;
    // A flood is cut off.
    for n in 0..4 {
        world.bridge.push(&group_push(GROUP, "7", &n.to_string())).await;
    }
    counted(&world, "otherwise-2", "over_rate 2").await;
    world.bridge.waiting("outbound", 0).await;
    let what = told_to(GROUP, "what?");
    assert_eq!(asked(&world, 5).await[3..], [what.clone(), what]);
}

#[tokio::test]
async fn a_dry_run_shows_the_answers() {
    let world = World::prepared(&[], |bridge| bridge.with_tables(ANSWERS)).await;
    for (recv, text, says) in [
        (
            "user/413/text",
            "light on",
            "light: publishes to cmnd/light/POWER: ON\nlight: replies to user 413: light: on\n",
        ),
        (
            "user/413/text",
            "make coffee",
            "light: does not fire: match does not match\n\
             otherwise: replies to user 413: I do not understand. You can say:\nlight on | off\n",
        ),
        (
            "group/4cdad356-85b4-008627/7",
            "light off",
            "in-group: publishes to out/group: light off\nin-group: replies to group 4cdad356-85b4-008627: 7 says off\n",
        ),
        ("user/412/text", "light on", "no route is for user/412/text\n"),
    ] {
        let ran = world.bridge.verb(&["route", "test", "--from", recv, text]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), says), "{}", ran.text);
    }
    let list = world.bridge.verb(&["route", "list"]).await.stdout;
    assert!(list.contains("otherwise-2: from iLink group/4cdad356-85b4-008627/+ otherwise, replies what?"), "{list}");
}

#[tokio::test]
async fn late_and_unwelcome_messages_are_not_answered() {
    let mut world = world_with(ANSWERS, |bridge| {
        bridge.with("inbound.raw_max_age", "1ms").with_toml("inbound.allow_from", r#"["413"]"#)
    })
    .await;
    world.broker.stop();
    for text in ["light on", "make coffee"] {
        world.bridge.push(&text_push("413", text)).await;
        world.bridge.push(&group_push(GROUP, "7", text)).await;
    }
    world.broker.restart();
    world.bridge.waiting("inbound", 0).await;
    counted(&world, "light", "late 1").await;
    counted(&world, "otherwise", "late 1").await;
    assert!(told(&world).await.is_empty());
}

#[tokio::test]
async fn a_reply_that_cannot_be_given_is_told_and_holds_back_nothing() {
    const REPLIES: &str = r#"
[[route.from_ilink]]
name = "long"
from = "user/413/text"
topic = "out/long"
reply = "${payload}${payload}"

[[route.from_ilink]]
name = "lacking"
from = "user/413/text"
topic = "out/lacking"
reply = "${json:/state}"
"#;
    let world = world_with(REPLIES, |bridge| bridge.with("outbound.max_content", "1KiB")).await;
    let long = "x".repeat(600);
    world.bridge.push(&text_push("413", &long)).await;
    world.client.expect_text("out/long", &long).await;
    world.client.expect_text("out/lacking", &long).await;
    let result = world.client.expect("ilink/result/route/long").await.json();
    assert_eq!((&result["status"], &result["name"]), (&"rejected".into(), &"too_large".into()), "{result}");
    assert!(result["message"].as_str().unwrap().contains("outbound.max_content"), "{result}");
    for route in ["long", "lacking"] {
        counted(&world, route, "failed 1").await;
    }
    world.bridge.logged("a route cannot make its reply to a message").await;
    world.bridge.waiting("inbound", 0).await;
    world.bridge.waiting("outbound", 0).await;
    assert!(told(&world).await.is_empty());
    let ran = world.bridge.verb(&["route", "test", "--from", "user/413/text", "x"]).await.stdout;
    assert!(ran.contains("lacking: publishes to out/lacking: x\nlacking: cannot reply: "), "{ran}");
}

#[tokio::test]
async fn an_answer_survives_a_crash() {
    let mut world = world(ANSWERS).await;
    world.sim.kill();
    world.bridge.push(&text_push("413", "light on")).await;
    world.bridge.push(&text_push("413", "make coffee")).await;
    world.client.expect_text("cmnd/light/POWER", "ON").await;
    world.bridge.waiting("outbound", 2).await;
    world.bridge.waiting("inbound", 0).await;
    world.bridge.kill();
    world.sim.restart().await;
    world.bridge.start().await;
    let told = texts(&world, 2).await;
    assert!(told[0] == "light: on" && told[1].starts_with("I do not understand"), "{told:?}");
}

#[tokio::test]
async fn crashes_while_it_answers_leave_out_nothing() {
    const ECHO: &str = r#"
[[route.from_ilink]]
name = "echo"
from = "user/413/text"
topic = "out/x"
reply = "${payload}"
max_rate = "0"
"#;
    let mut world = world(ECHO).await;
    for round in 0..3 {
        for n in 0..30 {
            world.bridge.push(&text_push("413", &format!("{round}-{n}"))).await;
        }
        world.bridge.kill();
        world.bridge.start().await;
    }
    eventually("every answer", async || {
        let told: std::collections::HashSet<String> = told(&world).await.into_iter().map(|(_, text)| text).collect();
        (0..3).all(|round| (0..30).all(|n| told.contains(&format!("{round}-{n}")))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_broker_refuses_is_not_answered() {
    let mut acl = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut acl, b"topic readwrite ilink/#\ntopic readwrite test/#\n").unwrap();
    let broker = Mosquitto::start(&format!("acl_file {}", acl.path().display()));
    let sim = Sim::start(&[]).await;
    let mut bridge = super::Bridge::new(&broker, &sim).with_tables(ANSWERS);
    bridge.start().await;
    bridge.push(&text_push("413", "light on")).await;
    bridge.push(&text_push("413", "make coffee")).await;
    let calls = sim.calls_until("send_msg", "the other answer", |calls| !calls.is_empty()).await;
    bridge.waiting("inbound", 0).await;
    bridge.waiting("outbound", 0).await;
    assert_eq!(calls.len(), 1);
    assert!(receiver_and_text(&calls[0].body).1.starts_with("I do not understand"), "{calls:?}");
    assert_eq!(sim.calls("send_msg").await.len(), 1);
}

#[tokio::test]
async fn answers_come_and_change_with_a_reload() {
    let mut world = world("").await;
    world.bridge.set_tables(ANSWERS);
    world.bridge.write_config();
    world.bridge.process().signal(Signal::HUP);
    world.bridge.logged("the configuration was reloaded").await;
    world.bridge.push(&text_push("413", "light off")).await;
    assert_eq!(texts(&world, 1).await, ["light: off"]);
}
