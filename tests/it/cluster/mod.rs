//! Several bridges for one account, with a real etcd: one leads, the others take pushes in and stand by.

mod etcds;
mod large;
mod majority;
mod repeats;
mod rights;
mod shares;
mod silent;
mod space;
mod stops;
mod waiting;
mod wrong;

use serde_json::{Value, json};

use crate::support::bridge::{Bridge, text_push};
use crate::support::client::{Client, Message};
use crate::support::deserted::Deserted;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

/// A cluster, and a device that hears everything.
struct Members {
    bridges: Vec<Bridge>,
    client: Client,
    sim: Sim,
    etcd: Etcd,
    broker: Mosquitto,
    as_wanted: fn(Bridge) -> Bridge,
}

impl Members {
    /// So many of them, the first of which leads.
    async fn ready(count: usize) -> Self {
        Self::ready_with(count, |bridge| bridge).await
    }

    /// The same with other settings.
    async fn ready_with(count: usize, as_wanted: fn(Bridge) -> Bridge) -> Self {
        Self::ready_at(Etcd::start().await, count, as_wanted).await
    }

    /// The same at this etcd.
    async fn ready_at(etcd: Etcd, count: usize, as_wanted: fn(Bridge) -> Bridge) -> Self {
        let (broker, sim) = (Mosquitto::start(""), Sim::start(&[]).await);
        let client = Client::connect(&broker).await;
        client.subscribe("ilink/#").await;
        let mut members = Self { bridges: Vec::new(), client, sim, etcd, broker, as_wanted };
        for name in ["a", "b", "c"].iter().take(count) {
            members.join(name, &members.etcd.url()).await;
        }
        members
    }

    /// One more, which reaches etcd at this URL.
    async fn join(&mut self, name: &str, etcd: &str) {
        let endpoints = json!([etcd]).to_string();
        let mut bridge = Bridge::new(&self.broker, &self.sim)
            .with_toml("cluster.endpoints", &endpoints)
            .with("cluster.member", name)
            .with("cluster.takeover", "3s");
        if let Some(first) = self.bridges.first().map(Bridge::callback_port) {
            // One URL for all, as behind a load balancer: that of the first.
            bridge = bridge.with("callback.public_url", &format!("http://127.0.0.1:{first}"));
        }
        bridge = (self.as_wanted)(bridge);
        bridge.start().await;
        if self.bridges.is_empty() {
            leads(&bridge).await;
            self.client.expect_text("ilink/bridge/cloud", "online").await;
        }
        self.bridges.push(bridge);
    }
}

async fn role(bridge: &Bridge) -> Option<String> {
    let ready: Value = serde_json::from_str(&bridge.admin("readyz").await.body).ok()?;
    Some(ready["role"].as_str()?.to_owned())
}

/// Waits until this bridge leads.
async fn leads(bridge: &Bridge) {
    eventually("it leads", async || (role(bridge).await.as_deref() == Some("leader")).then_some(())).await;
}

#[tokio::test]
async fn a_standby_takes_pushes_and_the_leader_publishes_them() {
    let members = Members::ready(2).await;
    assert_eq!(role(&members.bridges[1]).await.as_deref(), Some("standby"));
    assert_eq!(members.bridges[1].admin("readyz").await.status, 200, "it can store");
    for (member, text) in [(1, "by b"), (0, "by a"), (1, "by b again")] {
        members.bridges[member].push(&text_push("413", text)).await;
        members.client.expect_text("ilink/recv/user/413/text", text).await;
    }
    // One session and one registration for all of them.
    assert_eq!(members.sim.calls("get_access_token").await.len(), 1);
    let cluster = members.client.expect_json("ilink/bridge/cluster", |told| told["members"][1].is_object()).await;
    assert_eq!(cluster["leader"], "a");
    assert_eq!(cluster["etcd"], json!({"healthy": 1, "of": 1}));
    let status = members.bridges[1].verb(&["status"]).await;
    assert!(status.stdout.contains("a leads"), "{status:?}");
}

#[tokio::test]
async fn another_member_takes_over_from_a_killed_leader() {
    let mut members = Members::ready(2).await;
    members.bridges[0].kill();
    // While nobody leads, pushes are answered all the same.
    members.bridges[1].push(&text_push("413", "meanwhile")).await;
    leads(&members.bridges[1]).await;
    members.client.expect_text("ilink/recv/user/413/text", "meanwhile").await;
    members.client.publish("ilink/send/user/413/text", "after").await;
    let result = members.client.expect_json("ilink/result/send/user/413/text", |_| true).await;
    assert_eq!(result["name"], "ok", "{result}");
    // The stored token is kept.
    assert_eq!(members.sim.calls("get_access_token").await.len(), 1);
    members.bridges[0].start().await;
    assert_eq!(role(&members.bridges[0]).await.as_deref(), Some("standby"));
}

#[tokio::test]
async fn a_command_that_waits_is_executed_by_the_next_leader() {
    let members = Members::ready(2).await;
    members.sim.pause();
    members.client.publish("ilink/send/user/413/text", "waits").await;
    members.bridges[0].waiting("outbound", 1).await;
    assert_eq!(members.bridges[0].verb(&["step-down"]).await.code, Some(0));
    leads(&members.bridges[1]).await;
    members.sim.resume();
    let result = members.client.expect_json("ilink/result/send/user/413/text", |_| true).await;
    assert_eq!(result["name"], "ok", "{result}");
}

#[tokio::test]
async fn stepping_down_and_a_clean_stop_hand_over_and_the_state_stays_online() {
    let mut members = Members::ready(2).await;
    members.client.expect_text("ilink/bridge/state", "online").await;
    let refused = members.bridges[1].verb(&["step-down"]).await;
    assert_eq!(refused.code, Some(69), "{refused:?}");
    let done = members.bridges[0].verb(&["step-down"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    leads(&members.bridges[1]).await;
    assert_eq!(role(&members.bridges[0]).await.as_deref(), Some("standby"));
    members.bridges[0].push(&text_push("413", "by who stepped down")).await;
    members.client.expect_text("ilink/recv/user/413/text", "by who stepped down").await;
    // And back, by a stop.
    assert_eq!(members.bridges[1].stop().await.code(), Some(0));
    leads(&members.bridges[0]).await;
    members.bridges[0].push(&text_push("413", "the last")).await;
    members.client.expect_text("ilink/recv/user/413/text", "the last").await;
    let offline = members.client.all(|message| message.topic == "ilink/bridge/state" && message.text() == "offline");
    assert!(offline.is_empty(), "{offline:?}");
    // The last one has nobody to hand over to.
    let alone = members.bridges[0].verb(&["step-down"]).await;
    assert_eq!(alone.code, Some(69), "{alone:?}");
    assert_eq!(members.bridges[0].stop().await.code(), Some(0));
    members.client.expect_text("ilink/bridge/state", "offline").await;
}

#[tokio::test]
async fn a_leader_that_was_stopped_does_nothing_more_when_it_goes_on() {
    let mut members = Members::ready(2).await;
    // With something to publish and something to call when it is stopped.
    members.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 1, "times": 1})).await;
    for n in 0..20 {
        members.client.publish("ilink/send/user/413/text", format!("command {n}")).await;
    }
    members.bridges[0].process().signal(rustix::process::Signal::STOP);
    for n in 0..20 {
        members.bridges[1].push(&text_push("413", &format!("push {n}"))).await;
    }
    leads(&members.bridges[1]).await;
    members.client.expect_text("ilink/bridge/cloud", "online").await;
    let sent = |message: &Message| message.topic == "ilink/result/send/user/413/text";
    members.client.gather("every result", 20, sent).await;
    let received = |message: &Message| message.topic == "ilink/recv/user/413/text";
    members.client.gather("every push", 20, received).await;
    for queue in ["inbound", "outbound"] {
        members.bridges[1].waiting(queue, 0).await;
    }
    members.client.settle().await;
    let before = (members.sim.calls("send_msg").await.len(), members.client.all(|_| true).len());
    members.bridges[0].process().signal(rustix::process::Signal::CONT);
    members.bridges[0].logged("this member does not lead any more").await;
    eventually("it stands by", async || (role(&members.bridges[0]).await.as_deref() == Some("standby")).then_some(()))
        .await;
    members.client.settle().await;
    assert_eq!(members.sim.calls("send_msg").await.len(), before.0, "it called");
    let after: Vec<_> = members.client.all(|_| true).split_off(before.1);
    let acted = after.iter().any(|message| sent(message) || received(message) || message.text() == "offline");
    assert!(!acted, "{after:?}");
    assert_eq!(role(&members.bridges[1]).await.as_deref(), Some("leader"));
}

#[tokio::test]
async fn what_a_bridge_that_was_alone_has_moves_into_the_cluster() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    let mut bridge = Bridge::new(&broker, &sim).without("callback.path_secret").with("cluster.member", "a");
    bridge.start().await;
    client.expect_text("ilink/bridge/cloud", "online").await;
    let url = bridge.verb(&["callback-url"]).await.stdout;
    sim.pause();
    client.publish("ilink/send/user/413/text", "waits").await;
    bridge.waiting("outbound", 1).await;
    bridge.kill();
    bridge.set_toml("cluster.endpoints", &json!([etcd.url()]).to_string());
    bridge.spawn();
    bridge.logged("moved into the cluster").await;
    bridge.logged("this member leads now").await;
    assert_eq!(bridge.verb(&["callback-url"]).await.stdout, url);
    sim.resume();
    let result = client.expect_json("ilink/result/send/user/413/text", |_| true).await;
    assert_eq!(result["name"], "ok", "{result}");
    // The token has moved, too: there was no need for another.
    assert_eq!(sim.calls("get_access_token").await.len(), 1);
    // Nothing is left to be moved again.
    assert!(!bridge.state_dir().join("identity.json").exists());
    assert_eq!(bridge.stop().await.code(), Some(0));
    bridge.start().await;
    bridge.waiting("outbound", 0).await;
}

#[tokio::test]
async fn each_endpoint_is_tried_and_what_is_wrong_is_said() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let nobody = Deserted::new();
    let endpoints = json!([etcd.url(), format!("http://127.0.0.1:{}", nobody.port()), sim.url()]);
    let bridge = Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &endpoints.to_string());
    let done = bridge.verb(&["check", "--connect"]).await;
    assert_eq!(done.code, Some(69), "{done:?}");
    for said in ["answers: version 3.", "cannot be reached", "is not etcd"] {
        assert!(done.text.contains(said), "{said}: {done:?}");
    }
    // Without a member that runs there is nobody to ask.
    let done = bridge.verb(&["query"]).await;
    assert_eq!(done.code, Some(69), "{done:?}");
}

#[tokio::test]
async fn without_etcd_nothing_is_answered_and_nobody_acts_until_it_is_back() {
    let members = Members::ready(2).await;
    members.etcd.pause();
    members.bridges[1].unanswered(&text_push("413", "lost to us")).await;
    members.bridges[1].logged("a push is left unanswered").await;
    let log = members.bridges[1].log();
    assert!(log.contains("etcd does not take what is to be stored") && !log.contains("the disk"), "{log}");
    members.bridges[0].logged("this member does not lead any more").await;
    members.bridges[1].logged("this member cannot take part in the cluster").await;
    members.etcd.resume();
    let back = async || {
        for bridge in &members.bridges {
            if role(bridge).await.as_deref() == Some("leader") {
                return Some(());
            }
        }
        None
    };
    eventually("one of them leads again", back).await;
    for (bridge, text) in members.bridges.iter().zip(["a is back", "b is back"]) {
        eventually("it stores", async || bridge.try_post(&text_push("413", text)).await).await;
        members.client.expect_text("ilink/recv/user/413/text", text).await;
    }
}

#[tokio::test]
async fn a_new_secret_reaches_every_member_at_once() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let member = |name: &str| {
        Bridge::new(&broker, &sim)
            .with_toml("cluster.endpoints", &json!([etcd.url()]).to_string())
            .with("cluster.member", name)
            .without("callback.path_secret")
    };
    let mut a = member("a");
    a.start().await;
    leads(&a).await;
    let mut b = member("b").with("callback.public_url", &format!("http://127.0.0.1:{}", a.callback_port()));
    b.start().await;
    let url = async |bridge: &Bridge| bridge.verb(&["callback-url"]).await.stdout.trim().to_owned();
    let before = url(&a).await;
    assert_eq!(url(&b).await, before);
    eventually("a is registered", async || {
        let done = a.verb(&["register", "--new-secret"]).await;
        (done.code == Some(0)).then_some(())
    })
    .await;
    let after = url(&a).await;
    assert_ne!(after, before);
    eventually("b has the new secret", async || (url(&b).await == after).then_some(())).await;
    let path = after.rsplit('/').next().unwrap().to_owned();
    // Whoever leads next goes on with it.
    assert_eq!(a.verb(&["step-down"]).await.code, Some(0));
    leads(&b).await;
    assert_eq!(url(&b).await, after);
    let served = async || (b.request(reqwest::Method::GET, &format!("/{path}")).await.status == 400).then_some(());
    eventually("b serves it", served).await;
}
