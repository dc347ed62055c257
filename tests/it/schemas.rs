//! `deploy/schema/`: held against the example configuration, every push that the manual shows, and what the bridge publishes. (Of
//! the other tests, every client holds what it was sent against them: `support/client.rs`.)

use serde_json::{Value, json};

use crate::blackbox::world::World;
use crate::support::bridge::{UID, base64, push_of, text_push};
use crate::support::client::Out;
use crate::support::process::finish;
use crate::support::schema::{Schema, schema_of};

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// As an editor reads it.
fn toml(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn they_are_printed() {
    for name in ["config", "event", "result", "health", "asyncapi"] {
        let printed = finish(["schema", name], &[]).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let json: Value = serde_json::from_str(&printed.stdout).unwrap();
        assert!(json.is_object());
    }
    assert_eq!(finish(["schema", "nonsense"], &[]).await.code, Some(64));
}

#[test]
fn the_example_configuration_is_valid_and_so_is_what_it_has_commented_out() {
    let schema = Schema::shipped("config");
    assert_eq!(schema.errors(&toml(EXAMPLE)), [""; 0]);
    let is_key = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        line.starts_with("[[")
            || key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b)))
    };
    let uncommented = |line: &str| match line.strip_prefix("# ").filter(|line| is_key(line)) {
        // An empty one stands for whatever goes there.
        Some(line) if line.starts_with("callback.token") || line.starts_with("token = ") => {
            line.replace("\"\"", "\"abc\"")
        }
        Some(line) if line.starts_with("path_secret = ") => {
            line.replace("\"\"", "\"0123456789abcdef0123456789abcdef\"")
        }
        Some(line) => line.replace("\"\"", "\"x\""),
        None => line.to_owned(),
    };
    let all = toml(&EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n"));
    assert_eq!(schema.errors(&all), [""; 0]);
    assert!(all["ilink"]["secretkey_file"].is_string() && all["route"]["to_ilink"].is_array(), "{all}");
}

#[test]
fn an_editor_finds_the_schema_of_the_example() {
    let line = EXAMPLE.lines().next().unwrap();
    let path = line.strip_prefix("#:schema ").expect("taplo's directive is the first line");
    assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file(), "{path}");
}

#[test]
fn a_wrong_configuration_is_told() {
    let schema = Schema::shipped("config");
    for wrong in [
        "ilink.apkey = 'x'",
        "mqtt.output = 'xml'",
        "outbound.ttl = 'soon'",
        "outbound.ttl = 5",
        "outbound.max_content = '1 lot'",
        "callback.strict_to_uid = 'yes'",
        "callback.token = 'no spaces'",
        "mqtt.broker = 'http://x'",
        "homeassistant.contacts = [{ uid = '413' }]",
        "homeassistant.contacts = [{ uid = '413', group = 'g', name = 'a' }]",
        "homeassistant.contacts = [{ uid = '@ann', group = '@family' }]",
        "names.'a b' = '1'",
        "names.ann = { user = '1' }",
        "[[route.otherwise]]\nfrom = 'user/1/text'",
        "[[route.to_ilink]]\nname = 'a'\nsubscribe = 'a'\nto = 'user/1/text'\nround = 1.5",
        "[[route.from_ilink]]\nname = 'a'\nfrom = 'user/1/text'",
        "[[route.to_ilink]]\nname = 'a'\nsubscribe = 'a'\nto = 'user/1/text'\nkeep = 'none'",
        "[[route.to_ilnk]]\nname = 'a'",
        "nonsense = 1",
    ] {
        assert!(!schema.errors(&toml(wrong)).is_empty(), "{wrong}");
    }
}

/// Every push of the manual, and some that are none of it.
fn pushes() -> Vec<Value> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/push");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let fixtures = files.filter_map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).ok());
    let own = [
        text_push("413", "开灯"),
        push_of("413", 2, &[0xff, 0xd8, 0xff]),
        json!({"to_uid": UID, "from_uid": "413", "msg_type": 1, "content": "not base64!"}),
        json!({"to_uid": UID, "from_uid": "413", "group_id": "g", "msg_type": 3, "content": base64(b"x")}),
        json!({"to_uid": UID, "from_uid": "413", "group_id": "a/b", "msg_type": 4, "content": base64(b"x")}),
        json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": 1, "time": 1_457_408_202}),
        json!({"something": {"else": [1, null]}}),
    ];
    fixtures.chain(own).collect()
}

#[tokio::test]
async fn what_the_bridge_publishes_is_as_they_say() {
    let world = World::ready_with(|bridge| {
        bridge.with_toml("inbound.allow_from", r#"["413"]"#).with_toml("mqtt.allow_calls", r#"["send_msg/*","ham_*"]"#)
    })
    .await;
    let pushes = pushes();
    assert!(pushes.len() > 12, "{}", pushes.len());
    for push in &pushes {
        world.bridge.push(push).await;
    }
    assert_eq!(world.bridge.post_bytes(b"no JSON".to_vec()).await.status, 200);
    world.bridge.push(&text_push("500", "from a stranger")).await;
    let is_event = |topic: &str| topic.starts_with("ilink/event/");
    let events = world.client.gather("events", pushes.len() + 2, |message| is_event(&message.topic)).await;
    let kinds: std::collections::BTreeSet<_> = events.iter().map(|event| event.topic.clone()).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");

    let commands = [
        ("send/user/413/text", "x"),
        ("send/nonsense", "x"),
        ("call/ham_group/create", r#"{"group_name":"g","uid_list":["413"],"ref":"r"}"#),
        ("call/ham_group/list", r#"{"ref":7}"#),
        ("call/ham_group/delete", r#"{"group_id":"none","ref":1.5}"#),
        ("call/ham_user/states", r#"{"uid_list":["413"]}"#),
        ("call/ham_add_user", r#"{"username":"u","nickname":"n"}"#),
        ("call/send_msg/text", "no JSON"),
    ];
    for (topic, payload) in commands {
        world.client.publish(&format!("ilink/{topic}"), payload).await;
    }
    let is_result = |topic: &str| topic.starts_with("ilink/result/");
    world.client.gather("results", commands.len(), |message| is_result(&message.topic)).await;
    world.client.send(Out::new("ilink/send/user/413/text", "x").respond_to("ilink/reply/me", b"c")).await;
    let result = world.client.expect("ilink/reply/me").await.json();
    assert_eq!(Schema::shipped("result").strict_errors(&result), [""; 0]);
    world.sim.fault(&json!({"path": "send_msg", "mode": "hang", "times": 0})).await;
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"413","content":"x","ttl":1}"#).await;
    world
        .client
        .expect_json("ilink/result/call/send_msg/text", |result| result["code"].is_null() && result["attempts"] != 0)
        .await;

    let mut checked = [0; 3];
    for message in world.client.all(|_| true) {
        let Some(schema) = schema_of(&message.topic) else { continue };
        assert_eq!(schema.strict_errors(&message.json()), [""; 0], "{} {}", message.topic, message.text());
        checked[["event", "result", "health"].iter().position(|name| *name == schema.name()).unwrap()] += 1;
    }
    assert!(checked[0] >= pushes.len() + 2 && checked[1] > commands.len() && checked[2] > 0, "{checked:?}");
}
