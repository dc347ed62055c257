//! What fails: for a moment, or for good.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::subject::{ROOMY, Subject, append, everything};
use crate::store::{Queue, SpoolError, Then};

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
    let error = store.append(Queue::Inbound, vec![2].into(), None).await.unwrap_err();
    assert!(matches!(&error, SpoolError::Failed(cause) if cause.contains("sync")), "{error}");
    assert!(failed.await.unwrap().contains("sync"));
    assert!(store.has_failed() && store.stores().is_err());
    assert_eq!(store.append(Queue::Inbound, vec![3].into(), None).await, Err(error.clone()));
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
    assert!(matches!(store.append(Queue::Inbound, "a row".into(), None).await, Err(SpoolError::Failed(_))));
    assert!(matches!(store.read(Queue::Inbound, seq).await, Err(SpoolError::Failed(_))));
    store.close().await;
    let subject = subject.reopen().await;
    assert!(everything(&*subject.store(), Queue::Inbound).await.is_empty());
}
