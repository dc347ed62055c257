//! A client's share of the queue is counted by whoever leads, also by a process that led before.

use serde_json::Value;

use super::{Members, leads};
use crate::support::client::Message;

const RESULT: &str = "ilink/result/send/user/413/text";

#[tokio::test]
async fn a_client_has_no_more_than_its_share_when_a_process_leads_again() {
    // Each leads until it is told to step down, however busy the machine is.
    let mut members =
        Members::ready_with(2, |bridge| bridge.with("cluster.max_bytes", "1MiB").with("cluster.takeover", "20s")).await;
    members.sim.kill();
    let large = "x".repeat(100_000);
    // Three quarters of the queue, as there is nobody else.
    for _ in 0..7 {
        members.client.publish("ilink/send/user/413/text", &large).await;
    }
    members.bridges[0].waiting("outbound", 7).await;
    assert!(members.client.all(|message| message.topic == RESULT).is_empty());
    for (from, to) in [(0, 1), (1, 0)] {
        let done = members.bridges[from].verb(&["step-down"]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        leads(&members.bridges[to]).await;
        members.client.publish("ilink/send/user/413/text", &large).await;
        let full = |result: &Value| result["message"].as_str().is_some_and(|why| why.contains("fill its share"));
        members.client.gather("a refusal by each", 1 + from, |m: &Message| m.topic == RESULT && full(&m.json())).await;
        members.bridges[to].waiting("outbound", 7).await;
    }
}
