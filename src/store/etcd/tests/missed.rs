//! What the leader's watch could not tell.

use std::time::Duration;

use serde_json::{Value, json};

use super::proxy::Proxy;
use super::server::shared;
use super::store::{append, lead, named, rows, seen, through};
use super::{config, in_time};
use crate::store::Queue;
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::config::Keys;
use crate::store::etcd::wire::Range;
use crate::store::etcd::{Etcd, EtcdConfig};

/// Until the leader has told the others of so many pushes.
async fn until_told(config: &EtcdConfig, depth: u64) {
    let client = Client::new(config).unwrap();
    let told = Range { key: Keys::below(&config.prefix).stats().into(), ..Range::default() };
    let is_told = async || {
        let found = client.range(&told).await.unwrap();
        found
            .kvs
            .first()
            .is_some_and(|there| serde_json::from_slice::<Value>(&there.value.0).unwrap()[1][0][0] == depth)
    };
    in_time(async {
        while !is_told().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_leader_hears_nothing_is_found_when_etcd_was_compacted_meanwhile() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    // Its lease outlives the cut.
    let patient = EtcdConfig { takeover: Duration::from_mins(1), ..config.clone() };
    let a = Etcd::open(&through(&proxy, &patient)).unwrap();
    let (_leadership, store) = lead(&a).await;
    let first = append(&*a.member(), "0").await;
    seen(&*store, first).await;
    until_told(&config, 1).await;
    proxy.cut(true);
    let b = Etcd::open(&named(&config, "b")).unwrap();
    append(&*b.member(), "1").await;
    let last = append(&*b.member(), "2").await;
    let direct = Client::new(&config).unwrap();
    let compact = json!({"revision": (last >> 8).to_string(), "physical": true});
    in_time(direct.ask::<Value>("/v3/kv/compaction", &compact, EACH)).await.unwrap();
    proxy.cut(false);
    seen(&*store, last).await;
    assert!(rows(&*store, Queue::Inbound).await.iter().map(|row| row.data[0]).eq(*b"012"));
    // The others are told of them, though nothing else comes.
    until_told(&config, 3).await;
    let after = append(&*b.member(), "3").await;
    seen(&*store, after).await;
}
