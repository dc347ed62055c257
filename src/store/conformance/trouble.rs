//! Full queues, a full disk, and failures that pass or stay.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{ROOMY, Subject, append, contents, everything, until};
use crate::store::{AppendError, Limits, Queue, ROW_OVERHEAD, SpoolError, Store, Then, WhyNot};

pub(crate) async fn a_failed_sync_ends_it_and_nothing_is_answered_afterwards<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let seq = append(&*store, Queue::Inbound, vec![1]).await;
    let failed = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.failed().await }
    });
    assert!(!store.has_failed());
    subject.fail_next_sync();
    let AppendError::Spool(error) = store.append(Queue::Inbound, vec![2].into(), None).await.unwrap_err() else {
        panic!("the queue is not full");
    };
    assert!(matches!(&error, SpoolError::Failed(cause) if cause.contains("sync")), "{error}");
    assert!(failed.await.unwrap().contains("sync"));
    assert!(store.has_failed() && store.stores().is_err());
    assert_eq!(store.append(Queue::Inbound, vec![3].into(), None).await, Err(error.clone().into()));
    assert_eq!(store.replace(Queue::Inbound, seq, vec![3]).await, Err(error.clone()));
    assert_eq!(store.read(Queue::Inbound, seq).await, Err(error));
    assert!(store.writable().borrow().is_err());
    // Who must not wait hears nothing: what it holds is dropped.
    let (answered, answer) = oneshot::channel();
    let then: Then = Box::new(move |outcome| answered.send(outcome).unwrap());
    assert!(store.hand_over(Queue::Inbound, vec![3].into(), None, then).is_ok());
    assert!(answer.await.is_err());
    let subject = subject.reopen().await;
    assert_eq!(everything(&*subject.store(), Queue::Inbound).await.len(), 1);
}

pub(crate) async fn a_panic_of_who_stores_is_a_failure<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let then: Then = Box::new(|outcome| panic!("a test's own, at row {outcome:?}"));
    assert!(store.hand_over(Queue::Inbound, vec![1].into(), None, then).is_ok());
    let cause = timeout(Duration::from_mins(1), store.failed()).await.expect("it is told");
    assert!(cause.contains("panicked"), "{cause}");
    assert!(store.has_failed() && store.writable().borrow().is_err());
    assert!(store.stores().is_err_and(|not| not.why == WhyNot::Failed));
}

pub(crate) async fn what_cannot_be_read_for_a_moment_is_read_then<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let seq = append(&*store, Queue::Outbound, "a row").await;
    for _ in 0..2 {
        subject.fail_next_read();
        assert_eq!(everything(&*store, Queue::Outbound).await.len(), 1);
        subject.fail_next_read();
        assert_eq!(store.read(Queue::Outbound, seq).await.unwrap().unwrap().data, "a row");
        subject.fail_next_read();
        assert_eq!(store.redeliveries().await, Ok(vec![]));
        subject.fail_next_read();
        assert_eq!(store.notes("").await, Ok(vec![]));
    }
    // Who only looks does not wait, and nobody does who is to stop.
    subject.fail_next_read();
    assert!(store.oldest(Queue::Outbound).await.is_err());
    assert!(store.oldest(Queue::Outbound).await.is_ok());
    store.patience().end();
    subject.fail_next_read();
    assert!(matches!(store.read(Queue::Outbound, seq).await, Err(SpoolError::Unwritable(_))));
}

pub(crate) async fn a_closed_store_answers_nobody<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let seq = append(&*store, Queue::Inbound, "a row").await;
    store.complete(Queue::Inbound, seq);
    store.close().await;
    let refused = store.append(Queue::Inbound, "a row".into(), None).await;
    assert!(matches!(refused, Err(AppendError::Spool(SpoolError::Failed(_)))));
    assert!(matches!(store.read(Queue::Inbound, seq).await, Err(SpoolError::Failed(_))));
    store.close().await;
    let subject = subject.reopen().await;
    assert!(everything(&*subject.store(), Queue::Inbound).await.is_empty());
}

/// Room for three rows of 100 bytes.
const THREE: u64 = 3 * (100 + ROW_OVERHEAD);

fn tells_that_inbound_is_full(store: &dyn Store) -> bool {
    store.stores().is_err_and(|not| not.why == WhyNot::Full && not.cause.contains("inbound queue is full"))
}

pub(crate) async fn a_full_queue_refuses_new_rows_and_nothing_else<S: Subject>() {
    let subject = S::create(Limits { inbound: THREE, outbound: 1000, set_aside: THREE }).await;
    let store = subject.store();
    assert_eq!(store.limit(Queue::Inbound), THREE);
    let first = append(&*store, Queue::Inbound, vec![0; 100]).await;
    for _ in 0..2 {
        append(&*store, Queue::Inbound, vec![0; 100]).await;
    }
    assert_eq!(store.append(Queue::Inbound, vec![0; 100].into(), None).await, Err(AppendError::Full));
    assert!(tells_that_inbound_is_full(&*store));
    append(&*store, Queue::Outbound, vec![0; 100]).await;
    store.replace(Queue::Inbound, first, vec![1; 200]).await.unwrap();
    assert_eq!(everything(&*store, Queue::Inbound).await.len(), 3);

    // A completion that is still pending makes room.
    store.complete(Queue::Inbound, first);
    append(&*store, Queue::Inbound, vec![0; 100]).await;
    until(|| store.writable().borrow().is_ok()).await;

    let mut set_aside = Vec::new();
    for n in 1..=5 {
        set_aside.push(append(&*store, Queue::SetAside, vec![n; 100]).await);
    }
    assert!(contents(&*store, Queue::SetAside).await.into_keys().eq(set_aside[2..].iter().copied()));
    assert_eq!(store.counters().set_aside_dropped, 2);
    assert_eq!(store.append(Queue::SetAside, vec![0; 1000].into(), None).await, Err(AppendError::Full));
}

pub(crate) async fn a_queue_that_one_batch_fills_counts_as_full<S: Subject>() {
    let subject = S::create(Limits { inbound: THREE, outbound: 1000, set_aside: 1000 }).await;
    let store = subject.store();
    let appends = join_all((0..10).map(|_| store.append(Queue::Inbound, vec![0; 100].into(), None))).await;
    assert_eq!(appends.iter().filter(|appended| appended.is_err()).count(), 7);
    until(|| tells_that_inbound_is_full(&*store)).await;
    for seq in appends.into_iter().flatten() {
        store.complete(Queue::Inbound, seq);
    }
    until(|| store.writable().borrow().is_ok()).await;
}

pub(crate) async fn without_room_nothing_is_stored_and_all_else_goes_on<S: Subject>() {
    let subject = S::create(ROOMY).await;
    let store = subject.store();
    let (first, second) = (append(&*store, Queue::Outbound, "1").await, append(&*store, Queue::Outbound, "2").await);
    subject.fill(true);
    let refused = store.append(Queue::Outbound, "3".into(), None).await;
    assert!(matches!(refused, Err(AppendError::Spool(SpoolError::Unwritable(_)))), "{refused:?}");
    assert!(store.stores().is_err_and(|not| not.why == WhyNot::Refused));
    assert!(!store.has_failed());
    store.replace(Queue::Outbound, first, b"result".to_vec()).await.unwrap();
    store.complete(Queue::Outbound, second);
    let rows = everything(&*store, Queue::Outbound).await;
    assert!(rows.len() == 1 && rows[0].data == "result", "{rows:?}");
    assert!(store.writable().borrow().is_err(), "completing is not appending");

    subject.fill(false);
    // Nobody appends meanwhile.
    let mut writable = store.writable();
    timeout(Duration::from_mins(2), writable.wait_for(Result::is_ok)).await.expect("in time").unwrap();
    assert!(append(&*store, Queue::Outbound, "3").await > second);
}
