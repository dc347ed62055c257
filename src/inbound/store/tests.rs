//! Who answers where several bridges take pushes: with tokens in a real etcd.

use tokio::task::yield_now;

use super::*;
use crate::os::clock::Stamp;
use crate::store::Token;
use crate::store::etcd::tests::{config, shared};
use crate::store::etcd::{Etcd, EtcdConfig};

/// A member, and what it has begun.
struct Member {
    store: Arc<Store>,
    counters: Arc<Counters>,
    tokens: Arc<dyn Tokens>,
    tasks: TaskTracker,
    _etcd: Arc<Etcd>,
}

fn members() -> [Member; 2] {
    let shared = config(shared(), "a");
    ["a", "b"].map(|name| {
        let etcd = Etcd::open(&EtcdConfig { member: name.to_owned(), ..shared.clone() }).unwrap();
        let (tokens, counters, tasks) = (etcd.member(), Arc::<Counters>::default(), TaskTracker::new());
        let recognition = Recognition::Tokens(tokens.clone());
        let store = Store::new(tokens.clone(), recognition, 1024, counters.clone(), tasks.clone());
        Member { store: Arc::new(store), counters, tokens, tasks, _etcd: etcd }
    })
}

impl Member {
    /// A try of this push, which waits until it is stored.
    async fn receive(&self, body: &'static [u8]) -> Ticket {
        let place = self.store.room(body.len()).await.unwrap();
        let stored = self.store.store(Held::new(Bytes::from_static(body), place), Kind::Text).await;
        stored.unwrap().unwrap()
    }

    fn leaving(&self, ticket: Ticket) -> impl Future<Output = Result<answering::Leaving, Unanswered>> {
        self.store.leaving(ticket, Kind::Text, Duration::ZERO)
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
}

#[tokio::test]
async fn after_an_answer_the_same_bytes_are_new_and_without_one_a_repeat_at_any_member() {
    let [a, b] = members();
    let ticket = a.receive(b"on").await;
    a.leaving(ticket).await.unwrap().left();
    let ticket = b.receive(b"on").await;
    assert_eq!((a.counts(), b.counts()), ((1, 0), (1, 0)));
    // This answer does not leave.
    drop(b.leaving(ticket).await.unwrap());
    b.settle().await;
    let ticket = a.receive(b"on").await;
    assert_eq!(a.counts(), (1, 1));
    a.leaving(ticket).await.unwrap().left();
    b.receive(b"on").await;
    assert_eq!(b.counts(), (2, 0));
}

#[tokio::test]
async fn a_peer_that_leaves_while_its_answer_is_prepared_makes_the_next_try_a_repeat() {
    let [a, b] = members();
    let ticket = a.receive(b"on").await;
    let leaving = a.leaving(ticket);
    tokio::select! {
        biased;
        _ = leaving => panic!("etcd was not asked"),
        () = yield_now() => {}
    }
    a.settle().await;
    b.receive(b"on").await;
    assert_eq!(b.counts(), (0, 1));
}

#[tokio::test]
async fn of_two_members_with_the_same_push_in_hand_one_answers_and_the_next_try_is_new() {
    let [a, b] = members();
    let (at_a, at_b) = (a.receive(b"on").await, b.receive(b"on").await);
    assert_eq!((a.counts(), b.counts()), ((1, 0), (0, 1)));
    b.leaving(at_b).await.unwrap().left();
    assert_eq!(a.leaving(at_a).await.err(), Some(Unanswered::Slow));
    assert_eq!(a.counters.pushes_unanswered_slow.get(), 1);
    a.receive(b"on").await;
    assert_eq!(a.counts(), (2, 0));
}

#[tokio::test]
async fn what_was_stored_too_long_ago_makes_no_repeat() {
    let [a, b] = members();
    let long_ago = postcard::to_stdvec(&(1_u64, 0_u64, Stamp::now().wall_ms() - 60_000)).unwrap();
    let name = Sha256::digest(b"on").into();
    let token = Token { name, value: long_ago.into(), replaces: 0 };
    a.tokens.append_once("a row".into(), token).await.unwrap();
    let ticket = b.receive(b"on").await;
    assert_eq!(b.counts(), (1, 0));
    b.leaving(ticket).await.unwrap().left();
    let unreadable = Token { name, value: Bytes::new(), replaces: 0 };
    a.tokens.append_once("a row".into(), unreadable).await.unwrap();
    b.receive(b"on").await;
    assert_eq!(b.counts(), (2, 0));
}

#[test]
fn in_a_cluster_etcd_and_its_setting_are_named() {
    let words = [Unanswered::Full, Unanswered::Failed, Unanswered::Slow, Unanswered::Overload]
        .map(|why| unstored(why, Medium::Etcd));
    assert!(words.iter().all(|words| words.contains("etcd") && !words.contains("disk ")), "{words:?}");
    assert!(words[0].contains(Medium::Etcd.limit_key()), "{words:?}");
    assert!(unstored(Unanswered::Full, Medium::Disk).contains(Medium::Disk.limit_key()));
}
