//! Tokens: one row, and one who has the token in hand, whoever asks at once and whatever answers are lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::proxy::Proxy;
use super::server::shared;
use super::store::{append, lead, named, rows, seen, through};
use super::{config, in_time};
use crate::os::clock::boot_now;
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::config::Keys;
use crate::store::etcd::wire::Range;
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError};
use crate::store::{Append as _, AppendError, Once, Queue, ROW_OVERHEAD, SpoolError, Token, Tokens};

fn token(name: u8, replaces: u64) -> Token {
    Token { name: [name; 32], value: vec![name].into(), replaces }
}

/// After all that a test does.
fn any_time() -> Duration {
    boot_now() + Duration::from_hours(1)
}

async fn once(member: &dyn Tokens, name: u8) -> Once {
    in_time(member.append_once(vec![name; 10].into(), token(name, 0), any_time())).await.unwrap()
}

fn version(once: &Once) -> u64 {
    match once {
        Once::Stored { version, .. } | Once::Known { version, .. } => *version,
        Once::Late => panic!("its time was over"),
    }
}

fn members(count: usize) -> (EtcdConfig, Vec<Arc<Etcd>>) {
    let config = config(shared(), "a");
    let names = ["a", "b", "c"].into_iter().take(count);
    let etcds = names.map(|name| Etcd::open(&named(&config, name)).unwrap()).collect();
    (config, etcds)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_append_at_once_one_stores_the_row_and_of_all_who_replace_the_token_one_does() {
    let (_, etcds) = members(3);
    let (_leadership, store) = lead(&etcds[0]).await;
    let members: Vec<_> = (0..60_u8).map(|n| (n / 6, etcds[usize::from(n % 3)].member())).collect();
    let outcomes = join_all(members.iter().map(|(name, member)| once(&**member, *name))).await;
    for name in 0..10 {
        let of_name: Vec<_> = outcomes.iter().zip(&members).filter(|(_, of)| of.0 == name).map(|both| both.0).collect();
        let stored = of_name.iter().filter(|once| matches!(once, Once::Stored { .. })).count();
        assert_eq!((of_name.len(), stored), (6, 1), "{of_name:?}");
        assert!(of_name.iter().all(|once| version(once) == version(of_name[0])));
        let known = |once: &&&Once| matches!(once, Once::Known { value, .. } if value[..] == [name]);
        assert_eq!(of_name.iter().filter(known).count(), 5);
    }
    let asking = members.iter().zip(&outcomes).map(|((name, member), once)| member.put(token(*name, version(once))));
    let put = in_time(join_all(asking)).await;
    assert!(put.iter().all(Result::is_ok), "{put:?}");
    assert_eq!(put.iter().filter(|put| **put == Ok(None)).count(), 50, "{put:?}");
    // What has ended makes no repeats, soon; what was put alone does.
    etcds[0].member().end([0; 32], version(&outcomes[0]), any_time());
    let again = eventually(async || {
        let again = once(&*etcds[1].member(), 0).await;
        matches!(again, Once::Stored { .. }).then_some(again)
    })
    .await;
    etcds[0].member().end([1; 32], version(&outcomes[6]), any_time());
    let alone = Token { value: Bytes::from_static(b"alone"), ..token(1, 0) };
    let put = eventually(async || in_time(etcds[0].member().put(alone.clone())).await.unwrap()).await;
    assert_eq!(in_time(etcds[2].member().put(token(1, 0))).await, Ok(None));
    let there = once(&*etcds[2].member(), 1).await;
    assert!(matches!(&there, Once::Known { value, .. } if value == "alone") && version(&there) == put, "{there:?}");
    // The numbers that were told are those of the rows.
    let last = outcomes.iter().chain([&again]).filter_map(row).max().unwrap();
    seen(&*store, last).await;
    let mut told: Vec<_> = outcomes.iter().chain([&again]).filter_map(row).collect();
    told.sort_unstable();
    assert_eq!(rows(&*store, Queue::Inbound).await.iter().map(|row| row.seq).collect::<Vec<_>>(), told);
}

/// Asks until there is something.
async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    in_time(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn row(once: &Once) -> Option<u64> {
    match once {
        Once::Stored { row, .. } => Some(*row),
        Once::Known { .. } | Once::Late => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_changes_no_outcome() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    let (a, b) = (Etcd::open(&through(&proxy, &config)).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (_leadership, store) = lead(&b).await;
    let member = a.member();
    let known = once(&*b.member(), 0).await;
    append(&*member, "the writer has begun").await;
    for name in 1..4 {
        proxy.lose_answers(1);
        let stored = once(&*member, name).await;
        assert!(matches!(stored, Once::Stored { .. }), "{stored:?}");
        proxy.lose_answers(1);
        let again = once(&*member, 0).await;
        assert!(matches!(again, Once::Known { .. }) && version(&again) == version(&known), "{again:?}");
        proxy.lose_answers(1);
        assert!(in_time(member.put(token(name, version(&stored)))).await.unwrap().is_some());
        proxy.lose_answers(1);
        assert_eq!(in_time(member.put(token(name, version(&stored)))).await, Ok(None));
        assert_eq!(proxy.losing(), 0);
    }
    let last = append(&*member, "the last").await;
    seen(&*store, last).await;
    assert_eq!(rows(&*store, Queue::Inbound).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_what_is_new_and_knows_what_is_not() {
    let mut config = config(shared(), "a");
    config.limits.inbound = 2 * (10 + ROW_OVERHEAD);
    let etcd = Etcd::open(&config).unwrap();
    let member = etcd.member();
    let first = once(&*member, 1).await;
    once(&*member, 2).await;
    let refused = in_time(member.append_once(vec![3; 10].into(), token(3, 0), any_time())).await;
    assert_eq!(refused, Err(AppendError::Full));
    assert!(member.stores().is_err());
    assert_eq!(version(&once(&*member, 1).await), version(&first));
    let put = in_time(member.put(token(1, version(&first)))).await;
    assert!(put.unwrap().is_some(), "it is answered all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_in_its_version_alone_and_goes_with_its_lease() {
    let (config, etcds) = members(2);
    let (a, b) = (etcds[0].member(), etcds[1].member());
    let old = version(&once(&*a, 1).await);
    let newer = in_time(b.append_once("new".into(), token(1, old), any_time())).await.unwrap();
    assert!(matches!(newer, Once::Stored { version, .. } if version > old));
    let late = in_time(a.append_once("late".into(), token(1, old), any_time())).await.unwrap();
    assert!(matches!(late, Once::Known { .. }) && version(&late) == version(&newer));
    let direct = Client::new(&config).unwrap();
    let key = Keys::below(&config.prefix).token(&[1; 32]);
    let found = in_time(direct.range(&Range { key: key.into(), ..Range::default() })).await.unwrap();
    let lease = found.kvs[0].lease.0;
    assert_ne!(lease, 0);
    let revoke = json!({"ID": lease.to_string()});
    in_time(direct.ask::<Value>("/v3/lease/revoke", &revoke, EACH)).await.unwrap();
    // The lease that it used has ended: that is refused for now, and then there is another.
    let refused = in_time(b.append_once("again".into(), token(1, 0), any_time())).await;
    assert!(matches!(refused, Err(AppendError::Spool(_))), "{refused:?}");
    assert!(matches!(once(&*b, 1).await, Once::Stored { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_lease_has_run_out_stores_nothing_once() {
    let config = EtcdConfig { takeover: Duration::from_secs(2), ..config(shared(), "a") };
    let etcd = Etcd::open(&config).unwrap();
    let member = etcd.member();
    in_time(etcd.session().wait_for(Result::is_ok)).await.unwrap();
    assert!(matches!(once(&*member, 1).await, Once::Stored { .. }));
    etcd.fall_silent();
    let cause = eventually(async || match in_time(member.append_once("late".into(), token(2, 0), any_time())).await {
        Err(AppendError::Spool(SpoolError::Unwritable(cause))) => Some(cause),
        stored => {
            stored.unwrap();
            None
        }
    })
    .await;
    assert!(cause.contains("lease"), "{cause}");
    assert!(member.stores().is_err_and(|not| not.cause == cause), "and it does not say that it stores");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_lease_ran_out_is_not_carried_out_after_that() {
    let (_, etcds) = members(1);
    let member = etcds[0].member();
    in_time(etcds[0].session().wait_for(Result::is_ok)).await.unwrap();
    once(&*member, 1).await;
    in_time(etcds[0].lose_lease()).await;
    let refused = in_time(member.append_once("late".into(), token(2, 0), any_time())).await;
    assert!(
        matches!(&refused, Err(AppendError::Spool(SpoolError::Unwritable(cause))) if cause.contains("lease")),
        "{refused:?}"
    );
    // It registers again.
    let stored =
        eventually(async || in_time(member.append_once("new".into(), token(2, 0), any_time())).await.ok()).await;
    assert!(matches!(stored, Once::Stored { .. }), "nobody had stored it: {stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_went_with_what_did_not_hold_goes_by_itself() {
    let (_, etcds) = members(2);
    let (a, b) = (etcds[0].member(), etcds[1].member());
    let ended = version(&once(&*a, 1).await);
    once(&*b, 2).await;
    a.end([1; 32], ended, any_time());
    assert!(matches!(once(&*a, 2).await, Once::Known { .. }));
    eventually(async || matches!(once(&*b, 1).await, Once::Stored { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_stored_in_its_time_is_not_stored_behind_what_another_has_stored_and_ended() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    let (a, b) = (Etcd::open(&through(&proxy, &config)).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (_leadership, store) = lead(&b).await;
    let (a, b) = (a.member(), b.member());
    once(&*a, 9).await;
    proxy.cut(true);
    let until = boot_now() + Duration::from_secs(2);
    let sent = tokio::spawn({
        let a = Arc::clone(&a);
        async move { a.append_once("first".into(), token(1, 0), until).await }
    });
    sleep(Duration::from_secs(1)).await;
    let elsewhere = once(&*b, 1).await;
    b.end([1; 32], version(&elsewhere), any_time());
    sleep(until.saturating_sub(boot_now())).await;
    assert!(!sent.is_finished(), "nobody knows what has become of it");
    proxy.cut(false);
    assert_eq!(in_time(sent).await.unwrap(), Ok(Once::Late));
    // It goes on.
    let after = once(&*a, 2).await;
    seen(&*store, row(&after).unwrap()).await;
    assert_eq!(rows(&*store, Queue::Inbound).await.len(), 3);
    assert_eq!(in_time(a.append_once("late".into(), token(3, 0), boot_now())).await, Ok(Once::Late));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_late_leaves_what_is_in_anothers_hand() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    let (a, b) = (Etcd::open(&through(&proxy, &config)).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (a, b) = (a.member(), b.member());
    let [first, second] = [version(&once(&*a, 1).await), version(&once(&*a, 2).await)];
    proxy.cut(true);
    let until = boot_now() + Duration::from_millis(1500);
    // One is sent, and then the other waits.
    a.end([1; 32], first, until);
    sleep(Duration::from_millis(500)).await;
    a.end([2; 32], second, until);
    sleep(until.saturating_sub(boot_now())).await;
    let copies =
        [(1, first), (2, second)].map(|(name, version)| b.append_once("copy".into(), token(name, version), any_time()));
    let copies: Vec<_> = in_time(join_all(copies)).await.into_iter().map(|copy| version(&copy.unwrap())).collect();
    proxy.cut(false);
    once(&*a, 3).await;
    for (name, copy) in [1, 2].into_iter().zip(copies) {
        assert!(in_time(b.put(token(name, copy))).await.unwrap().is_some(), "it is still in this hand");
    }
    // What is in nobody else's says nothing any more.
    let own = version(&once(&*a, 4).await);
    a.end([4; 32], own, Duration::ZERO);
    eventually(async || matches!(once(&*b, 4).await, Once::Known { value, .. } if value.is_empty()).then_some(()))
        .await;
}

/// On one thread: if one does not let the others go on, nobody does.
#[tokio::test]
async fn an_end_that_is_late_while_etcd_refuses_stops_nobody() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let leadership = in_time(etcd.campaign()).await;
    let leader = in_time(etcd.open_store(&leadership)).await.unwrap();
    in_time(leader.append(Queue::Inbound, "0".into(), None)).await.unwrap();
    *leader.rights.faults.next.lock().unwrap() = Some(EtcdError::NoSpace);
    let refused = in_time(leader.append(Queue::Inbound, "1".into(), None)).await;
    assert!(matches!(refused, Err(AppendError::Spool(SpoolError::Unwritable(_)))), "{refused:?}");
    leader.common.state().end_token([1; 32], 1, Duration::ZERO);
    leader.common.lazily.notify_one();
    let begun = boot_now();
    let appending = {
        let leader = Arc::clone(&leader);
        tokio::spawn(async move { leader.append(Queue::Inbound, "2".into(), None).await })
    };
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // It is tried again after 2 s.
    assert!(boot_now() < begun + Duration::from_secs(1));
    in_time(appending).await.unwrap().unwrap();
}
