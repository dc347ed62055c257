//! An etcd without space: what is done is removed all the same, and it goes on by itself once there is space.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;
use super::{config, in_time};
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::config::end_of;
use crate::store::etcd::wire::{Found, Number, Range};
use crate::store::etcd::{Etcd, EtcdConfig};
use crate::store::{Append, AppendError, Queue, SpoolError};

/// Appends until it is refused.
async fn fill(to: &dyn Append) -> String {
    loop {
        match in_time(to.append(Queue::Inbound, vec![7; 15_000].into(), None)).await {
            Ok(_) => {}
            Err(AppendError::Spool(SpoolError::Unwritable(cause))) => return cause,
            Err(other) => panic!("{other}"),
        }
    }
}

/// How many rows etcd has.
async fn rows_in(client: &Client, config: &EtcdConfig) -> usize {
    let key = format!("{}/queue/", config.prefix);
    let range =
        Range { end: end_of(&key).into(), key: key.into(), keys_only: true, limit: Number(0), ..Range::default() };
    in_time(client.range(&range)).await.unwrap().kvs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_removed_at_once_and_pushes_taken_again_when_there_is_space() {
    let server = Server::start(&["--quota-backend-bytes=4194304"]);
    let config = config(&server.url(), "a");
    let etcd = Etcd::open(&config).unwrap();
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    let cause = fill(&*store).await;
    assert!(cause.contains("NOSPACE") && cause.contains("etcdctl alarm disarm"), "{cause}");
    // Commands do not wait for the operator.
    assert!(!store.passes(&cause) && store.passes("etcd has no majority"));

    // Pushes keep coming, and results that cannot be stored.
    let pushing = tokio::spawn({
        let member = etcd.member();
        let store = Arc::clone(&store);
        async move {
            loop {
                let _ = member.append(Queue::Inbound, "x".into(), None).await;
                let _ = store.append(Queue::Inbound, "y".into(), None).await;
            }
        }
    });
    let admin = Client::new(&config).unwrap();
    assert!(rows_in(&admin, &config).await > 100);
    // The relay delivers what waits.
    let rows = in_time(store.read_after(Queue::Inbound, 0, usize::MAX, usize::MAX)).await.unwrap();
    for row in &rows {
        store.complete(Queue::Inbound, row.seq);
    }
    in_time(async {
        while rows_in(&admin, &config).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    pushing.abort();
    assert!(store.stores().is_err_and(|not| not.cause.contains("NOSPACE")));

    // What the operator is told to do.
    let now: Found = in_time(admin.range(&Range { key: "/x".to_owned().into(), ..Range::default() })).await.unwrap();
    let ask = async |path: &str, question: Value| in_time(admin.ask::<Value>(path, &question, EACH)).await.unwrap();
    ask("/v3/kv/compaction", json!({"revision": now.header.revision.0.to_string(), "physical": true})).await;
    ask("/v3/maintenance/defragment", json!({})).await;
    let alarms = ask("/v3/maintenance/alarm", json!({"alarm": "NOSPACE"})).await;
    let member = alarms["alarms"][0]["memberID"].clone();
    ask("/v3/maintenance/alarm", json!({"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"})).await;
    in_time(store.writable().wait_for(Result::is_ok)).await.unwrap();
    in_time(etcd.member().writable().wait_for(Result::is_ok)).await.unwrap();
    in_time(etcd.member().append(Queue::Inbound, "after".into(), None)).await.unwrap();
}
