//! What is configured wrongly is told.

use serde_json::json;

use super::leads;
use crate::bug_report::report;
use crate::support::bridge::Bridge;
use crate::support::etcd::Etcd;
use crate::support::http::http;
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
    assert!(!other.state_dir().join("control.sock").exists(), "what it answered on is left behind");

    let done = member().with("ilink.uid", "415").verb(&["check", "--connect"]).await;
    let says = "cluster.prefix /shared belongs to the account 414, and ilink.uid is 415";
    assert!(done.code == Some(69) && done.text.contains(says), "{done:?}");
    let done = member().verb(&["check", "--connect"]).await;
    assert!(!done.text.contains("belongs to the account"), "{done:?}");

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

#[tokio::test]
async fn an_etcd_without_tls_is_told_from_one_that_is_not_there() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let url = etcd.url().replace("http://", "https://");
    let bridge = Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &json!([url]).to_string());
    let done = bridge.verb(&["check", "--connect"]).await;
    let says = "it does not answer in TLS: write http://";
    assert!(done.code == Some(69) && done.text.contains(says) && !done.text.contains("firewall"), "{done:?}");
}

#[tokio::test]
async fn an_etcd_without_space_is_told_with_the_remedy() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let alarm = json!({"action": "ACTIVATE", "memberID": 0, "alarm": "NOSPACE"});
    let raised = http().post(format!("{}/v3/maintenance/alarm", etcd.url())).json(&alarm).send().await.unwrap();
    assert_eq!(raised.status(), 200);
    let bridge = Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &json!([etcd.url()]).to_string());
    let done = bridge.verb(&["check", "--connect"]).await;
    let told = done.text.contains("NOSPACE") && done.text.contains("etcdctl alarm disarm");
    assert!(done.code == Some(69) && told && !done.text.contains("majority"), "{done:?}");
}

#[tokio::test]
async fn without_a_running_member_no_verb_takes_this_machines_directory_for_all_there_is() {
    let (broker, sim) = (Mosquitto::start(""), Sim::start(&[]).await);
    let bridge = Bridge::new(&broker, &sim).with_toml("cluster.endpoints", r#"["http://127.0.0.1:1"]"#);
    let verbs = [&["status"][..], &["query"], &["set-aside", "list"], &["callback-url"], &["step-down"]];
    for verb in verbs {
        let done = bridge.verb(verb).await;
        assert!(
            done.code == Some(69) && done.text.contains("in a cluster, only running members"),
            "{verb:?}: {done:?}"
        );
    }
    let texts = report(&bridge, "report.tar.gz").await;
    let status = &texts["status.txt"];
    assert!(
        status.starts_with("it does not run") && status.contains("only a running member can read them"),
        "{status}"
    );
    assert!(!status.contains("waiting,"), "{status}");
    // Nor does one make what a member would then take for its own.
    for file in ["spool.db", "identity.json"] {
        assert!(!bridge.state_dir().join(file).exists(), "{file}");
    }
}
