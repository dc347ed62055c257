//! Several handles at once, and etcd in trouble.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use url::Url;

use super::proxy::Proxy;
use super::server::{Server, shared};
use super::{config, in_time};
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::config::Keys;
use crate::store::etcd::load::load;
use crate::store::etcd::state::State;
use crate::store::etcd::wire::Range;
use crate::store::etcd::{Etcd, EtcdConfig, Leadership};
use crate::store::{Append, AppendError, Queue, ROW_OVERHEAD, Row, SpoolError, Store, Then, WhyNot};

pub(super) fn through(proxy: &Proxy, config: &EtcdConfig) -> EtcdConfig {
    EtcdConfig { endpoints: vec![Url::parse(&proxy.url()).unwrap()], ..config.clone() }
}

pub(super) fn named(config: &EtcdConfig, member: &str) -> EtcdConfig {
    EtcdConfig { member: member.to_owned(), ..config.clone() }
}

pub(super) async fn lead(etcd: &Etcd) -> (Leadership, Arc<dyn Store>) {
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    (leadership, store)
}

pub(super) async fn append(to: &dyn Append, data: impl Into<Vec<u8>>) -> u64 {
    in_time(to.append(Queue::Inbound, data.into().into(), None)).await.unwrap()
}

pub(super) async fn rows(store: &dyn Store, queue: Queue) -> Vec<Row> {
    in_time(store.read_after(queue, 0, usize::MAX, usize::MAX)).await.unwrap()
}

pub(super) async fn seen(store: &dyn Store, number: u64) {
    in_time(store.appended(Queue::Inbound).wait_for(|seen| *seen >= number)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_append_at_once_comes_to_the_leader_in_order_and_whole() {
    let config = config(shared(), "a");
    let etcds: Vec<_> = ["a", "b", "c"].map(|name| Etcd::open(&named(&config, name)).unwrap()).into();
    let (_leadership, store) = lead(&etcds[0]).await;
    let producers = etcds.iter().zip(0_u8..).map(|(etcd, producer)| {
        let member = etcd.member();
        tokio::spawn(async move {
            let mut answered = Vec::new();
            for n in 0..100_u8 {
                answered.push((append(&*member, [producer, n]).await, vec![producer, n]));
            }
            assert!(answered.is_sorted(), "a member's rows are in its order");
            answered
        })
    });
    // The leader follows while they come.
    let mut read: Vec<Row> = Vec::new();
    let mut appended = store.appended(Queue::Inbound);
    let producers = tokio::spawn(join_all(producers));
    while read.len() < 300 {
        let after = read.last().map_or(0, |row| row.seq);
        let new = in_time(store.read_after(Queue::Inbound, after, 50, 1 << 20)).await.unwrap();
        if new.is_empty() {
            in_time(appended.wait_for(|seen| *seen > after)).await.unwrap();
        }
        read.extend(new);
    }
    let mut answered: Vec<_> = producers.await.unwrap().into_iter().flat_map(Result::unwrap).collect();
    answered.sort_unstable();
    assert_eq!(read.into_iter().map(|row| (row.seq, row.data.to_vec())).collect::<Vec<_>>(), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_is_refused_everything_and_its_member_goes_on() {
    let config = config(shared(), "a");
    let (a, b) = (Etcd::open(&config).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (leadership, store) = lead(&a).await;
    let first = in_time(store.append(Queue::Outbound, "a command".into(), None)).await.unwrap();
    let second = in_time(store.append(Queue::Outbound, "another".into(), None)).await.unwrap();
    a.lose_lease().await;
    let (_other, successor) = lead(&b).await;
    store.complete(Queue::Outbound, first);
    store.put_note("note", vec![1]);
    let refused = in_time(store.replace(Queue::Outbound, second, b"a result".to_vec())).await.unwrap_err();
    assert!(matches!(&refused, SpoolError::Failed(cause) if cause.contains("another member leads")), "{refused}");
    assert!(in_time(store.failed()).await.contains("another member leads") && store.has_failed());
    assert_eq!(in_time(store.append(Queue::Inbound, "x".into(), None)).await, Err(refused.clone().into()));
    assert_eq!(in_time(store.read(Queue::Outbound, first)).await, Err(refused));
    assert_eq!(leadership.valid_until(), Duration::ZERO);
    // What it was refused is not there; what its member takes in is.
    let number = append(&*a.member(), "a push").await;
    seen(&*successor, number).await;
    assert_eq!(rows(&*successor, Queue::Inbound).await[0].data, "a push");
    let commands = rows(&*successor, Queue::Outbound).await;
    assert!(commands.iter().map(|row| &row.data[..]).eq([&b"a command"[..], b"another"]));
    assert_eq!(in_time(successor.notes("")).await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_successor_has_removed_is_no_damage() {
    let config = config(shared(), "a");
    let (a, b) = (Etcd::open(&config).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (leadership, store) = lead(&a).await;
    let row = in_time(store.append(Queue::Outbound, "a command".into(), None)).await.unwrap();
    a.lose_lease().await;
    let (_other, successor) = lead(&b).await;
    successor.complete(Queue::Outbound, row);
    append(&*successor, "something durable").await;
    let read = in_time(store.read(Queue::Outbound, row)).await;
    assert!(matches!(&read, Err(SpoolError::Failed(cause)) if cause.contains("another member leads")), "{read:?}");
    assert_eq!(store.counters().damaged_rows, 0);
    assert!(store.has_failed() && leadership.valid_until() == Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_carried_out_and_not_answered_is_carried_out_once() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    let a = Etcd::open(&through(&proxy, &config)).unwrap();
    let (_leadership, store) = lead(&a).await;
    let member = a.member();
    let mut answered = vec![append(&*member, "0").await];
    let row = in_time(store.append(Queue::Outbound, "a command".into(), None)).await.unwrap();
    for lost in 1..=3 {
        proxy.lose_answers(lost);
        answered.push(append(&*member, lost.to_string()).await);
        assert_eq!(proxy.losing(), 0);
        proxy.lose_answers(lost);
        in_time(store.replace(Queue::Outbound, row, lost.to_string().into_bytes())).await.unwrap();
    }
    seen(&*store, answered[3]).await;
    let there = rows(&*store, Queue::Inbound).await;
    assert_eq!(there.iter().map(|row| row.seq).collect::<Vec<_>>(), answered);
    assert!(there.iter().map(|row| row.data[0]).eq(*b"0123"));
    assert_eq!(rows(&*store, Queue::Outbound).await[0].data, "3");
    // And a successor finds the same.
    in_time(store.close()).await;
    drop(a);
    let b = Etcd::open(&named(&config, "b")).unwrap();
    let (_leadership, store) = lead(&b).await;
    assert_eq!(rows(&*store, Queue::Inbound).await, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_who_takes_rows_in_for_a_member_is_a_failure() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let member = etcd.member();
    append(&*member, "0").await;
    let then: Then = Box::new(|outcome| panic!("a test's own, at row {outcome:?}"));
    assert!(member.hand_over(Queue::Inbound, "1".into(), None, then).is_ok());
    assert!(in_time(member.failed()).await.contains("panicked"));
    assert!(member.stores().is_err_and(|not| not.why == WhyNot::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_carried_out_and_answered_with_a_no_is_carried_out_once() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    let a = Etcd::open(&through(&proxy, &config)).unwrap();
    let member = a.member();
    let mut answered = vec![append(&*member, "0").await];
    for (status, body) in [
        ("502 Bad Gateway", "<h1>502 Bad Gateway</h1>"),
        ("503 Service Unavailable", r#"{"message":"no upstream"}"#),
        ("500 Internal Server Error", r#"{"error":"context something","message":"context something","code":2}"#),
        ("500 Internal Server Error", r#"{"error":"transport","message":"transport","code":13}"#),
        ("429 Too Many Requests", r#"{"error":"etcdserver: mvcc: database space exceeded","code":8}"#),
    ] {
        proxy.say_instead(status, body);
        answered.push(append(&*member, status).await);
        assert!(!proxy.has_something_to_say());
    }
    let (_leadership, store) = lead(&a).await;
    let there = rows(&*store, Queue::Inbound).await;
    assert_eq!(there.iter().map(|row| row.seq).collect::<Vec<_>>(), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_for_now_and_it_is_told_when_that_is_over() {
    let config = config(shared(), "a");
    let proxy = Proxy::to(shared()).await;
    proxy.cut(true);
    let a = Etcd::open(&through(&proxy, &config)).unwrap();
    let member = a.member();
    let refused = in_time(member.append(Queue::Inbound, "1".into(), None)).await;
    assert!(
        matches!(&refused, Err(AppendError::Spool(SpoolError::Unwritable(cause))) if cause.contains("etcd at http://127.0.0.1")),
        "{refused:?}"
    );
    assert!(member.stores().is_err_and(|not| not.why == WhyNot::Refused));
    proxy.cut(false);
    in_time(member.writable().wait_for(Result::is_ok)).await.unwrap();
    append(&*member, "2").await;
    let (_leadership, store) = lead(&a).await;
    assert!(rows(&*store, Queue::Inbound).await.iter().map(|row| row.data[0]).eq(*b"2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_endpoints_are_asked_for_is_done_once() {
    let mut config = config(shared(), "a");
    let slow = Proxy::to(shared()).await;
    config.endpoints.insert(0, slow.url().parse().unwrap());
    let a = Etcd::open(&config).unwrap();
    let (_leadership, store) = lead(&a).await;
    append(&*store, "0").await;
    // It is carried out; who does not hear of that asks the other one.
    slow.hold_next_answer(Duration::from_secs(20));
    for text in ["1", "2"] {
        append(&*store, text).await;
    }
    assert!(rows(&*store, Queue::Inbound).await.iter().map(|row| row.data[0]).eq(*b"012"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_stands_still_what_was_sent_waits_and_the_rest_is_refused() {
    let server = Server::start(&[]);
    let config = config(&server.url(), "a");
    let a = Etcd::open(&config).unwrap();
    let member = a.member();
    append(&*member, "0").await;
    server.pause();
    let sent = tokio::spawn({
        let member = Arc::clone(&member);
        async move { member.append(Queue::Inbound, "1".into(), None).await }
    });
    in_time(member.writable().wait_for(Result::is_err)).await.unwrap();
    let refused = in_time(member.append(Queue::Inbound, "2".into(), None)).await;
    assert!(matches!(&refused, Err(AppendError::Spool(SpoolError::Unwritable(_)))), "{refused:?}");
    assert!(!sent.is_finished());
    server.resume();
    in_time(sent).await.unwrap().unwrap();
    let (_leadership, store) = lead(&a).await;
    assert!(rows(&*store, Queue::Inbound).await.iter().map(|row| row.data[0]).eq(*b"01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_push_fits_and_what_is_larger_is_refused_with_the_remedy() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    let large: Vec<u8> = (0..1_390_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for _ in 0..8 {
        append(&*etcd.member(), large.clone()).await;
    }
    // Beside something lazy, too.
    store.put_note("note", vec![1; 50_000]);
    let last = append(&*store, large.clone()).await;
    seen(&*store, last).await;
    let there = rows(&*store, Queue::Inbound).await;
    assert!(there.len() == 9 && there.iter().all(|row| row.data == large));
    let refused = in_time(etcd.member().append(Queue::Inbound, vec![0; 1_500_000].into(), None)).await;
    assert!(
        matches!(&refused, Err(AppendError::Spool(SpoolError::TooLarge(cause))) if cause.contains("--max-request-bytes")),
        "{refused:?}"
    );
    // Nor does a change that is too large keep others waiting.
    let refused = in_time(store.replace(Queue::Inbound, last, vec![0; 1_500_000])).await;
    assert!(matches!(&refused, Err(SpoolError::TooLarge(_))), "{refused:?}");
    store.replace_lazily(Queue::Inbound, last, vec![0; 1_500_000]);
    store.put_note("large", vec![0; 1_500_000]);
    store.put_note("small", vec![2]);
    append(&*store, "after").await;
    assert_eq!(in_time(store.read(Queue::Inbound, last)).await.unwrap().unwrap().data, large);
    assert_eq!(in_time(store.notes("small")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_keep_to_the_limit_and_learn_when_there_is_room() {
    let mut config = config(shared(), "a");
    config.limits.inbound = 4 * (100 + ROW_OVERHEAD);
    let (a, b) = (Etcd::open(&config).unwrap(), Etcd::open(&named(&config, "b")).unwrap());
    let (_leadership, store) = lead(&a).await;
    let mut numbers = Vec::new();
    for _ in 0..4 {
        numbers.push(append(&*b.member(), vec![0; 100]).await);
    }
    let full = in_time(b.member().append(Queue::Inbound, vec![0; 100].into(), None)).await;
    assert_eq!(full, Err(AppendError::Full));
    assert!(b.member().stores().is_err_and(|not| not.cause.contains("cluster.max_bytes")));
    seen(&*store, numbers[3]).await;
    for number in numbers {
        store.complete(Queue::Inbound, number);
    }
    in_time(b.member().writable().wait_for(Result::is_ok)).await.unwrap();
    append(&*b.member(), vec![0; 100]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_reads_page_by_page_and_finds_all() {
    let config = config(shared(), "a");
    let etcd = Etcd::open(&config).unwrap();
    let member = etcd.member();
    let appends = (0..5_500_u16).map(|n| {
        let member = Arc::clone(&member);
        async move { append(&*member, n.to_le_bytes()).await }
    });
    let numbers = join_all(appends).await;
    let (leadership, store) = lead(&etcd).await;
    assert_eq!(store.stats(Queue::Inbound).depth, 5_500);
    for number in numbers.iter().step_by(5) {
        store.replace_lazily(Queue::Inbound, *number, vec![7; 50]);
    }
    for number in numbers.iter().skip(1).step_by(5) {
        store.complete(Queue::Inbound, *number);
    }
    in_time(store.close()).await;
    in_time(leadership.resign()).await;
    let (_leadership, store) = lead(&etcd).await;
    let stats = store.stats(Queue::Inbound);
    assert_eq!((stats.depth, stats.bytes), (4_400, 1_100 * 50 + 3_300 * 2 + 4_400 * ROW_OVERHEAD));
    let there = rows(&*store, Queue::Inbound).await;
    assert!(there.len() == 4_400 && there.is_sorted_by_key(|row| row.seq));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_asks_a_slow_etcd_for_fewer_names_at_once() {
    let config = config(shared(), "a");
    let etcd = Etcd::open(&config).unwrap();
    let member = etcd.member();
    join_all((0..2_500_u16).map(|n| append(&*member, n.to_le_bytes()))).await;
    let proxy = Proxy::to(shared()).await;
    let (client, keys) = (Client::new(&through(&proxy, &config)).unwrap(), Keys::below(&config.prefix));
    in_time(client.range(&Range { key: keys.leader().into(), ..Range::default() })).await.unwrap();
    proxy.hold_next_answer(2 * EACH);
    let mut state = State::new(keys.clone());
    in_time(load(&client, &keys, &mut state)).await.unwrap();
    assert_eq!(state.counts().inbound.depth, 2_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_finds_large_results_too() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let (leadership, store) = lead(&etcd).await;
    for n in 0..14 {
        let row = in_time(store.append(Queue::Outbound, "a command".into(), None)).await.unwrap();
        in_time(store.replace(Queue::Outbound, row, vec![n; 1_200_000])).await.unwrap();
    }
    in_time(store.close()).await;
    in_time(leadership.resign()).await;
    let (_leadership, store) = lead(&etcd).await;
    assert_eq!(store.stats(Queue::Outbound).bytes, 14 * (1_200_000 + ROW_OVERHEAD));
    assert!(rows(&*store, Queue::Outbound).await.iter().zip(0..14).all(|(row, n)| row.data[0] == n));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_finds_a_queue_of_results_and_what_has_come_among_them() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let (leadership, store) = lead(&etcd).await;
    let appends = (0..700).map(|_| store.append(Queue::Outbound, "a command".into(), None));
    let mut numbers: Vec<_> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
    numbers.sort_unstable();
    let result = |n: usize| vec![7; if n == 350 { 900_000 } else { 50 + n }];
    let is_result = |n: usize| !n.is_multiple_of(10) || n == 350;
    let results = numbers.iter().enumerate().filter(|(n, _)| is_result(*n));
    let stored = join_all(results.map(|(n, number)| store.replace(Queue::Outbound, *number, result(n)))).await;
    assert!(stored.iter().all(Result::is_ok));
    in_time(store.close()).await;
    in_time(leadership.resign()).await;
    let (_leadership, store) = lead(&etcd).await;
    let data = |n: usize| if is_result(n) { result(n) } else { b"a command".to_vec() };
    let expected: Vec<_> = numbers.iter().enumerate().map(|(n, number)| (*number, data(n))).collect();
    let bytes = expected.iter().map(|(_, data)| u64::try_from(data.len()).unwrap() + ROW_OVERHEAD).sum();
    assert_eq!((store.stats(Queue::Outbound).depth, store.stats(Queue::Outbound).bytes), (700, bytes));
    let there = rows(&*store, Queue::Outbound).await;
    assert!(there.into_iter().map(|row| (row.seq, row.data.to_vec())).eq(expected));
}
