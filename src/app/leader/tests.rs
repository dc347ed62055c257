//! What leads ends as one when it must not lead any more, and can begin again in the same process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::os::clock::boot_now;
use crate::os::lease::Lease;
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Limits, Queue};

/// A seat that notes in `given` that it is given back.
fn seat(store: &Arc<Spool>, lease: &Lease, given: &Arc<AtomicBool>) -> (Seat, oneshot::Sender<String>) {
    let (tell, told) = oneshot::channel();
    let lost = async { told.await.unwrap_or_default() }.boxed();
    let given = Arc::clone(given);
    let giving_back = async move { given.store(true, Ordering::Relaxed) }.boxed();
    (Seat::held(store.clone(), lease.clone(), lost, giving_back), tell)
}

/// A configuration whose broker and iLink are nobody.
fn configuration(dir: &std::path::Path) -> Config {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "state_dir = {:?}\n[ilink]\napi = \"http://{nobody}\"\nappkey = \"a\"\nsecretkey = \"s\"\nuid = \"414\"\n\
         [callback]\npublic_url = \"https://x\"\n[mqtt]\nbroker = \"mqtt://{nobody}\"\n",
        dir.join("state").display().to_string()
    );
    Config::of_text("test", &text, &std::iter::empty::<(&str, &str)>().collect()).unwrap()
}

#[tokio::test]
async fn who_loses_the_leadership_ends_at_once_and_may_lead_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let (core, _) = Core::open(&config).unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let info = watch::Sender::new(parts::info(&config));
    let given = Arc::new(AtomicBool::new(false));
    let cluster = tempfile::tempdir().unwrap();
    for turn in 0..2 {
        let (store, _) = Spool::open(cluster.path(), limits).unwrap();
        let lease = Lease::until(|| boot_now() + Duration::from_mins(1));
        let (seat, lose) = self::seat(&store, &lease, &given);
        let mut leader = Leader::start(&config, &core, seat, info.subscribe(), None).await.unwrap();
        assert!(timeout(Duration::from_millis(50), leader.over()).await.is_err(), "it leads");
        lose.send("another member leads".to_owned()).unwrap();
        let Over::Lost(cause) = leader.over().await else { panic!("nothing has failed") };
        assert_eq!(cause, "another member leads");
        let session = leader.session.clone();
        let seat = timeout(Duration::from_secs(2), leader.abandon()).await.expect("all of it ends at once");
        assert!(!lease.holds() && !given.load(Ordering::Relaxed));
        // Nothing of it is left that could act: the session's task has ended.
        assert!(session.query().await.is_err());
        seat.give_back().await;
        assert!(given.swap(false, Ordering::Relaxed), "turn {turn}: it is given back");
        assert!(store.append(Queue::Inbound, vec![0].into(), None).await.is_err(), "turn {turn}: it is closed");
    }
}

#[tokio::test]
async fn what_cannot_drain_is_given_up_when_the_leadership_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let (core, _) = Core::open(&config).unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let cluster = tempfile::tempdir().unwrap();
    let (store, _) = Spool::open(cluster.path(), limits).unwrap();
    let (seat, lose) = self::seat(&store, &Lease::always(), &Arc::default());
    let info = watch::Sender::new(parts::info(&config));
    let mut leader = Leader::start(&config, &core, seat, info.subscribe(), None).await.unwrap();
    // As a write of which nobody can tell whether etcd has carried it out.
    leader.supervisor.errand("what never ends", Step::Loops, std::future::pending());
    assert!(timeout(Duration::from_millis(50), leader.drain()).await.is_err(), "it is waited for");
    lose.send("etcd did not confirm it in time".to_owned()).unwrap();
    let drained = timeout(Duration::from_secs(5), leader.drain()).await.expect("it is given up");
    assert_eq!(drained, Err("etcd did not confirm it in time".to_owned()));
    leader.abandon().await.give_back().await;
}

#[tokio::test]
async fn a_part_that_fails_because_the_leadership_is_lost_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let (core, _) = Core::open(&config).unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let cluster = tempfile::tempdir().unwrap();
    let (store, _) = Spool::open(cluster.path(), limits).unwrap();
    let (seat, lose) = self::seat(&store, &Lease::always(), &Arc::default());
    let info = watch::Sender::new(parts::info(&config));
    let mut leader = Leader::start(&config, &core, seat, info.subscribe(), None).await.unwrap();
    // As when a write is refused because another member leads: the loops end, and the loss is told.
    store.close().await;
    lose.send("another member leads".to_owned()).unwrap();
    assert!(store.append(Queue::Inbound, vec![0].into(), None).await.is_err());
    tokio::task::yield_now().await;
    assert!(matches!(leader.over().await, Over::Lost(_)));
    leader.abandon().await.give_back().await;
}
