//! What every store must do, tested through its traits alone.
//!
//! An implementation says in a [`Subject`] how it is opened, killed and made to fail, and runs all tests by [`suite`].
//! What is special to it (files, damage, the texts about its disk) it tests itself.

mod model;
mod rows;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::store::{Limits, Queue, Row, Store};

pub(crate) use model::the_store_is_what_the_model_says;
pub(crate) use rows::*;
pub(crate) use trouble::*;

/// Runs every case for the [`Subject`] of this name.
macro_rules! suite {
    ($subject:ty) => {
        $crate::store::conformance::suite! {
            @ $subject:
            rows_are_numbered_read_replaced_and_completed,
            reading_stops_at_the_first_of_both_limits_but_never_before_one_row,
            numbers_are_never_given_twice_even_when_the_queue_was_emptied,
            rows_are_stored_in_the_order_of_the_calls_and_told_before_they_are_answered,
            rows_that_were_handed_over_wake_who_reads_when_they_are_announced,
            who_reads_is_woken_also_by_what_an_earlier_run_stored,
            many_producers_share_commits_and_all_of_theirs_survives_a_crash,
            a_row_is_replaced_in_one_commit_or_not_at_all,
            lazy_changes_are_stored_by_themselves,
            a_durable_change_carries_the_lazy_ones_before_it,
            what_is_lazy_is_durable_when_it_was_flushed,
            a_full_queue_refuses_new_rows_and_nothing_else,
            a_queue_that_one_batch_fills_counts_as_full,
            without_room_nothing_is_stored_and_all_else_goes_on,
            keys_and_notes_live_as_long_as_they_should,
            a_key_goes_when_the_broker_needs_it_no_more_and_none_of_a_lost_session_comes_after,
            a_failed_sync_ends_it_and_nothing_is_answered_afterwards,
            a_panic_of_who_stores_is_a_failure,
            what_cannot_be_read_for_a_moment_is_read_then,
            a_closed_store_answers_nobody,
        }

        #[test]
        fn the_store_is_what_the_model_says() {
            $crate::store::conformance::the_store_is_what_the_model_says::<$subject>();
        }
    };
    (@ $subject:ty: $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $crate::store::conformance::$case::<$subject>().await;
            }
        )*
    };
}
pub(crate) use suite;

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

const ROOMY: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 24 };

async fn everything(store: &dyn Store, queue: Queue) -> Vec<Row> {
    store.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("reading works")
}

async fn contents(store: &dyn Store, queue: Queue) -> BTreeMap<u64, Vec<u8>> {
    everything(store, queue).await.into_iter().map(|row| (row.seq, row.data.to_vec())).collect()
}

async fn append(store: &dyn Store, queue: Queue, data: impl Into<Bytes>) -> u64 {
    store.append(queue, data.into(), None).await.expect("there is room")
}

async fn until(mut met: impl FnMut() -> bool) {
    let met = async {
        while !met() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_mins(2), met).await.expect("it happens in time");
}
