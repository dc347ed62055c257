//! An etcd that is out of space takes no new member and no new leader. The operator is told so.

use serde_json::{Value, json};

use super::Members;
use crate::support::bridge::text_push;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::http::http;

async fn ask(etcd: &Etcd, path: &str, question: Value) -> Value {
    let url = format!("{}/v3/{path}", etcd.url());
    http().post(url).json(&question).send().await.unwrap().json().await.unwrap()
}

/// Puts what is no bridge's until etcd takes no more.
async fn fill(etcd: &Etcd) {
    eventually("it is full", async || {
        let done = ask(etcd, "kv/put", json!({"key": "YQ==", "value": "A".repeat(400_000)})).await;
        done["error"].as_str().is_some_and(|error| error.contains("space exceeded")).then_some(())
    })
    .await;
}

/// What the operator is told to do.
async fn make_room(etcd: &Etcd) {
    let now = ask(etcd, "kv/range", json!({"key": "YQ=="})).await;
    ask(etcd, "kv/compaction", json!({"revision": now["header"]["revision"], "physical": true})).await;
    ask(etcd, "maintenance/defragment", json!({})).await;
    let alarms = ask(etcd, "maintenance/alarm", json!({"alarm": "NOSPACE"})).await;
    let member = &alarms["alarms"][0]["memberID"];
    ask(etcd, "maintenance/alarm", json!({"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"})).await;
}

#[tokio::test]
async fn who_cannot_lead_for_want_of_space_says_so_with_the_remedy() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=4194304"]).await;
    let mut members = Members::ready_at(etcd, 2, |bridge| bridge).await;
    fill(&members.etcd).await;
    members.bridges[0].kill();
    let standby = &members.bridges[1];
    standby.logged("this member cannot take part in the cluster").await;
    let status = standby.verb(&["status"]).await;
    let check = standby.verb(&["check", "--connect"]).await;
    for said in [standby.log(), status.text, check.text] {
        assert!(said.contains("NOSPACE") && said.contains("etcdctl alarm disarm"), "{said}");
    }
    assert_eq!(check.code, Some(69));
    // Nor can another one begin.
    members.bridges[0].spawn();
    members.bridges[0].logged("etcd is out of space").await;
    make_room(&members.etcd).await;
    members.bridges[1].logged("this member takes part in the cluster again").await;
    members.bridges[1].push(&text_push("413", "there is room")).await;
    members.client.expect_text("ilink/recv/user/413/text", "there is room").await;
}
