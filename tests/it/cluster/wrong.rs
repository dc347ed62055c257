//! What is configured wrongly is told.

use serde_json::json;

use super::leads;
use crate::support::bridge::Bridge;
use crate::support::etcd::Etcd;
use crate::support::mosquitto::Mosquitto;
use crate::support::pki::Authority;
use crate::support::scripted_cloud::ScriptedCloud;
use crate::support::sim::Sim;

#[tokio::test]
async fn the_prefix_of_another_account_and_the_name_of_another_member() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let member = || {
        Bridge::new(&broker, &sim)
            .with_toml("cluster.endpoints", &json!([etcd.url()]).to_string())
            .with("cluster.prefix", "/shared")
            .with("cluster.member", "a")
            .with("cluster.takeover", "2s")
    };
    let mut first = member();
    first.start().await;
    leads(&first).await;

    let mut other = member().with("ilink.uid", "415");
    other.spawn();
    let ended = other.process().ended().await;
    assert_eq!(ended.code(), Some(64), "{}", other.log());
    let log = other.log();
    assert!(log.contains("cluster.prefix /shared belongs to the account 414") && log.contains("415"), "{log}");

    let mut twin = member();
    twin.spawn();
    twin.logged("another bridge is registered as `a`").await;
    twin.logged("this member cannot take part in the cluster").await;
    leads(&first).await;
}

#[tokio::test]
async fn a_server_that_is_no_etcd() {
    let pki = Authority::new("somebody's");
    let somebody = ScriptedCloud::start_tls(pki.server("localhost", false)).await;
    let port = somebody.api.port().expect("a port");
    let (broker, sim) = (Mosquitto::start(""), Sim::start(&[]).await);
    let at = |url: String| Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &json!([url]).to_string());
    for (bridge, says) in [
        (at(format!("https://localhost:{port}")).with("cluster.tls.ca", &pki.file("ca.pem")), "is not etcd"),
        (at(format!("https://localhost:{port}")), "cluster.tls.ca"),
        (at(format!("http://localhost:{port}")), "https://"),
        (at(sim.url()), "is not etcd"),
    ] {
        let done = bridge.verb(&["check", "--connect"]).await;
        assert!(done.code == Some(69) && done.text.contains(says), "{says}: {done:?}");
    }
}
