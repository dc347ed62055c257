//! What keeps messages from passing is told apart wherever somebody looks: `bridge/health`, `status`, the page, the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::{Value, json};

use super::world::World;
use crate::admin::prometheus::Metrics;
use crate::support::bridge::{Bridge, text_push};
use crate::support::eventually;
use crate::support::reacting_broker::{Copy, ReactingBroker, Reaction};
use crate::support::sim::Sim;

/// Everything that is told at one moment.
pub(crate) struct Told {
    pub(crate) status: String,
    pub(crate) json: Value,
    pub(crate) page: String,
    pub(crate) metrics: Metrics,
}

impl Told {
    pub(crate) async fn by(bridge: &Bridge) -> Self {
        let json = bridge.verb(&["status", "--json"]).await.stdout;
        let metrics = bridge.admin("metrics").await.body;
        Self {
            status: bridge.verb(&["status"]).await.stdout,
            json: serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}")),
            page: bridge.admin("").await.body,
            metrics: Metrics::parse(&metrics),
        }
    }

    /// Once `so` holds of it.
    pub(crate) async fn once(bridge: &Bridge, what: &str, so: impl Fn(&Self) -> bool) -> Self {
        eventually(what, async || Some(Self::by(bridge).await).filter(&so)).await
    }

    pub(crate) fn health(&self) -> &Value {
        &self.json["health"]
    }

    /// `status` has a line that begins so and says all of this.
    #[track_caller]
    pub(crate) fn line(&self, begins: &str, says: &[&str]) {
        let says = |line: &str| says.iter().all(|says| line.contains(says));
        let found = self.status.lines().any(|line| line.starts_with(begins) && says(line));
        assert!(found, "no line {begins:?} in\n{}", self.status);
    }

    /// The page says all of this.
    #[track_caller]
    pub(crate) fn shows(&self, says: &[&str]) {
        for says in says {
            assert!(self.page.contains(says), "no {says:?} in\n{}", self.page);
        }
    }

    /// Of the broker's troubles there is this one and no other.
    #[track_caller]
    fn trouble(&self, present: Option<&str>) {
        for kind in ["busy", "refused_for_now", "ends_connection", "refused"] {
            let is = i64::from(present == Some(kind));
            assert_eq!(self.metrics.whole("broker_trouble", &[("kind", kind)]), is, "{kind}");
        }
    }

    /// So many were delivered, and so many set aside, in whatever way it is counted.
    #[track_caller]
    fn counted(&self, delivered: u32, set_aside: u32) {
        let counters = &self.health()["counters"];
        assert_eq!(counters["pushes_delivered"], delivered);
        assert_eq!(counters["pushes_set_aside"], set_aside);
        assert_eq!(self.health()["queues"]["set_aside"]["depth"], set_aside);
        let kinds = ["text", "file", "group", "topic", "presence", "other"];
        let of = |kind| self.metrics.whole("pushes_delivered_total", &[("kind", kind)]);
        assert_eq!(kinds.map(of).iter().sum::<i64>(), i64::from(delivered));
        for (name, labels) in [
            ("pushes_set_aside_total", &[][..]),
            ("set_aside_total", &[]),
            ("queue_messages", &[("queue", "set_aside")]),
            ("publishes_total", &[("outcome", "refused")]),
        ] {
            assert_eq!(self.metrics.whole(name, labels), i64::from(set_aside), "{name}");
        }
        let passed = |outcome: &str| {
            let all = self.json["messages"].as_array().unwrap();
            all.iter().filter(|message| message["outcome"] == outcome).count()
        };
        assert_eq!(passed("delivered"), usize::try_from(delivered).unwrap());
        assert_eq!(passed("refused by the broker: set aside"), usize::try_from(set_aside).unwrap());
        self.line("set aside       ", &[&format!("{set_aside} kept")]);
    }
}

/// A bridge at this broker, whose service is away.
fn bridge(broker: &ReactingBroker) -> Bridge {
    Bridge::at(&broker.url(), &Sim::absent(&[])).with("mqtt.output", "raw")
}

#[track_caller]
fn is_moment(value: &Value) {
    assert!(value.as_str().is_some_and(|at| humantime::parse_rfc3339(at).is_ok()), "{value}");
}

/// A broker that does not take messages for now, in this way; what is told of it, and that all come when it is over.
async fn told_for_now(reaction: Reaction, kind: &str, words: &str, cause: &str) {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let broker =
        ReactingBroker::start(move |_| if is_well.load(Ordering::Relaxed) { Reaction::Take } else { reaction.clone() })
            .await;
    let mut bridge = bridge(&broker);
    bridge.spawn();
    bridge.wait_listening().await;
    for (from, text) in [("413", "1"), ("413", "2"), ("500", "3")] {
        bridge.push(&text_push(from, text)).await;
    }
    let is_told = |health: &Value| health["broker"]["busy"][0]["kind"] == kind;
    broker.health(kind, is_told).await;
    let told = Told::once(&bridge, kind, |told| is_told(told.health())).await;
    let busy = &told.health()["broker"]["busy"][0];
    assert_eq!(busy["what"], "messages from iLink");
    assert!(busy["cause"].as_str().unwrap().contains(cause), "{busy}");
    assert!(busy["messages"].as_u64().unwrap() >= 1 && busy["lanes"].as_u64().unwrap() >= 1, "{busy}");
    is_moment(&busy["since"]);
    assert_eq!(told.health()["broker"]["refused"], json!([]), "that is for good");
    told.line(&format!("{words:<16}"), &["messages from iLink wait", " since ", cause]);
    told.shows(&[&format!("messages from iLink, {words}"), cause, "none is lost"]);
    told.trouble(Some(kind));
    assert!(told.metrics.whole("held_up_messages", &[]) >= 1);
    assert_eq!(told.metrics.whole("store_state", &[("state", "ok")]), 1);
    told.counted(0, 0);
    well.store(true, Ordering::Relaxed);
    let over = Told::once(&bridge, "all to be delivered", |told| {
        told.health()["counters"]["pushes_delivered"] == 3 && told.health()["broker"]["busy"] == json!([])
    })
    .await;
    over.counted(3, 0);
    over.trouble(None);
    assert!(!over.page.contains(&format!("messages from iLink, {words}")));
    broker.health("that it is over", |health| health["broker"]["busy"] == json!([])).await;
}

#[tokio::test]
async fn a_broker_that_is_busy() {
    let busy = Reaction::Refuse(PubAckReason::QuotaExceeded);
    told_for_now(busy, "busy", "busy", "the broker is busy: quota exceeded").await;
}

#[tokio::test]
async fn a_broker_that_refuses_for_now() {
    let refused = Reaction::Refuse(PubAckReason::UnspecifiedError);
    let cause = "the broker refuses it for now: unspecified error";
    told_for_now(refused, "refused_for_now", "refused for now", cause).await;
}

#[tokio::test]
async fn a_broker_that_ends_the_connection_at_messages() {
    let cause = "the broker ends the connection when it gets the message";
    told_for_now(Reaction::Die, "ends_connection", "cut off", cause).await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_set_aside_and_counted_there_alone() {
    let broker = ReactingBroker::start(|copy: &Copy| {
        let refused = copy.topic == "ilink/recv/user/413/text";
        if refused { Reaction::Refuse(PubAckReason::NotAuthorized) } else { Reaction::Take }
    })
    .await;
    let mut bridge = bridge(&broker);
    bridge.spawn();
    bridge.wait_listening().await;
    for (from, text) in [("413", "1"), ("500", "2"), ("413", "3")] {
        bridge.push(&text_push(from, text)).await;
    }
    let told = Told::once(&bridge, "all to be settled", |told| {
        let (counters, kept) = (&told.health()["counters"], &told.health()["queues"]["set_aside"]["depth"]);
        // A push counts as set aside a moment before it is kept.
        counters["pushes_set_aside"] == 2 && counters["pushes_delivered"] == 1 && *kept == 2
    })
    .await;
    told.counted(1, 2);
    told.trouble(Some("refused"));
    assert_eq!(told.health()["broker"]["busy"], json!([]), "that is for now");
    let refused = &told.health()["broker"]["refused"][0];
    assert!(refused["cause"].as_str().unwrap().contains("not authorized"), "{refused}");
    is_moment(&refused["since"]);
    told.line("refused         ilink/recv/user/", &["not authorized", " since "]);
    told.shows(&["publishes to ilink/recv/user/", "not authorized", "refused by the broker: set aside"]);
    assert_eq!(told.metrics.whole("held_up_messages", &[]), 0);
    let refused = |health: &Value| health["broker"]["refused"][0]["topic"].is_string();
    broker.health("what is refused", refused).await;
}

#[tokio::test]
async fn an_endpoint_of_the_service_that_does_not_work() {
    let world = World::ready().await;
    let bridge = &world.bridge;
    world.sim.fault(&json!({"path": "send_msg", "mode": "status", "code": 503, "times": 0})).await;
    for to in ["413", "500"] {
        world.client.publish(&format!("ilink/send/user/{to}/text"), "x").await;
    }
    let closed = |health: &Value| health["cloud"]["closed"].as_array().map_or(0, Vec::len);
    world.client.expect_json("ilink/bridge/health", |health| closed(health) == 1).await;
    let told = Told::once(bridge, "send_msg to be closed", |told| closed(told.health()) == 1).await;
    let endpoint = &told.health()["cloud"]["closed"][0];
    assert_eq!(endpoint["endpoint"], "send_msg");
    assert!(endpoint["cause"].as_str().unwrap().contains("HTTP status 503"), "{endpoint}");
    is_moment(&endpoint["since"]);
    assert_eq!(told.health()["cloud"]["state"], "degraded");
    told.line("closed          send_msg since ", &["HTTP status 503"]);
    told.shows(&["<code>send_msg</code>", "HTTP status 503"]);
    let is_closed = |told: &Told, path| told.metrics.whole("endpoint_closed", &[("endpoint", path)]);
    assert_eq!((is_closed(&told, "send_msg"), is_closed(&told, "ham_topic")), (1, 0));
    // Others work meanwhile.
    world.client.publish("ilink/send/topic/home/lamp", "on").await;
    let result = world.client.expect("ilink/result/send/topic/home/lamp").await.json();
    assert_eq!(result["status"], "ok", "{result}");

    world.sim.fault(&json!({"mode": "clear"})).await;
    for to in ["413", "500"] {
        let result = world.client.expect(&format!("ilink/result/send/user/{to}/text")).await.json();
        assert_eq!(result["status"], "ok", "{result}");
    }
    let told = Told::once(bridge, "send_msg to be open", |told| closed(told.health()) == 0).await;
    assert_eq!(is_closed(&told, "send_msg"), 0);
    assert!(!told.status.contains("closed          ") && !told.page.contains("<code>send_msg</code>"));
}
