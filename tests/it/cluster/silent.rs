//! A takeover while one of etcd's endpoints swallows what it is told.

use std::time::{Duration, Instant};

use serde_json::json;

use super::leads;
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::Client;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;
use crate::support::sim::Sim;

const TAKEOVER: Duration = Duration::from_secs(3);
/// What a machine with much else to do may need besides.
const BUSY: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_silent_endpoint_delays_neither_a_takeover_nor_a_push() {
    let (etcds, broker, sim) = (Etcd::three().await, Mosquitto::start(""), Sim::start(&[]).await);
    let way = Proxy::start(etcds.port(), || None).await;
    let endpoints = json!(
        [way.port(), etcds.members[1].port(), etcds.members[2].port()].map(|port| format!("http://127.0.0.1:{port}"))
    );
    let member = |name: &str| {
        Bridge::new(&broker, &sim)
            .with_toml("cluster.endpoints", &endpoints.to_string())
            .with("cluster.member", name)
            .with("cluster.takeover", &format!("{}s", TAKEOVER.as_secs()))
    };
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    let mut a = member("a");
    a.start().await;
    leads(&a).await;
    client.expect_text("ilink/bridge/cloud", "online").await;
    let mut b = member("b").with("callback.public_url", &format!("http://127.0.0.1:{}", a.callback_port()));
    b.start().await;
    // Everybody's first choice.
    for (bridge, text) in [(&a, "by a"), (&b, "by b")] {
        bridge.push(&text_push("413", text)).await;
        client.expect_text("ilink/recv/user/413/text", text).await;
    }

    way.mute(true);
    let begun = Instant::now();
    a.kill();
    let push = text_push("413", "meanwhile");
    eventually("it is answered", async || b.try_post(&push).await.filter(|answer| answer.status == 200)).await;
    let answered = begun.elapsed();
    client.expect_text("ilink/recv/user/413/text", "meanwhile").await;
    let published = begun.elapsed();
    println!("answered after {answered:?}, published after {published:?}");
    assert!(answered < Duration::from_secs(2), "{answered:?}");
    assert!(published < TAKEOVER + Duration::from_secs(4) + BUSY, "{published:?}");
}
