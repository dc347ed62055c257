//! Users of etcd whose role does not let them do what a member does.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::bridge::Bridge;
use crate::support::etcd::Etcd;
use crate::support::http::http;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

const PREFIX: &str = "/ilink2mqtt/414/";

/// An etcd with users: each has a role of its name, with this right below the prefix.
async fn with_users(users: &[(&str, Option<&str>)]) -> Etcd {
    let etcd = Etcd::start().await;
    let ask = async |path: &str, question: Value| {
        let url = format!("{}/v3/auth/{path}", etcd.url());
        let done: Value = http().post(url).json(&question).send().await.unwrap().json().await.unwrap();
        assert!(done["error"].is_null(), "{path}: {done}");
    };
    let encode = |key: &str| base64::engine::general_purpose::STANDARD.encode(key);
    let end = PREFIX.replace("414/", "4140");
    for (name, right) in users.iter().copied().chain([("root", None)]) {
        ask("user/add", json!({"name": name, "password": "geheim"})).await;
        ask("role/add", json!({"name": name})).await;
        if let Some(right) = right {
            let perm = json!({"permType": right, "key": encode(PREFIX), "range_end": encode(&end)});
            ask("role/grant", json!({"name": name, "perm": perm})).await;
        }
        ask("user/grant", json!({"user": name, "role": name})).await;
    }
    ask("enable", json!({})).await;
    etcd
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_with_the_prefix_and_the_remedy() {
    let users = [("all", Some("READWRITE")), ("reader", Some("READ")), ("writer", Some("WRITE")), ("nobody", None)];
    let (etcd, broker, sim) = (with_users(&users).await, Mosquitto::start(""), Sim::start(&[]).await);
    let bridge = || Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &json!([etcd.url()]).to_string());
    for (user, missing) in
        [("all", &[][..]), ("reader", &["write"]), ("writer", &["read"]), ("nobody", &["read", "write"])]
    {
        let done = bridge()
            .with("cluster.username", user)
            .with("cluster.password", "geheim")
            .verb(&["check", "--connect"])
            .await;
        for right in ["read", "write"] {
            let says = format!("does not let the user `{user}` {right} below {PREFIX}");
            assert_eq!(done.text.contains(&says), missing.contains(&right), "{user}: {done:?}");
        }
        let remedy = format!("etcdctl role grant-permission {user} readwrite --prefix=true {PREFIX}");
        assert_eq!(done.text.contains(&remedy), !missing.is_empty(), "{done:?}");
        let fine = format!("it lets us read and write below {PREFIX}");
        assert_eq!(done.text.contains(&fine), missing.is_empty(), "{done:?}");
        assert_eq!(done.code, Some(if missing.is_empty() { 0 } else { 69 }), "{done:?}");
    }
    // Who does not log in, though there are users.
    let done = bridge().verb(&["check", "--connect"]).await;
    assert!(done.code == Some(69) && done.text.contains("cluster.username"), "{done:?}");
    // The remedy as it is told, carried out.
    let done = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.url(), "--user", "root:geheim"])
        .args(["role", "grant-permission", "reader", "readwrite", "--prefix=true", PREFIX])
        .status();
    assert!(done.expect("etcdctl cannot be run: apt-get install etcd-client").success());
    let reader = bridge().with("cluster.username", "reader").with("cluster.password", "geheim");
    let done = reader.verb(&["check", "--connect"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test]
async fn what_is_tried_leaves_nothing_behind() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let bridge = Bridge::new(&broker, &sim).with_toml("cluster.endpoints", &json!([etcd.url()]).to_string());
    let done = bridge.verb(&["check", "--connect"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let ask = async |path: &str, question: Value| {
        let url = format!("{}/v3/{path}", etcd.url());
        http().post(url).json(&question).send().await.unwrap().json::<Value>().await.unwrap()
    };
    // Everything.
    let found = ask("kv/range", json!({"key": "AA==", "range_end": "AA=="})).await;
    assert!(found["header"]["revision"].as_str().is_some_and(|revision| revision != "1"), "it tried: {found}");
    assert!(found["kvs"].is_null(), "{found}");
    let leases = ask("lease/leases", json!({})).await;
    assert!(leases["leases"].is_null(), "{leases}");
}
