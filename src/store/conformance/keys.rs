//! Keys of redelivered commands, and notes.

use super::subject::{ROOMY, Subject, append, everything, until};
use crate::store::{Key, Queue, Store};

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
