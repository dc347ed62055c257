//! Who leads, who does not any more, and that there are never two.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::proxy::Proxy;
use super::server::{Server, shared};
use super::{config, in_time};
use crate::os::clock::boot_now;
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::wire::Range;
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError};

fn two() -> (EtcdConfig, EtcdConfig) {
    let a = config(shared(), "a");
    let b = EtcdConfig { member: "b".to_owned(), ..a.clone() };
    (a, b)
}

#[tokio::test]
async fn one_leads_and_hands_over() {
    let (mut a, b) = two();
    a.takeover = Duration::from_secs(6);
    let (a, b) = (Etcd::open(&a).unwrap(), Etcd::open(&b).unwrap());
    let first = in_time(a.campaign()).await;
    assert!(first.valid_until() > boot_now());
    let second = tokio::spawn({
        let b = Arc::clone(&b);
        async move { b.campaign().await }
    });
    in_time(b.session().wait_for(Result::is_ok)).await.unwrap();
    let members = in_time(a.members()).await.unwrap();
    let seen: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.leads)).collect();
    assert_eq!(seen, [("a", true), ("b", false)]);
    assert!(!second.is_finished());
    // Kept alive for longer than a lease lasts.
    let kept = first.valid_until() + Duration::from_secs(6);
    while first.valid_until() < kept {
        assert_ne!(first.valid_until(), Duration::ZERO, "it is kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!second.is_finished());
    first.resign().await;
    assert_eq!(first.valid_until(), Duration::ZERO);
    assert!(in_time(first.lost()).await.contains("handed over"));
    let second = in_time(second).await.unwrap();
    // The first, once more, as soon as the other is gone with all it had.
    b.close().await;
    let third = in_time(a.campaign()).await;
    assert!(third.valid_until() > boot_now());
    in_time(second.lost()).await;
}

#[tokio::test]
async fn a_leader_that_falls_silent_is_over_before_another_begins() {
    let (mut a, mut b) = two();
    (a.takeover, b.takeover) = (Duration::from_secs(3), Duration::from_secs(3));
    let (a, b) = (Etcd::open(&a).unwrap(), Etcd::open(&b).unwrap());
    let first = in_time(a.campaign()).await;
    let watching = tokio::spawn({
        let first = first.clone();
        async move {
            let cause = first.lost().await;
            (cause, boot_now())
        }
    });
    // As if it had been killed: nothing is kept alive, nothing is given back.
    a.fall_silent();
    let second = in_time(b.campaign()).await;
    assert!(first.valid_until() < boot_now());
    let (cause, at) = in_time(watching).await.unwrap();
    assert!(cause.contains("in time") && at < boot_now(), "{cause}");
    in_time(b.put(&second, "token", Some(b"new"))).await.unwrap();
    assert_eq!(in_time(a.put(&first, "token", Some(b"old"))).await, Err(EtcdError::Deposed));
    assert_eq!(in_time(a.get("token")).await.unwrap().unwrap(), b"new");
}

#[tokio::test]
async fn a_lease_that_is_taken_away_ends_it_and_the_member_comes_back() {
    let (a, _) = two();
    let a = Etcd::open(&a).unwrap();
    let first = in_time(a.campaign()).await;
    a.lose_lease().await;
    assert!(in_time(first.lost()).await.contains("lease"));
    let again = in_time(a.campaign()).await;
    assert!(again.valid_until() > boot_now());
    assert!(in_time(a.members()).await.unwrap()[0].leads);
}

#[tokio::test]
async fn nobody_begins_to_lead_when_the_time_for_it_is_over() {
    let (mut a, _) = two();
    let proxy = Proxy::to(a.endpoints[0].as_str().trim_end_matches('/')).await;
    (a.endpoints, a.takeover) = (vec![proxy.url().parse().unwrap()], Duration::from_secs(2));
    // The lease is granted so late that its holder may not act under it.
    proxy.hold_next_answer(Duration::from_millis(1500));
    let a = Etcd::open(&a).unwrap();
    let first = in_time(a.campaign()).await;
    assert!(first.valid_until() > boot_now());
}

#[tokio::test]
async fn a_leadership_that_is_forgotten_is_free() {
    let (a, b) = two();
    let (a, b) = (Etcd::open(&a).unwrap(), Etcd::open(&b).unwrap());
    drop(in_time(a.campaign()).await);
    in_time(b.campaign()).await;
}

#[tokio::test]
async fn a_compaction_keeps_nobody_from_taking_part() {
    let server = Server::start(&[]);
    let mut first = config(&server.url(), "a");
    first.takeover = Duration::from_secs(3);
    let second = EtcdConfig { member: "b".to_owned(), ..first.clone() };
    let (a, b) = (Etcd::open(&first).unwrap(), Etcd::open(&second).unwrap());
    let leadership = in_time(a.campaign()).await;
    let standing_by = tokio::spawn({
        let b = Arc::clone(&b);
        async move { b.campaign().await }
    });
    let mut state = b.session();
    in_time(state.wait_for(Result::is_ok)).await.unwrap();
    // All that has happened since the leader's key was put is compacted, too.
    for name in ["x", "y", "z"] {
        in_time(b.get_or_create(name, b"1")).await.unwrap();
    }
    let client = Client::new(&first).unwrap();
    let now = in_time(client.range(&Range { key: "/x".to_owned().into(), ..Range::default() })).await.unwrap();
    let compaction = json!({"revision": now.header.revision.0.to_string(), "physical": true});
    in_time(client.ask::<Value>("/v3/kv/compaction", &compaction, EACH)).await.unwrap();
    // It looks anew each second. That a keep-alive is late for once is not what this is about.
    let compacted = |state: &Result<(), EtcdError>| matches!(state, Err(EtcdError::Compacted));
    let told = tokio::time::timeout(Duration::from_secs(3), state.wait_for(compacted)).await;
    assert!(told.is_err(), "{told:?}");
    leadership.resign().await;
    in_time(standing_by).await.unwrap();
}

#[tokio::test]
async fn two_of_one_name_are_told_apart() {
    let (a, _) = two();
    let first = Etcd::open(&a).unwrap();
    in_time(first.session().wait_for(Result::is_ok)).await.unwrap();
    let second = Etcd::open(&a).unwrap();
    let taken = |state: &Result<(), EtcdError>| matches!(state, Err(EtcdError::NameTaken(name)) if name == "a");
    in_time(second.session().wait_for(taken)).await.unwrap();
    first.close().await;
    in_time(second.session().wait_for(Result::is_ok)).await.unwrap();
}

#[tokio::test]
async fn values_are_shared() {
    let (a, b) = two();
    let (a, b) = (Etcd::open(&a).unwrap(), Etcd::open(&b).unwrap());
    let mut followed = b.follow("identity.json");
    assert_eq!(in_time(a.get("identity.json")).await, Ok(None));
    assert_eq!(in_time(a.get_or_create("identity.json", b"a's")).await.unwrap(), b"a's");
    assert_eq!(in_time(b.get_or_create("identity.json", b"b's")).await.unwrap(), b"a's");
    in_time(followed.wait_for(|value| value.as_deref() == Some(b"a's"))).await.unwrap();
    let leadership = in_time(a.campaign()).await;
    for value in [Some(&b"new"[..]), Some(b"newer"), None] {
        in_time(a.put(&leadership, "identity.json", value)).await.unwrap();
        in_time(followed.wait_for(|seen| seen.as_deref() == value)).await.unwrap();
    }
}
