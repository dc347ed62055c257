//! Who answers where several bridges take pushes: with tokens in a real etcd.

use std::collections::BTreeSet;

use tokio::time::sleep;

use super::*;
use crate::inbound::record::Record;
use crate::os::clock::Stamp;
use crate::store::etcd::tests::{Proxy, config, shared};
use crate::store::etcd::{Etcd, EtcdConfig};
use crate::store::{Queue, Token};

/// A member, and what it has begun.
struct Member {
    store: Arc<Store>,
    counters: Arc<Counters>,
    tokens: Arc<dyn Tokens>,
    tasks: TaskTracker,
    etcd: Arc<Etcd>,
}

fn members() -> [Member; 2] {
    let shared = config(shared(), "a");
    ["a", "b"].map(|name| Member::open(&EtcdConfig { member: name.to_owned(), ..shared.clone() }))
}

impl Member {
    fn open(config: &EtcdConfig) -> Self {
        let etcd = Etcd::open(config).unwrap();
        let (tokens, counters, tasks) = (etcd.member(), Arc::<Counters>::default(), TaskTracker::new());
        let recognition = Recognition::Tokens(tokens.clone());
        let store = Store::new(tokens.clone(), recognition, 1024, counters.clone(), tasks.clone());
        Self { store: Arc::new(store), counters, tokens, tasks, etcd }
    }

    /// A try of this push, which waits until it is in hand.
    async fn receive(&self, body: &'static [u8]) -> Ticket {
        let place = self.store.room(body.len()).await.unwrap();
        let stored = self.store.store(Held::new(Bytes::from_static(body), place), Kind::Text).await;
        stored.unwrap().unwrap()
    }

    /// What it has begun is done.
    async fn settle(&self) {
        self.tasks.close();
        timeout(Duration::from_mins(1), self.tasks.wait()).await.unwrap();
    }

    /// How many pushes it has stored, and how many repeats it has had.
    fn counts(&self) -> (u64, u64) {
        (self.counters.pushes_stored.get(), self.counters.pushes_repeated.get())
    }

    /// How many rows there are, and how many ids.
    async fn rows(&self) -> (usize, usize) {
        let leadership = self.etcd.campaign().await;
        let rows = self.etcd.lead(&leadership).await.unwrap();
        let rows = rows.read_after(Queue::Inbound, 0, 100, usize::MAX).await.unwrap();
        let id = |row: &crate::store::Row| match Record::decode(&row.data).unwrap() {
            Record::Push { id, .. } => id,
            other => panic!("{other:?}"),
        };
        (rows.len(), rows.iter().map(id).collect::<BTreeSet<_>>().len())
    }
}

/// Its answer is handed to the socket.
fn answered(ticket: Ticket) {
    Store::leaving(ticket).left();
}

#[tokio::test]
async fn after_an_answer_the_same_bytes_are_new_and_without_one_a_repeat_at_any_member() {
    let [a, b] = members();
    answered(a.receive(b"on").await);
    let ticket = b.receive(b"on").await;
    assert_eq!((a.counts(), b.counts()), ((1, 0), (1, 0)));
    // This answer does not leave.
    drop(Store::leaving(ticket));
    b.settle().await;
    let ticket = a.receive(b"on").await;
    assert_eq!(a.counts(), (1, 1));
    answered(ticket);
    b.receive(b"on").await;
    assert_eq!(b.counts(), (2, 0));
    assert_eq!(a.rows().await, (3, 3));
}

#[tokio::test]
async fn a_peer_that_leaves_before_its_answer_makes_the_next_try_a_repeat() {
    let [a, b] = members();
    drop(a.receive(b"on").await);
    a.settle().await;
    b.receive(b"on").await;
    assert_eq!(b.counts(), (0, 1));
    assert_eq!(a.rows().await, (1, 1));
}

#[tokio::test]
async fn tries_at_one_member_share_a_commit_also_if_the_first_has_left() {
    let [a, _] = members();
    let (one, two) = tokio::join!(a.receive(b"on"), a.receive(b"on"));
    assert_eq!(a.counts(), (1, 1));
    // One answer does not leave, the other does.
    drop(one);
    answered(two);
    let first = timeout(Duration::ZERO, a.receive(b"on")).await;
    assert!(first.is_err(), "it has begun, and left");
    answered(a.receive(b"on").await);
    assert_eq!(a.counts(), (2, 2));
    a.receive(b"on").await;
    assert_eq!(a.counts(), (3, 2));
    assert_eq!(a.rows().await, (3, 3));
}

#[tokio::test]
async fn a_push_in_another_members_hand_is_new_if_that_one_answers_and_a_repeat_if_it_does_not() {
    for (answers, counts) in [(true, (1, 0)), (false, (0, 1))] {
        let [a, b] = members();
        let at_a = a.receive(b"on").await;
        let (at_b, ()) = tokio::join!(b.receive(b"on"), async {
            sleep(Duration::from_millis(100)).await;
            assert_eq!(b.counts(), (0, 0), "it waits");
            if answers { answered(at_a) } else { drop(at_a) }
        });
        assert_eq!((a.counts(), b.counts()), ((1, 0), counts));
        answered(at_b);
        a.receive(b"on").await;
        assert_eq!(a.counts(), (2, 0));
    }
}

#[tokio::test]
async fn what_does_not_become_known_of_a_push_in_another_members_hand_makes_a_copy_of_it() {
    let [a, b] = members();
    let at_a = a.receive(b"on").await;
    let at_b = b.receive(b"on").await;
    assert_eq!((a.counts(), b.counts()), ((1, 0), (1, 0)));
    // Whatever becomes of it now, the other has it.
    drop(at_a);
    a.settle().await;
    drop(at_b);
    b.settle().await;
    answered(a.receive(b"on").await);
    assert_eq!(a.counts(), (1, 1));
    assert_eq!(b.rows().await, (2, 1), "two rows, one id");
}

#[tokio::test]
async fn a_push_for_which_nobody_waited_when_it_was_stored_swallows_no_new_one() {
    let [a, b] = members();
    assert!(timeout(Duration::ZERO, a.receive(b"on")).await.is_err(), "it has begun, and left");
    a.settle().await;
    answered(b.receive(b"on").await);
    assert_eq!((a.counts(), b.counts()), ((1, 0), (1, 0)), "another member may have answered it before that");
    assert_eq!(b.rows().await, (2, 1), "two rows, one id");
}

#[tokio::test]
async fn what_a_member_could_not_store_in_time_is_not_stored_behind_another_members_answer() {
    let shared = config(shared(), "b");
    let proxy = Proxy::to(crate::store::etcd::tests::shared()).await;
    let endpoints = vec![proxy.url().parse().unwrap()];
    let a = Member::open(&EtcdConfig { member: "a".to_owned(), endpoints, ..shared.clone() });
    let b = Member::open(&shared);
    answered(a.receive(b"before").await);
    proxy.cut(true);
    let first = timeout(Duration::from_secs(5), a.receive(b"on")).await;
    assert!(first.is_err(), "it is cut off");
    answered(b.receive(b"on").await);
    proxy.cut(false);
    a.settle().await;
    answered(a.receive(b"on").await);
    assert_eq!((a.counts(), b.counts()), ((2, 0), (1, 0)), "the next one is new");
    assert_eq!(b.rows().await, (3, 3));
}

#[tokio::test]
async fn a_try_whose_peer_has_left_meanwhile_makes_no_copy() {
    let [a, b] = members();
    let _at_a = a.receive(b"on").await;
    assert!(timeout(Duration::from_millis(100), b.receive(b"on")).await.is_err());
    b.settle().await;
    assert_eq!(b.rows().await, (1, 1));
}

#[tokio::test]
async fn what_was_stored_too_long_ago_makes_no_repeat() {
    let [a, b] = members();
    let long_ago = postcard::to_stdvec(&([0_u8; 16], 1_u64, 0_u64, Stamp::now().wall_ms() - 60_000, true)).unwrap();
    let name = Sha256::digest(b"on").into();
    let token = Token { name, value: long_ago.into(), replaces: 0 };
    let row = || Bytes::from(Record::push("on".into()).encode());
    a.tokens.append_once(row(), token, Duration::MAX).await.unwrap();
    answered(b.receive(b"on").await);
    assert_eq!(b.counts(), (1, 0));
    b.receive(b"on").await;
    assert_eq!(b.counts(), (2, 0));
    let unreadable = Token { name: Sha256::digest(b"off").into(), value: Bytes::new(), replaces: 0 };
    a.tokens.append_once(row(), unreadable, Duration::MAX).await.unwrap();
    b.receive(b"off").await;
    assert_eq!(b.counts(), (3, 0));
}

#[tokio::test]
async fn what_a_failed_store_does_not_take_is_left_at_once_and_not_for_being_slow() {
    let [a, _] = members();
    a.tokens.close().await;
    let begun = Instant::now();
    let place = a.store.room(2).await.unwrap();
    let stored = a.store.store(Held::new(Bytes::from_static(b"on"), place), Kind::Text).await;
    assert!(matches!(stored, Err(Unanswered::Failed)));
    assert!(begun.elapsed() < HOLD);
}

#[tokio::test]
async fn a_push_that_is_given_up_as_late_was_slow_to_store_and_not_refused() {
    let [a, _] = members();
    let place = a.store.room(2).await.unwrap();
    // Until its sender soon goes on to another member.
    sleep(Duration::from_secs(4)).await;
    let stored = a.store.store(Held::new(Bytes::from_static(b"on"), place), Kind::Text).await;
    assert_eq!(stored.err(), Some(Unanswered::Slow));
    assert_eq!((a.counters.pushes_unanswered_slow.get(), a.counters.pushes_unanswered_failed.get()), (1, 0));
    assert_eq!(a.rows().await, (0, 0));
}

#[test]
fn in_a_cluster_etcd_and_its_setting_are_named() {
    let words = [Unanswered::Full, Unanswered::Failed, Unanswered::Slow, Unanswered::Overload]
        .map(|why| unstored(why, Medium::Etcd));
    assert!(words.iter().all(|words| words.contains("etcd") && !words.contains("disk ")), "{words:?}");
    assert!(words[0].contains(Medium::Etcd.limit_key()), "{words:?}");
    assert!(unstored(Unanswered::Full, Medium::Disk).contains(Medium::Disk.limit_key()));
}
