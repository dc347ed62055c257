//! What a bridge that was alone had comes whole and once, whatever interrupts that.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::server::{Server, shared};
use super::{ROOMY, config, in_time};
use crate::store::etcd::{Etcd, NotAdopted};
use crate::store::sqlite::Spool;
use crate::store::{Key, Queue, Row, Store};

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn open(dir: &TempDir) -> Arc<dyn Store> {
    Spool::open(dir.path(), ROOMY).unwrap().0
}

/// A spool with rows, a key and notes.
async fn spool(dir: &TempDir, rows: u16, extra: Option<Vec<u8>>) -> Arc<dyn Store> {
    let spool = open(dir);
    for n in 0..rows {
        for queue in [Queue::Inbound, Queue::Outbound] {
            spool.append(queue, n.to_be_bytes().to_vec().into(), None).await.unwrap();
        }
    }
    if let Some(extra) = extra {
        spool.append(Queue::Inbound, extra.into(), None).await.unwrap();
    }
    let key = Some(Key { pkid: 7, digest: [9; 32], connection: 1 });
    spool.append(Queue::Outbound, rows.to_be_bytes().to_vec().into(), key).await.unwrap();
    spool.put_note("presence", vec![1]);
    spool.put_note("filters", vec![2]);
    spool.append(Queue::SetAside, "refused".into(), None).await.unwrap();
    spool
}

async fn rows(store: &dyn Store, queue: Queue) -> Vec<Row> {
    in_time(store.read_after(queue, 0, usize::MAX, usize::MAX)).await.unwrap()
}

/// What has come, by whoever leads first.
async fn holds(etcd: &Etcd, up_to: u16) {
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    let numbers =
        |rows: Vec<Row>| rows.iter().map(|row| u16::from_be_bytes([row.data[0], row.data[1]])).collect::<Vec<_>>();
    assert_eq!(numbers(rows(&*store, Queue::Inbound).await), (0..up_to).collect::<Vec<_>>());
    assert_eq!(numbers(rows(&*store, Queue::Outbound).await), (0..=up_to).collect::<Vec<_>>());
    assert_eq!(rows(&*store, Queue::SetAside).await.len(), 1);
    assert_eq!(in_time(store.redeliveries()).await.unwrap(), [(7, [9; 32])]);
    let notes = [("filters".to_owned(), vec![2]), ("presence".to_owned(), vec![1])];
    assert_eq!(in_time(store.notes("")).await.unwrap(), notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_it_is_interrupted_each_thing_comes_once() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = spool(&dir, 700, None).await;
    // What is durable of it whatever happens next.
    etcd.adoption(&*old).name().await.unwrap();
    old.close().await;
    drop(old);
    let mut tries = 0;
    loop {
        tries += 1;
        // Each try finds the spool as if the power had failed: nothing of what was completed in it has reached the disk.
        let this = tempfile::tempdir().unwrap();
        copy(dir.path(), this.path());
        let old = open(&this);
        let mut adoption = etcd.adoption(&*old);
        if let Ok(done) = tokio::time::timeout(Duration::from_millis(3 * tries), adoption.run()).await {
            // What was sent and not waited for may come in between.
            if done.is_ok() {
                break;
            }
        }
        assert!(tries < 1000);
    }
    assert!(tries > 3, "it was interrupted");
    holds(&etcd, 700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_but_what_etcd_never_takes() {
    let server = Server::start(&["--max-request-bytes=100000"]);
    let etcd = Etcd::open(&config(&server.url(), "a")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = spool(&dir, 300, Some(vec![1; 200_000])).await;
    let last = old.append(Queue::Inbound, 300_u16.to_be_bytes().to_vec().into(), None).await.unwrap();
    for _ in 0..2 {
        let mut adoption = etcd.adoption(&*old);
        in_time(adoption.run()).await.unwrap();
        assert_eq!(adoption.outcome(Queue::Inbound).1, 1);
        let left = rows(&*old, Queue::Inbound).await;
        assert!(left.len() == 1 && left[0].data.len() == 200_000 && left[0].seq < last, "{left:?}");
        assert!(rows(&*old, Queue::Outbound).await.is_empty() && rows(&*old, Queue::SetAside).await.is_empty());
        assert_eq!(in_time(old.redeliveries()).await, Ok(vec![]));
    }
    // What comes into the old store later comes, too, and what is left once it fits.
    old.append(Queue::Outbound, 301_u16.to_be_bytes().to_vec().into(), None).await.unwrap();
    old.replace(Queue::Inbound, last - 1, 301_u16.to_be_bytes().to_vec()).await.unwrap();
    let mut adoption = etcd.adoption(&*old);
    in_time(adoption.run()).await.unwrap();
    assert_eq!((adoption.outcome(Queue::Inbound), adoption.outcome(Queue::Outbound)), ((1, 0), (1, 0)));
    assert!(rows(&*old, Queue::Inbound).await.is_empty());
    assert_eq!(in_time(old.notes("")).await, Ok(vec![]));
    let reached = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&reached)).await.unwrap();
    assert_eq!(store.stats(Queue::Inbound).depth, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_has_stays_and_a_silent_etcd_is_waited_for() {
    let etcd = Etcd::open(&config(shared(), "a")).unwrap();
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    store.put_note("presence", vec![7]);
    in_time(store.append(Queue::Inbound, "first".into(), None)).await.unwrap();
    in_time(store.close()).await;
    leadership.resign().await;
    let dir = tempfile::tempdir().unwrap();
    let old = spool(&dir, 3, None).await;
    in_time(etcd.adoption(&*old).run()).await.unwrap();
    let leadership = in_time(etcd.campaign()).await;
    let store = in_time(etcd.lead(&leadership)).await.unwrap();
    let notes = [("filters".to_owned(), vec![2]), ("presence".to_owned(), vec![7])];
    assert_eq!(in_time(store.notes("")).await.unwrap(), notes);
    // Somebody has led: the old session may not be the present one.
    assert_eq!(in_time(store.redeliveries()).await, Ok(vec![]));
    assert!(rows(&*store, Queue::Inbound).await[0].data == "first" && store.stats(Queue::Inbound).depth == 4);

    let server = Server::start(&[]);
    let etcd = Etcd::open(&config(&server.url(), "a")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = spool(&dir, 3, None).await;
    server.pause();
    let mut adoption = etcd.adoption(&*old);
    let error = in_time(adoption.run()).await.unwrap_err();
    assert!(matches!(&error, NotAdopted::New(cause) if cause.to_string().contains("did not answer")), "{error}");
    server.resume();
    while in_time(adoption.run()).await.is_err() {}
    holds(&etcd, 3).await;
}
