//! What a bridge must do at every broker, and what differs between them.

use std::ops::Range;

use serde_json::{Value, json};

use super::broker::{Broker, Run};
use super::device::{Device, text};
use crate::support::bridge::{Bridge, UID, text_push};
use crate::support::proxy::Proxy;
use crate::support::sim::Sim;

const RECEIVED: &str = "ilink/recv/user/413/text";
const SEND: &str = "ilink/send/user/413/text";
const RESULT: &str = "ilink/result/send/user/413/text";
const PRESENCE: &str = "ilink/presence/413";
const STATE: &str = "ilink/bridge/state";

/// What is known of a broker.
pub(super) struct Known {
    /// `mqtt.protocol`.
    pub(super) protocol: &'static str,
    /// Whether what is retained outlives its sudden end, at once.
    pub(super) durable: bool,
    /// Whether a subscription with a wildcard is told what is retained.
    pub(super) wildcards: bool,
    /// Whether commands that came while the bridge was away are still there when it is back.
    pub(super) waits: bool,
}

struct World {
    bridge: Bridge,
    sim: Sim,
    device: Device,
    proxy: Proxy,
    broker: Broker,
    known: Known,
}

/// The whole walk.
pub(super) async fn walk(run: Run, known: Known) {
    let mut world = World::ready(run, known).await;
    both_directions(&world).await;
    what_is_retained(&world).await;
    the_check_agrees(&world).await;
    another_account_is_seen(&world).await;
    cut_connections(&world).await;
    the_broker_is_killed(&mut world).await;
    the_bridge_is_killed(&mut world).await;
    if world.known.waits {
        commands_wait(&mut world).await;
    }
}

impl World {
    async fn ready(run: Run, known: Known) -> Self {
        let broker = Broker::start(run);
        let device = Device::hearing(broker.port(), "ilink/#").await;
        let proxy = Proxy::start(broker.port(), || None).await;
        let sim = Sim::start(&[]).await;
        let url = format!("mqtt://127.0.0.1:{}", proxy.port());
        let mut bridge = Bridge::at(&url, &sim).with("mqtt.protocol", known.protocol);
        bridge.start().await;
        Self { bridge, sim, device, proxy, broker, known }
    }

    async fn push(&self, texts: &[String]) {
        for text in texts {
            self.bridge.push(&text_push("413", text)).await;
        }
    }

    /// A command, its execution and its result.
    async fn command(&self, text: &str) {
        let before = self.device.all(RESULT).len();
        self.device.publish(SEND, text).await;
        self.executed(text).await;
        let result = self.device.nth(RESULT, before).await;
        assert_eq!(json_of(&result)["status"], "ok", "{result}");
    }

    async fn executed(&self, text: &str) {
        let content = crate::support::bridge::base64(text.as_bytes());
        let is_it = |body: &Value| body["content"] == content.as_str();
        self.sim.calls_until("send_msg", text, |calls| calls.iter().any(|call| is_it(&call.body))).await;
    }

    /// What somebody who comes now and subscribes to just this topic is told.
    async fn told_late(&self, topic: &str) -> String {
        let late = Device::hearing(self.broker.port(), topic).await;
        let told = late.expect(topic, |_| true).await;
        assert!(told.retain, "{topic}: {}", text(&told));
        text(&told)
    }

    /// The same of somebody who subscribes to everything that begins so, if it is told anything.
    async fn told_by_wildcard(&self, begin: &str, topic: &str) -> Option<String> {
        let late = Device::hearing(self.broker.port(), &format!("{begin}/#")).await;
        // What is retained comes before what is published later.
        let marker = format!("{begin}/marker");
        late.publish(&marker, "now").await;
        late.expect_text(&marker, "now").await;
        let told = late.all(topic);
        assert!(told.iter().all(|message| message.retain), "{told:?}");
        told.last().map(text)
    }
}

fn texts(name: &str, numbers: Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{name} {n}")).collect()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn both_directions(world: &World) {
    world.push(&texts("first", 0..3)).await;
    world.device.expect_in_order(RECEIVED, &texts("first", 0..3)).await;
    for message in world.device.all(RECEIVED) {
        assert_eq!((message.qos, message.retain), (rumqttc::QoS::AtLeastOnce, false));
    }
    let event = world.device.expect("ilink/event/text", |event| event.contains("first 2")).await;
    assert_eq!(json_of(&text(&event))["content"], "first 2");

    world.command("lights on").await;
    world
        .device
        .publish("ilink/by/lamp/call/send_msg/text", r#"{"accept_uid":"413","content":"by name","ref":7}"#)
        .await;
    world.executed("by name").await;
    let result = world.device.expect("ilink/by/lamp/result/call/send_msg/text", |_| true).await;
    let result = json_of(&text(&result));
    assert_eq!((&result["status"], &result["ref"]), (&json!("ok"), &json!(7)), "{result}");
    world.device.expect_text("ilink/by/lamp/ack/call/send_msg/text", "ok").await;
}

async fn what_is_retained(world: &World) {
    for (time, online) in [(100, 1), (200, 0), (300, 1)] {
        let presence = json!({"to_uid": UID, "from_uid": "413", "msg_type": 4, "type": online, "time": time});
        world.bridge.push(&presence).await;
    }
    let count = |world: &World| world.device.all(PRESENCE).len();
    crate::support::eventually("all of the presence", async || (count(world) >= 3).then_some(())).await;
    for (topic, begin) in [(PRESENCE, "ilink/presence"), (STATE, "ilink/bridge")] {
        assert_eq!(world.told_late(topic).await, "online");
        let by_wildcard = world.known.wildcards.then(|| "online".to_owned());
        assert_eq!(world.told_by_wildcard(begin, topic).await, by_wildcard, "{topic}");
    }
}

async fn the_check_agrees(world: &World) {
    let done = world.bridge.verb(&["check", "--connect"]).await;
    println!("{}", done.text);
    assert_eq!(done.code, Some(0), "{}", done.text);
    for said in ["it lets us in", "a message to a command topic arrives"] {
        assert!(done.stdout.contains(said), "{said}: {}", done.text);
    }
    assert_eq!(done.stdout.contains("MQTT 3.1.1 does not tell"), world.known.protocol == "3.1.1", "{}", done.text);
}

/// Two accounts must not share these topics, and what tells them apart is retained.
async fn another_account_is_seen(world: &World) {
    let url = format!("mqtt://127.0.0.1:{}", world.broker.port());
    let mut other = Bridge::at(&url, &world.sim).with("mqtt.protocol", world.known.protocol).with("ilink.uid", "999");
    other.spawn();
    other.logged(&format!("uid {UID} is online")).await;
    other.kill();
    assert!(world.device.all("ilink/result/bridge/state").is_empty(), "what is retained is no command");
}

/// The broker stays and the connection goes, in the middle of things: all comes, in order.
async fn cut_connections(world: &World) {
    let mut all = texts("cut", 0..150);
    for part in all.chunks(50) {
        world.push(part).await;
        world.proxy.cut();
    }
    // Over a connection after the last cut, so that the bridge is back: while it is away, a command may be lost on 3.1.1.
    all.push("after the cuts".to_owned());
    world.push(&all[150..]).await;
    world.device.expect_in_order(RECEIVED, &all).await;
    world.command("after the cuts").await;
}

/// What comes meanwhile waits and arrives in order, as soon as there is somebody to hear it.
async fn the_broker_is_killed(world: &mut World) {
    world.broker.kill();
    let all = texts("killed", 0..20);
    world.push(&all).await;
    // Not every broker keeps the device's session, so the device has to be there first.
    world.bridge.process().pause();
    let before = world.device.subscriptions();
    world.broker.restart();
    world.device.subscribed_again(before).await;
    world.bridge.process().resume();
    world.device.expect_in_order(RECEIVED, &all).await;
    world.bridge.wait_ready().await;
    world.command("after the broker's end").await;
    assert_eq!(world.told_late(STATE).await, "online");
    if world.known.durable {
        assert_eq!(world.told_late(PRESENCE).await, "online");
    }
}

/// The broker says for it that it is gone.
async fn the_bridge_is_killed(world: &mut World) {
    let before = world.device.all(STATE).len();
    world.bridge.kill();
    assert_eq!(world.device.nth(STATE, before).await, "offline");
    assert_eq!(world.told_late(STATE).await, "offline");
    if world.known.protocol == "3.1.1" {
        world.bridge.set_toml("mqtt.persistent_session", "true");
    }
    world.bridge.start().await;
    assert_eq!(world.device.nth(STATE, before + 1).await, "online");
}

/// Commands that come while the bridge is away wait at the broker.
async fn commands_wait(world: &mut World) {
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    for text in ["while away 1", "while away 2"] {
        world.device.publish(SEND, text).await;
    }
    world.bridge.start().await;
    for text in ["while away 1", "while away 2"] {
        world.executed(text).await;
    }
}
