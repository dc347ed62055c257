//! Hostile callers: whatever strangers do to the listeners, a push passes, nothing of theirs is stored, and little is logged.

mod access;
mod attackers;
mod bodies;
mod crowds;
mod floods;
mod mutations;
mod paths;
mod peers;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::world::World;
use crate::support::DEADLINE;
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::raw_post;
use attackers::{Caller, exchange};

/// iLink's patience.
const PATIENCE: Duration = Duration::from_secs(5);

/// A push as iLink sends it, on a connection of its own, from `source`; it must be answered. Returns how long it took.
///
/// That is not held against [`PATIENCE`] one by one: a test has the machine for itself as little as the bridge has.
#[track_caller]
fn push_from(world: &World, source: Caller, text: &str) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    let request = raw_post(&format!("/{SECRET}"), text_push("413", text).to_string().as_bytes());
    let port = world.bridge.callback_port();
    async move {
        let began = Instant::now();
        let answer = tokio::time::timeout(DEADLINE, async {
            let mut stream = source.connect(port).await.expect("a connection");
            exchange(&mut stream, &request, b"{\"code\":0}").await
        })
        .await;
        let took = began.elapsed();
        let answer = answer.unwrap_or_else(|_| panic!("{caller}: a push was not answered in {DEADLINE:?}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{caller}: {answer}");
        took
    }
}

/// Makes pushes until half of those of one round were answered in iLink's patience: a busy machine may be slower for a while,
/// whatever the attackers do, but not every time. Gives the round, and how long each of its pushes took, sorted.
async fn in_time(what: &str, mut round: impl AsyncFnMut(usize) -> Vec<Duration>) -> (usize, Vec<Duration>) {
    let mut medians = Vec::new();
    for number in 0..5 {
        let mut took = round(number).await;
        took.sort();
        let median = took[took.len() / 2];
        if median < PATIENCE {
            return (number, took);
        }
        medians.push(median);
    }
    panic!("{what}: half of the pushes took longer than {medians:?}");
}

/// The bridge still takes a push and delivers it.
async fn still_works(world: &World) {
    // The same text twice would be iLink's second try.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let text = format!("still here {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    push_from(world, Caller::ILINK, &text).await;
    world.client.expect_text("ilink/recv/user/413/text", &text).await;
}

/// How often the bridge refused for this reason, by its own count.
pub(super) async fn rejected(world: &World, reason: &str) -> u64 {
    let status = world.bridge.verb(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let reasons = status.stdout.lines().find_map(|line| line.strip_prefix("turned away")).unwrap_or_default();
    let counts = reasons.split(',').filter_map(|count| count.trim().split_once(' '));
    let mut counts = counts.filter(|(name, _)| *name == reason);
    counts.next().map_or(0, |(_, count)| count.parse().expect("a number"))
}
