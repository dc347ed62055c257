//! Rows: numbers, order, wake-ups, what is durable and what is lazy.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{ROOMY, Subject, append, contents, everything, until};
use crate::store::{Key, Queue, ROW_OVERHEAD, Store, Then};

pub(crate) async fn rows_are_numbered_read_replaced_and_completed<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let appended = store.appended(Queue::Inbound);
    let mut seqs = Vec::new();
    for n in 1..=3 {
        seqs.push(append(&*store, Queue::Inbound, vec![n; 10]).await);
    }
    let [first, second, third] = seqs[..] else { unreachable!() };
    assert!(0 < first && first < second && second < third);
    assert_eq!(*appended.borrow(), third);
    append(&*store, Queue::Outbound, "other").await;
    assert_eq!(store.stats(Queue::Inbound).depth, 3);
    assert_eq!(store.stats(Queue::Inbound).bytes, 3 * (10 + ROW_OVERHEAD));
    assert_eq!(store.oldest(Queue::Inbound).await.unwrap().unwrap().seq, first);

    store.replace(Queue::Inbound, first, b"one".to_vec()).await.unwrap();
    store.replace_lazily(Queue::Inbound, second, b"two".to_vec());
    store.complete(Queue::Inbound, third);
    let expected = BTreeMap::from([(first, b"one".to_vec()), (second, b"two".to_vec())]);
    assert_eq!(contents(&*store, Queue::Inbound).await, expected);
    assert_eq!(store.read(Queue::Inbound, third).await, Ok(None));
    assert_eq!(store.read(Queue::Inbound, second).await.unwrap().unwrap().data, "two");

    let subject = subject.reopen().await;
    let store = subject.store();
    assert_eq!(contents(&*store, Queue::Inbound).await, expected);
    assert_eq!(store.stats(Queue::Inbound).bytes, 2 * (3 + ROW_OVERHEAD));
}

pub(crate) async fn reading_stops_at_the_first_of_both_limits_but_never_before_one_row<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let mut seqs = Vec::new();
    for _ in 0..5 {
        seqs.push(append(&*store, Queue::Inbound, vec![0; 100]).await);
    }
    assert_eq!(store.read_after(Queue::Inbound, 0, 2, usize::MAX).await.unwrap().len(), 2);
    assert_eq!(store.read_after(Queue::Inbound, 0, 9, 350).await.unwrap().len(), 3);
    assert_eq!(store.read_after(Queue::Inbound, seqs[0], 9, 1).await.unwrap()[0].seq, seqs[1]);
    assert_eq!(store.read_after(Queue::Inbound, seqs[4], 9, 1).await, Ok(vec![]));
}

pub(crate) async fn numbers_are_never_given_twice_even_when_the_queue_was_emptied<S: Subject>() {
    let mut subject = S::create(ROOMY).await;
    let mut highest = 0;
    for round in 0..4 {
        let seq = append(&*subject.store(), Queue::Inbound, "a row").await;
        assert!(seq > highest, "{seq} after {highest}");
        highest = seq;
        subject.store().complete(Queue::Inbound, seq);
        subject = if round % 2 == 0 { subject.reopen().await } else { subject.crash().await };
    }
}

pub(crate) async fn rows_are_stored_in_the_order_of_the_calls_and_told_before_they_are_answered<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let (answered, mut answers) = mpsc::unbounded_channel();
    for n in 0..100_u8 {
        let (answered, appended) = (answered.clone(), store.appended(Queue::Inbound));
        let then: Then = Box::new(move |outcome| {
            let seq = outcome.expect("there is room");
            answered.send((n, seq, *appended.borrow() >= seq)).unwrap();
        });
        assert!(store.hand_over(Queue::Inbound, vec![n].into(), None, then).is_ok(), "few wait");
    }
    drop(answered);
    let mut last = 0;
    for expected in 0..100_u8 {
        let (n, seq, told) = answers.recv().await.unwrap();
        assert!(n == expected && seq > last && told, "row {n}: {seq} after {last}, told: {told}");
        last = seq;
    }
    assert!(answers.recv().await.is_none());
    let rows = everything(&*store, Queue::Inbound).await;
    assert!(rows.iter().map(|row| row.data[0]).eq(0..100));
    // What is awaited comes after what was handed over before.
    assert!(append(&*store, Queue::Inbound, "last").await > last);
}

pub(crate) async fn rows_that_were_handed_over_wake_who_reads_when_they_are_announced<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let mut appended = store.appended(Queue::Inbound);
    let (answered, answer) = oneshot::channel();
    let then: Then = Box::new(move |outcome| answered.send(outcome.unwrap()).unwrap());
    assert!(store.hand_over(Queue::Inbound, vec![1].into(), None, then).is_ok(), "few wait");
    let seq = answer.await.unwrap();
    store.announce(Queue::Inbound);
    timeout(Duration::from_mins(1), appended.changed()).await.expect("it is woken").unwrap();
    assert_eq!(*appended.borrow(), seq);
}

pub(crate) async fn who_reads_is_woken_also_by_what_an_earlier_run_stored<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let mut appended = store.appended(Queue::Outbound);
    let waiting = tokio::spawn(async move {
        appended.changed().await.unwrap();
        *appended.borrow()
    });
    append(&*store, Queue::Inbound, "another queue's").await;
    let seq = append(&*store, Queue::Outbound, "a row").await;
    assert_eq!(waiting.await.unwrap(), seq);
    let subject = subject.reopen().await;
    assert_eq!(*subject.store().appended(Queue::Outbound).borrow(), seq);
    let subject = subject.crash().await;
    assert_eq!(*subject.store().appended(Queue::Outbound).borrow(), seq);
}

pub(crate) async fn many_producers_share_commits_and_all_of_theirs_survives_a_crash<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let producers: Vec<_> = (0..64_u8)
        .map(|producer| {
            let store = subject.store();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for n in 0..50_u8 {
                    let data = vec![producer, n];
                    answered.push((append(&*store, Queue::Inbound, data.clone()).await, data));
                }
                assert!(answered.is_sorted(), "a producer's rows are in its order");
                answered
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    for producer in producers {
        answered.extend(producer.await.unwrap());
    }
    assert_eq!(answered.len(), 64 * 50);
    assert!(subject.store().counters().commits_synced < 64 * 50, "commits are shared");
    let subject = subject.crash().await;
    assert_eq!(contents(&*subject.store(), Queue::Inbound).await, answered);
}

pub(crate) async fn a_row_is_replaced_in_one_commit_or_not_at_all<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let seq = append(&*store, Queue::Outbound, "a command").await;
    let gone = append(&*store, Queue::Outbound, "another").await;
    let subject = subject.crash().await;
    let store = subject.store();
    assert_eq!(store.read(Queue::Outbound, seq).await.unwrap().unwrap().data, "a command");
    // A mark that was not needed after all, then the result: the last one counts.
    store.replace_lazily(Queue::Outbound, seq, b"unsent".to_vec());
    store.replace(Queue::Outbound, seq, b"its result".to_vec()).await.unwrap();
    store.complete(Queue::Outbound, gone);
    store.replace(Queue::Outbound, gone, b"too late".to_vec()).await.unwrap();
    store.replace(Queue::Outbound, gone + 1000, b"never there".to_vec()).await.unwrap();
    let subject = subject.crash().await;
    let expected = BTreeMap::from([(seq, b"its result".to_vec())]);
    assert_eq!(contents(&*subject.store(), Queue::Outbound).await, expected);
}

pub(crate) async fn lazy_changes_are_stored_by_themselves<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let seq = append(&*store, Queue::Inbound, "a row").await;
    store.complete(Queue::Inbound, seq);
    until(|| store.counters().commits_lazy > 0).await;
    assert_eq!(store.stats(Queue::Inbound).depth, 0);
    let subject = subject.crash().await;
    assert!(everything(&*subject.store(), Queue::Inbound).await.is_empty());
}

pub(crate) async fn a_durable_change_carries_the_lazy_ones_before_it<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let (first, second) = (append(&*store, Queue::Inbound, "1").await, append(&*store, Queue::Outbound, "2").await);
    store.complete(Queue::Inbound, first);
    store.replace_lazily(Queue::Outbound, second, b"changed".to_vec());
    store.put_note("note", vec![1]);
    store.append(Queue::SetAside, "3".into(), None).await.unwrap();
    let subject = subject.crash().await;
    let store = subject.store();
    assert!(everything(&*store, Queue::Inbound).await.is_empty());
    assert_eq!(store.read(Queue::Outbound, second).await.unwrap().unwrap().data, "changed");
    assert_eq!(store.notes("").await, Ok(vec![("note".to_owned(), vec![1])]));
}

pub(crate) async fn what_is_lazy_is_durable_when_it_was_flushed<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let mut seqs = Vec::new();
    for n in 0..300_u16 {
        seqs.push(append(&*store, Queue::SetAside, n.to_be_bytes().to_vec()).await);
    }
    store.flush().await.unwrap();
    let (last, dropped) = seqs.split_last().unwrap();
    for seq in dropped {
        store.complete(Queue::SetAside, *seq);
    }
    store.replace_lazily(Queue::SetAside, *last, b"changed".to_vec());
    store.flush().await.unwrap();
    let subject = subject.crash().await;
    let expected = BTreeMap::from([(*last, b"changed".to_vec())]);
    assert_eq!(contents(&*subject.store(), Queue::SetAside).await, expected);
}

fn key(pkid: u16, digest: u8, connection: u64) -> Key {
    Key { pkid, digest: [digest; 32], connection }
}

async fn kept(store: &dyn Store) -> Vec<u16> {
    store.redeliveries().await.unwrap().into_iter().map(|(pkid, _)| pkid).collect()
}

pub(crate) async fn keys_and_notes_live_as_long_as_they_should<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let first = append(&*store, Queue::Inbound, "a push").await;
    for n in 1..=3 {
        store.append(Queue::Outbound, vec![n].into(), Some(key(n.into(), n, 1))).await.unwrap();
    }
    store.append(Queue::Outbound, vec![9].into(), Some(key(1, 9, 1))).await.unwrap();
    store.put_note("presence/a", b"1".to_vec());
    store.put_note("presence/b", b"2".to_vec());
    store.put_note("other", b"3".to_vec());
    store.remove_note("presence/b");
    let expected_notes = vec![("presence/a".to_owned(), b"1".to_vec())];
    assert_eq!(store.notes("presence/").await.unwrap(), expected_notes);
    store.complete(Queue::Inbound, first);

    let subject = subject.reopen().await;
    let store = subject.store();
    assert_eq!(store.redeliveries().await.unwrap(), [(1, [9; 32]), (2, [2; 32]), (3, [3; 32])]);
    assert_eq!(store.notes("presence/").await.unwrap(), expected_notes);
    store.forget_session(2).await.unwrap();
    let subject = subject.crash().await;
    assert_eq!(subject.store().redeliveries().await.unwrap(), []);
}

pub(crate) async fn a_key_goes_when_the_broker_needs_it_no_more_and_none_of_a_lost_session_comes_after<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    for pkid in 1..=4 {
        store.append(Queue::Outbound, vec![1].into(), Some(key(pkid, 1, 1))).await.unwrap();
    }
    store.forget_redeliveries(vec![1, 2, 9]);
    assert_eq!(kept(&*store).await, [3, 4], "seen at once");
    // Used again at once: this one stays.
    store.append(Queue::Outbound, vec![1].into(), Some(key(2, 1, 1))).await.unwrap();
    let subject = subject.crash().await;
    let store = subject.store();
    assert_eq!(kept(&*store).await, [2, 3, 4], "it rode with the next commit");
    let lazy = store.counters().commits_lazy;
    store.forget_redeliveries(vec![4]);
    until(|| store.counters().commits_lazy > lazy).await;
    let subject = subject.crash().await;
    let store = subject.store();
    assert_eq!(kept(&*store).await, [2, 3], "or had one of its own");

    // What was on its way while the session was lost is stored, without a key of that session.
    store.forget_session(5).await.unwrap();
    store.append(Queue::Outbound, vec![1].into(), Some(key(6, 1, 4))).await.unwrap();
    store.append(Queue::Outbound, vec![1].into(), Some(key(7, 1, 5))).await.unwrap();
    assert_eq!(kept(&*store).await, [7]);
    assert_eq!(everything(&*store, Queue::Outbound).await.len(), 7);
}
