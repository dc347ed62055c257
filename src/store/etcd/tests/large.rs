//! An etcd that takes less in one request than we may ask of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::server::Server;
use super::store::{append, lead};
use super::{config, in_time};
use crate::store::etcd::Etcd;
use crate::store::{AppendError, Queue, SpoolError};

#[tokio::test(flavor = "multi_thread")]
async fn what_this_etcd_never_takes_is_refused_by_itself() {
    let server = Server::start(&["--max-request-bytes=100000"]);
    let etcd = Etcd::open(&config(&server.url(), "a")).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    let row = append(&*store, "before").await;
    let refused = in_time(store.replace(Queue::Inbound, row, vec![0; 200_000])).await;
    assert!(matches!(&refused, Err(SpoolError::TooLarge(_))), "{refused:?}");
    assert_eq!(store.stores(), Ok(()));
    append(&*store, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_found_while_notes_and_rows_keep_coming() {
    let server = Server::start(&["--max-request-bytes=100000"]);
    let etcd = Etcd::open(&config(&server.url(), "a")).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    let noting = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0_u32.. {
                store.put_note(&(n % 10).to_string(), n.to_le_bytes().to_vec());
                sleep(Duration::from_micros(100)).await;
            }
        }
    });
    for large in 0..4_usize {
        let rows = (0..8).map(|n| {
            let data = if n == 2 * large { vec![0; 200_000] } else { vec![0; 10] };
            store.append(Queue::Inbound, data.into(), None)
        });
        let outcomes = in_time(join_all(rows)).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let is_refused = matches!(&outcome, Err(AppendError::Spool(SpoolError::TooLarge(_))));
            assert_eq!((is_refused, outcome.is_ok()), (n == 2 * large, n != 2 * large), "{n}: {outcome:?}");
        }
    }
    noting.abort();
    assert_eq!(store.stats(Queue::Inbound).depth, 4 * 7);
}
