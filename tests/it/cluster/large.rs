//! What is too large for etcd blocks nothing.

use serde_json::json;

use super::leads;
use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::etcd::Etcd;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud};
use crate::support::sim::Sim;

#[tokio::test]
async fn a_result_that_etcd_does_not_take_comes_without_its_data() {
    let cloud = ScriptedCloud::start_with(|request| match (request.call(), request.line.contains("ham_group")) {
        ("get_access_token", _) => Behaviour::reply(r#"{"code":0,"access_token":"a-token","expires_in":7200}"#),
        (_, true) => Behaviour::reply(&json!({"code": 0, "group_list": vec!["a group"; 200_000]}).to_string()),
        _ => Behaviour::reply(r#"{"code":0}"#),
    })
    .await;
    let (etcd, broker) = (Etcd::start().await, Mosquitto::start(""));
    let mut bridge = Bridge::new(&broker, &Sim::absent(&[]))
        .with("ilink.api", cloud.api.as_str())
        .with_toml("cluster.endpoints", &json!([etcd.url()]).to_string())
        // Busy with so much, it goes on leading.
        .with("cluster.takeover", "20s");
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    bridge.start().await;
    leads(&bridge).await;
    // It leads before it has subscribed.
    client.expect_text("ilink/bridge/cloud", "online").await;
    client.publish("ilink/call/ham_group/list", r#"{"ref":1}"#).await;
    let result = client.expect_json("ilink/result/call/ham_group/list", |_| true).await;
    assert_eq!((&result["name"], &result["code"], &result["ref"]), (&json!("ok"), &json!(0), &json!(1)), "{result}");
    assert!(result["data"].as_object().unwrap().is_empty(), "{result}");
    assert!(result["message"].as_str().unwrap().contains("too large"), "{result}");
    // Others go on.
    client.publish("ilink/send/user/413/text", "after").await;
    let result = client.expect_json("ilink/result/send/user/413/text", |_| true).await;
    assert_eq!(result["name"], "ok", "{result}");
    bridge.waiting("outbound", 0).await;
}
