//! What the cases need of an implementation, and of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::store::{Limits, Queue, Row, Store};

/// An implementation, and the place where it stores.
pub(crate) trait Subject: Sized {
    /// An empty one with these limits.
    async fn create(limits: Limits) -> Self;

    /// The store, as it is open now.
    fn store(&self) -> Arc<dyn Store>;

    /// Closes it and opens it again.
    async fn reopen(self) -> Self;

    /// Opens what is left when it is killed now. Other handles of it are of no use any more.
    async fn crash(self) -> Self;

    /// The sync of the next commit fails.
    fn fail_next_sync(&self);

    /// The next read fails, and may succeed when it is tried again.
    fn fail_next_read(&self);

    /// There is no room for new rows from now on, or there is again.
    fn fill(&self, full: bool);
}

pub(super) const ROOMY: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 24 };

pub(super) async fn everything(store: &dyn Store, queue: Queue) -> Vec<Row> {
    store.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("reading works")
}

pub(super) async fn contents(store: &dyn Store, queue: Queue) -> BTreeMap<u64, Vec<u8>> {
    everything(store, queue).await.into_iter().map(|row| (row.seq, row.data.to_vec())).collect()
}

pub(super) async fn append(store: &dyn Store, queue: Queue, data: impl Into<Bytes>) -> u64 {
    store.append(queue, data.into(), None).await.expect("there is room")
}

pub(super) async fn until(mut met: impl FnMut() -> bool) {
    let met = async {
        while !met() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_mins(2), met).await.expect("it happens in time");
}
