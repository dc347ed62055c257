//! Where etcd refuses for now, rows to iLink keep the order in which they were asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::server::{Server, shared};
use super::store::{lead, rows};
use super::{config, in_time};
use crate::store::etcd::leading::Leader;
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError, Leadership};
use crate::store::{Append, AppendError, Queue, SpoolError};

type Appending = JoinHandle<Result<u64, AppendError>>;

fn begin<S: Append + ?Sized>(store: &Arc<S>, queue: Queue, data: impl Into<Vec<u8>>) -> Appending {
    let (store, data) = (Arc::clone(store), data.into());
    tokio::spawn(async move { store.append(queue, data.into(), None).await })
}

async fn is_refused(appending: Appending) -> bool {
    matches!(in_time(appending).await.unwrap(), Err(AppendError::Spool(SpoolError::Unwritable(_))))
}

async fn leader(etcd: &Etcd) -> (Leadership, Arc<Leader>) {
    let leadership = in_time(etcd.campaign()).await;
    let leader = in_time(etcd.open_store(&leadership)).await.unwrap();
    (leadership, leader)
}

/// One row is on its way, and will be refused for this cause.
async fn begin_refused(leader: &Arc<Leader>, cause: EtcdError) -> Appending {
    let faults = &leader.rights.faults;
    *faults.next.lock().unwrap() = Some(cause);
    let first = begin(leader, Queue::Outbound, "first");
    in_time(async {
        while faults.next.lock().unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_refused_row_is_refused_with_it_and_nothing_else_is() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let (_leadership, leader) = leader(&etcd).await;
    let first = begin_refused(&leader, EtcdError::TooMany).await;
    let [second, third] = ["second", "third"].map(|row| begin(&leader, Queue::Outbound, row));
    let push = begin(&leader, Queue::Inbound, "a push");
    assert!(is_refused(first).await);
    assert!(is_refused(second).await && is_refused(third).await);
    assert!(in_time(push).await.unwrap().is_ok(), "another queue has an order of its own");
    // Who asks again does so in the order of the first time.
    let mut writable = leader.writable();
    in_time(writable.wait_for(Result::is_ok)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for row in ["first", "second", "third"] {
        in_time(begin(&leader, Queue::Outbound, row)).await.unwrap().unwrap();
    }
    assert!(rows(&*leader, Queue::Outbound).await.iter().map(|row| &row.data[..1]).eq([b"f", b"s", b"t"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_row_that_waits_no_longer_is_refused_with_it() {
    let server = Server::start(&[]);
    let patient = EtcdConfig { takeover: Duration::from_mins(1), ..config(&server.url(), "a") };
    let etcd = Etcd::open(&patient).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    in_time(begin(&store, Queue::Outbound, "before")).await.unwrap().unwrap();
    server.pause();
    let sent = begin(&store, Queue::Outbound, "sent");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = begin(&store, Queue::Outbound, "second");
    in_time(store.writable().wait_for(Result::is_err)).await.unwrap();
    let third = begin(&store, Queue::Outbound, "third");
    assert!(is_refused(second).await);
    server.resume();
    assert!(is_refused(third).await);
    in_time(sent).await.unwrap().unwrap();
    assert!(rows(&*store, Queue::Outbound).await.iter().map(|row| &row.data[..]).eq([&b"before"[..], b"sent"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_for_good_holds_up_nobody() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let (_leadership, leader) = leader(&etcd).await;
    // Commands do not wait for the operator.
    let first = begin_refused(&leader, EtcdError::NoSpace).await;
    let second = begin(&leader, Queue::Outbound, "second");
    assert!(is_refused(first).await);
    in_time(second).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_too_large_is_refused_by_itself_also_among_others() {
    let server = Server::start(&["--max-request-bytes=100000"]);
    let etcd = Etcd::open(&config(&server.url(), "a")).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    // While this one is on its way, the others come together, with something lazy.
    let before = begin(&store, Queue::Outbound, "before");
    store.put_note("note", vec![1]);
    let large = begin(&store, Queue::Outbound, vec![b'x'; 200_000]);
    let others = ["1", "2", "3", "4"].map(|row| begin(&store, Queue::Outbound, row));
    in_time(before).await.unwrap().unwrap();
    let refused = in_time(large).await.unwrap();
    assert!(matches!(&refused, Err(AppendError::Spool(SpoolError::TooLarge(_)))), "{refused:?}");
    for other in others {
        in_time(other).await.unwrap().unwrap();
    }
    assert_eq!(store.stores(), Ok(()));
    assert_eq!(in_time(store.notes("")).await.unwrap().len(), 1);
}
