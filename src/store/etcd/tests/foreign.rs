//! An endpoint that becomes a member of another etcd while a bridge runs.

use std::time::Duration;

use url::Url;

use super::proxy::Proxy;
use super::server::{Server, shared};
use super::{config, in_time};
use crate::os::clock::boot_now;
use crate::store::Queue;
use crate::store::etcd::client::Client;
use crate::store::etcd::config::end_of;
use crate::store::etcd::watch::Watch;
use crate::store::etcd::wire::{KeyValue, Range, Step, Transaction};
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError};

fn put(value: &'static str) -> Transaction {
    Transaction { success: vec![Step::put("/k".to_owned(), value)], ..Transaction::default() }
}

/// What an etcd holds below this.
async fn held_by(url: &str, prefix: &str) -> Vec<KeyValue> {
    let client = Client::new(&config(url, "looker")).unwrap();
    let range = Range { key: prefix.to_owned().into(), end: end_of(prefix).into(), ..Range::default() };
    in_time(client.range(&range)).await.unwrap().kvs
}

#[tokio::test]
async fn what_another_etcd_answers_does_not_count_and_it_is_asked_nothing_more() {
    let (ours, other) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::to(&ours.url()).await;
    let client = Client::new(&config(&proxy.url(), "a")).unwrap();
    in_time(client.transact(&put("ours"))).await.unwrap();
    let from = in_time(client.range(&Range { key: "/k".to_owned().into(), ..Range::default() })).await.unwrap();
    let revision = from.header.revision.0;

    // The watch that is opened first there finds out, then no request gets there.
    proxy.lead_to(&other.url()).await;
    let mut watch = in_time(Watch::open(&client, "/k", Vec::new(), revision + 1, &[])).await.unwrap();
    assert!(matches!(in_time(watch.next()).await, Err(EtcdError::Foreign { at }) if at == proxy.url()));
    let each = Duration::from_secs(3);
    for _ in 0..2 {
        let (answer, may_come_late) = in_time(client.try_within(&put("astray"), each)).await;
        assert!(matches!(answer, Err(EtcdError::Foreign { .. })) && !may_come_late, "{answer:?}");
    }
    assert!(held_by(&other.url(), "/k").await.is_empty());

    // It counts again once it is ours again; then a request finds out.
    proxy.lead_to(&ours.url()).await;
    in_time(client.transact(&put("ours again"))).await.unwrap();
    proxy.lead_to(&other.url()).await;
    for _ in 0..2 {
        let (answer, may_come_late) = in_time(client.try_within(&put("astray"), each)).await;
        assert!(matches!(answer, Err(EtcdError::Foreign { .. })) && !may_come_late, "{answer:?}");
    }
    assert_eq!(held_by(&other.url(), "/k").await[0].version.0, 1, "only the one that found out");
    assert_eq!(held_by(&ours.url(), "/k").await[0].version.0, 2);
}

#[tokio::test]
async fn a_bridge_stays_with_its_etcd_when_an_endpoint_becomes_another() {
    let other = Server::start(&[]);
    let proxy = Proxy::to(shared()).await;
    let mut config = config(&proxy.url(), "a");
    config.takeover = Duration::from_secs(6);
    config.endpoints.push(Url::parse(shared()).unwrap());
    let etcd = Etcd::open(&config).unwrap();
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    in_time(store.append(Queue::Inbound, "before".into(), None)).await.unwrap();

    proxy.lead_to(&other.url()).await;
    in_time(store.append(Queue::Inbound, "after".into(), None)).await.unwrap();
    in_time(etcd.member().append(Queue::Inbound, "from a member".into(), None)).await.unwrap();
    // Through several keep-alives.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let EtcdConfig { prefix, .. } = &config;
    assert_eq!(held_by(shared(), &format!("{prefix}/queue/")).await.len(), 3);
    let led = leadership.valid_until();
    assert!(led > boot_now(), "it leads on");
    // A keep-alive may just have met a busy machine.
    in_time(etcd.session().wait_for(Result::is_ok)).await.unwrap();
    assert_eq!(in_time(store.read_after(Queue::Inbound, 0, 10, 1 << 20)).await.unwrap().len(), 3);
    assert!(held_by(&other.url(), &format!("{prefix}/member/")).await.is_empty(), "it did not register there");
}
