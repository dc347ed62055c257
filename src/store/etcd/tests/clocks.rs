//! Rows of members whose clocks differ: they lie in etcd in another order than they came.

use ulid::Ulid;

use super::server::shared;
use super::store::{lead, rows};
use super::{config, in_time};
use crate::store::Queue;
use crate::store::etcd::Etcd;
use crate::store::etcd::client::Client;
use crate::store::etcd::config::Keys;
use crate::store::etcd::rows::RowName;
use crate::store::etcd::wire::{Step, Transaction};

/// Appends 100 rows as a member does whose clock shows this.
async fn append(client: &Client, keys: &Keys, clock: u64) {
    let transaction = Ulid::from_parts(clock, Ulid::generate().random());
    let put = |place| {
        let name = RowName { transaction, place, size: 1 };
        Step::put(keys.queue(Queue::Inbound) + &name.encode(), vec![place])
    };
    let success = (0..100).map(put).collect();
    in_time(client.transact(&Transaction { success, ..Transaction::default() })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_lie_far_apart_are_all_read() {
    let config = config(shared(), "a");
    let (client, keys) = (Client::new(&config).unwrap(), Keys::below(&config.prefix));
    for clock in [2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1] {
        append(&client, &keys, clock).await;
    }
    let etcd = Etcd::open(&config).unwrap();
    let (_leadership, store) = lead(&etcd).await;
    let there = rows(&*store, Queue::Inbound).await;
    assert!(there.len() == 1200 && there.is_sorted_by_key(|row| row.seq));
    assert!(there.chunks(100).all(|part| part.iter().map(|row| row.data[0]).eq(0..100)));
}
