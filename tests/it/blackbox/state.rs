//! What the bridge tells of itself: its retained topics, its readiness, presence, and whom it shares a base with.

use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{Bridge, SECRET, UID, text_push};
use crate::support::client::{Client, Out};
use crate::support::sim::{SECRETKEY, Sim};

#[tokio::test]
async fn state_cloud_and_info_are_retained() {
    let world = World::ready().await;
    // As a client that comes later sees them.
    let late = Client::connect(&world.broker).await;
    late.subscribe("ilink/bridge/#").await;
    for (topic, payload) in [("state", "online"), ("cloud", "online")] {
        let message = late.expect_text(&format!("ilink/bridge/{topic}"), payload).await;
        assert!(message.retain, "{message:?}");
    }
    let info = late.expect("ilink/bridge/info").await;
    assert!(info.retain);
    let text = info.text().to_owned();
    let info = info.json();
    assert_eq!(info["uid"], json!(UID));
    assert_eq!(info["version"], json!(env!("CARGO_PKG_VERSION")));
    assert!(text.contains("127.0.0.1") && text.contains("\"ilink\""), "hosts and base topic: {text}");
    assert!(info["started_at"].as_str().is_some_and(|at| humantime::parse_rfc3339(at).is_ok()), "{text}");
    for secret in [SECRET, SECRETKEY] {
        assert!(!text.contains(secret), "{text}");
    }
    // An earlier state may still have been the retained one.
    let is_online =
        |health: &Value| health["cloud"]["state"] == "online" && health["callback"]["last_get_at"].is_string();
    let health =
        late.expect_where("health", |message| message.topic == "ilink/bridge/health" && is_online(&message.json()));
    let health = health.await;
    assert!(health.retain);
    let health = health.json();
    assert!(health["cloud"].get("cause").is_some() && health["cloud"]["since"].is_string(), "{health}");
    assert!((1..=7200).contains(&health["token_expires_in_s"].as_u64().unwrap()), "{health}");
    for key in ["last_get_at", "last_push_at", "rejected"] {
        assert!(health["callback"].get(key).is_some(), "{key}: {health}");
    }
    for queue in ["inbound", "outbound", "set_aside"] {
        for key in ["depth", "oldest_s", "bytes"] {
            assert!(health["queues"][queue].get(key).is_some(), "{queue} {key}: {health}");
        }
    }
    assert!(health["counters"].is_object(), "{health}");
}

#[tokio::test]
async fn the_last_will_speaks_for_a_killed_bridge() {
    let mut world = World::ready().await;
    world.client.expect_text("ilink/bridge/state", "online").await;
    world.bridge.kill();
    let will = world.client.expect_text("ilink/bridge/state", "offline").await;
    assert!(will.retain);
}

#[tokio::test]
async fn readiness_names_each_part() {
    let mut world = World::ready().await;
    let ready = world.bridge.admin("readyz").await;
    assert_eq!(ready.status, 200);
    let healthy = world.bridge.admin("healthz").await;
    assert_eq!(healthy.status, 200);
    // One part fails; its cause is named and since when.
    world.broker.stop();
    let failing = crate::support::eventually("readiness to end", async || {
        let answer = world.bridge.admin("readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    let json = failing.json();
    assert!(failing.body.contains("broker") && failing.body.contains("since"), "{json}");
}

#[tokio::test]
async fn configured_presence_is_read_and_follows() {
    let presence = |bridge: Bridge, uids: &str| bridge.with_toml("ilink.subscribe.presence", uids);
    let mut world = World::prepared(&[], |bridge| presence(bridge, r#"["413","412"]"#)).await;
    world.bridge.start().await;
    for uid in ["413", "412"] {
        let message = world.client.expect(&format!("ilink/presence/{uid}")).await;
        assert_eq!((message.text(), message.retain), ("offline", true));
    }
    // 413 registers at the service: it is online, and the bridge is subscribed to that.
    let other = register_other(&world, "413").await;
    world.client.expect_text("ilink/presence/413", "online").await;
    assert!(subscribed_to(&world.sim, "413").await);

    // 413 goes while the bridge is away: the bridge reads it when it is back.
    world.bridge.kill();
    drop(other);
    let gone = json!({"appkey": crate::support::sim::APPKEY, "secretkey": SECRETKEY, "uid": "413", "action_type": 1});
    assert_eq!(world.sim.post("set_config", None, &gone).await["code"], json!(0));
    world.bridge.start().await;
    world.client.expect_text("ilink/presence/413", "offline").await;

    // No longer configured: unsubscribed and its retained topic cleared.
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    world.bridge.start().await;
    world.client.expect_text("ilink/presence/413", "").await;
    let late = Client::connect(&world.broker).await;
    late.subscribe("ilink/presence/#").await;
    late.settle().await;
    let retained = late.all(|message| message.retain);
    assert!(!retained.is_empty());
    assert!(retained.iter().all(|message| message.topic == "ilink/presence/412"), "{retained:?}");
    crate::support::eventually("the bridge to unsubscribe", async || {
        (!subscribed_to(&world.sim, "413").await).then_some(())
    })
    .await;
}

/// A world whose bridge keeps the presence of two contacts.
async fn with_two_contacts(configure: impl FnOnce(Bridge) -> Bridge) -> World {
    let presence = |bridge: Bridge| bridge.with_toml("ilink.subscribe.presence", r#"["413","412"]"#);
    let world = World::ready_with(|bridge| configure(presence(bridge))).await;
    for uid in ["413", "412"] {
        world.client.expect(&format!("ilink/presence/{uid}")).await;
    }
    world
}

#[tokio::test]
async fn presence_that_is_dropped_while_the_broker_is_away_is_cleared_by_a_later_run() {
    let mut world = with_two_contacts(|bridge| bridge).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    world.broker.pause();
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.broker.resume();
    world.bridge.start().await;
    world.client.expect_text("ilink/presence/413", "").await;
}

#[tokio::test]
async fn presence_that_a_reload_drops_is_gone_in_the_end_also_on_3_1_1() {
    let mut world = with_two_contacts(|bridge| bridge.with("mqtt.protocol", "3.1.1")).await;
    // The broker keeps what is retained, and comes back without a session of ours.
    world.broker.stop();
    world.bridge.logged("the connection to the broker was lost").await;
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    world.bridge.write_config();
    world.bridge.process().signal(rustix::process::Signal::HUP);
    world.bridge.logged("the configuration was reloaded").await;
    world.broker.restart();
    presence_is(&world, &["412"]).await;
    // Nor does it come back with another session, or another run.
    world.broker.restart();
    world.bridge.wait_ready().await;
    presence_is(&world, &["412"]).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    presence_is(&world, &["412"]).await;
}

#[tokio::test]
async fn presence_that_is_dropped_is_gone_in_the_end_also_where_the_session_is_lost() {
    let mut world = with_two_contacts(|bridge| bridge).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    lose_session(&world).await;
    world.bridge.start().await;
    presence_is(&world, &["412"]).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    lose_session(&world).await;
    world.bridge.start().await;
    presence_is(&world, &["412"]).await;
}

#[tokio::test]
async fn what_waits_of_a_contact_when_a_reload_drops_it_does_not_bring_its_presence_back() {
    let mut world = with_two_contacts(|bridge| bridge).await;
    world.broker.stop();
    world.bridge.logged("the connection to the broker was lost").await;
    world.bridge.push(&json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": 1, "time": 100})).await;
    world.bridge.set_toml("ilink.subscribe.presence", r#"["412"]"#);
    world.bridge.write_config();
    world.bridge.process().signal(rustix::process::Signal::HUP);
    world.bridge.logged("the configuration was reloaded").await;
    world.broker.restart();
    world.bridge.waiting("inbound", 0).await;
    presence_is(&world, &["412"]).await;
}

/// Whoever has the same client id and begins a session ends the bridge's.
async fn lose_session(world: &World) {
    let as_the_bridge = |options: &mut rumqttc::v5::MqttOptions| {
        options.set_client_id(format!("ilink2mqtt-{UID}")).set_clean_start(true).set_session_expiry_interval(Some(0));
    };
    drop(Client::connect_with(world.broker.port(), None, as_the_bridge).await);
}

/// Waits until whoever comes later finds the presence of these and of nobody else.
async fn presence_is(world: &World, uids: &[&str]) {
    let expected: Vec<String> = uids.iter().map(|uid| format!("ilink/presence/{uid}")).collect();
    crate::support::eventually(&format!("presence of {uids:?} alone"), async || {
        let late = Client::connect(&world.broker).await;
        late.subscribe("ilink/presence/#").await;
        late.settle().await;
        let retained = late.all(|message| message.retain && !message.payload.is_empty());
        let topics: Vec<String> = retained.into_iter().map(|message| message.topic).collect();
        (topics == expected).then_some(())
    })
    .await;
}

/// Another client of the service, with a callback of its own.
async fn register_other(world: &World, uid: &str) -> Bridge {
    let mut other = Bridge::new(&world.broker, &world.sim).with("ilink.uid", uid).with("mqtt.base_topic", "other");
    other.start().await;
    other
}

async fn subscribed_to(sim: &Sim, uid: &str) -> bool {
    sim.state().await["subscriptions"].to_string().contains(&format!("\"{uid}\""))
}

#[tokio::test]
async fn configured_topics_are_subscribed_after_each_registration() {
    let world = World::ready_with(|bridge| {
        bridge
            .with_toml("ilink.subscribe.topics", r#"[{ subject = "home/lamp", qos = 2 }, { subject = "x", qos = 0 }]"#)
    })
    .await;
    let subscriptions = |calls: &[crate::support::sim::Call]| {
        calls.iter().filter(|call| call.code == Some(0) && call.body["type"] == 1).count()
    };
    let calls = world.sim.calls_until("ham_topic", "both subscriptions", |calls| subscriptions(calls) == 2).await;
    let lamp = calls.iter().find(|call| call.body["subject"] == "home/lamp").unwrap();
    assert_eq!(lamp.body, json!({"send_uid": UID, "action_type": 1, "subject": "home/lamp", "qos": 2, "type": 1}));
    world.client.publish("ilink/send/topic/home/lamp", "on").await;
    world.client.expect_text("ilink/recv/topic/home/lamp", "on").await;
    world.sim.forget().await;
    world.client.publish("ilink/send/user/1/text", "x").await;
    world.sim.calls_until("ham_topic", "both once more", |calls| subscriptions(calls) == 4).await;
}

#[tokio::test]
async fn two_accounts_may_not_share_a_base() {
    let world = World::ready().await;
    let mut second = Bridge::new(&world.broker, &world.sim).with("ilink.uid", "999");
    second.spawn();
    second.wait_listening().await;
    let ready = crate::support::eventually("the second to see the first", async || {
        let answer = second.admin("readyz").await;
        (answer.status == 503 && answer.body.contains(UID)).then_some(answer)
    })
    .await;
    assert!(ready.body.contains("base"), "{ready:?}");
    // The second subscribes to nothing and says nothing: one command has one result, by the first.
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect("ilink/result/send/user/413/text").await;
    assert_eq!(world.sim.calls("send_msg").await.len(), 1);
    second.kill();
    world.client.settle().await;
    let infos = world.client.all(|message| message.topic == "ilink/bridge/info");
    assert!(infos.iter().all(|message| message.json()["uid"] == UID), "{infos:?}");
    assert!(
        world.client.all(|message| message.topic == "ilink/bridge/state" && message.payload == "offline").is_empty()
    );
}

#[tokio::test]
async fn what_the_broker_refuses_is_set_aside() {
    let acl = "topic read #\ntopic write ilink/bridge/#\ntopic write ilink/event/#\ntopic write ilink/send/#\n\
        topic write ilink/call/#\ntopic write ilink/result/#\ntopic write test/#\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acl");
    std::fs::write(&file, acl).unwrap();
    // With no limit on its queues, Mosquitto 2.0.11 closes the connection on every publish that it refuses.
    let conf = format!("acl_file {}\nmax_queued_messages 1000\n", file.display());
    let mut world = World::prepared_on(&conf, &[], |bridge| bridge).await;
    world.bridge.start().await;
    for n in 0..5 {
        world.bridge.push(&text_push("413", &n.to_string())).await;
    }
    // It holds nothing else up.
    for n in ["0", "1", "2", "3", "4"] {
        world.client.expect_json("ilink/event/text", |event| event["content"] == n).await;
    }
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect("ilink/result/send/user/413/text").await;
    // It says what to mend, and counts.
    world.bridge.logged("topic write ilink/recv/#").await;
    let depth = |health: &Value| health["queues"]["set_aside"]["depth"].as_u64();
    crate::support::eventually("the set-aside store to be shown", async || {
        let status = world.bridge.verb(&["status"]).await;
        (status.code == Some(0) && status.text.contains("set")).then_some(())
    })
    .await;
    // Health comes with each change of state.
    world.sim.kill();
    world.client.publish("ilink/send/user/413/text", "y").await;
    world.client.expect_json("ilink/bridge/health", |health| depth(health) == Some(5)).await;
}

#[tokio::test]
async fn a_denied_subscription_is_found_out() {
    let acl = "topic readwrite ilink/bridge/#\ntopic write #\ntopic read ilink/recv/#\ntopic read ilink/event/#\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("acl");
    std::fs::write(&file, acl).unwrap();
    let conf = format!("acl_file {}\n", file.display());
    let mut world = World::prepared_on(&conf, &[], |bridge| bridge).await;
    world.bridge.spawn();
    // The broker grants the filter and then delivers nothing: only a message to itself shows it.
    world.bridge.logged("ilink/call/#").await;
    let ready = crate::support::eventually("readiness to name the ACL", async || {
        let answer = world.bridge.admin("readyz").await;
        answer.body.contains("ACL").then_some(answer)
    })
    .await;
    assert_eq!(ready.status, 503);
    // The other direction works all the same.
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect("ilink/recv/user/413/text").await;
}

#[tokio::test]
async fn another_base_topic() {
    let world = World::ready_with(|bridge| bridge.with("mqtt.base_topic", "home/im")).await;
    world.client.subscribe("home/#").await;
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect_text("home/im/recv/user/413/text", "x").await;
    world.client.send(Out::new("home/im/send/user/413/text", "x").respond_to("home/im/reply/me", b"c")).await;
    world.client.expect("home/im/result/send/user/413/text").await;
    world.client.expect("home/im/reply/me").await;
    assert!(world.client.all(|message| message.topic.starts_with("ilink/")).is_empty());
}
