//! What the integration tests share: the real broker, the real binary, clients.

// Each walkthrough uses its own part of this.
#![allow(dead_code, reason = "a helper used by one walkthrough only today is still a helper")]

pub(crate) mod bridge;
pub(crate) mod client;
pub(crate) mod deserted;
pub(crate) mod etcd;
pub(crate) mod http;
pub(crate) mod messages;
pub(crate) mod mosquitto;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod reacting_broker;
pub(crate) mod schema;
pub(crate) mod scripted_broker;
pub(crate) mod scripted_cloud;
pub(crate) mod sim;

use std::time::Duration;

/// How long a test waits for something that must happen, on a two-core machine with a slow disk and much else to do: there
/// the start of a bridge alone was seen to take half a minute.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// What a failed test shows of one of its processes: the last lines, so that its panic stays in sight.
fn show_end(name: &str, log: &str) {
    const LINES: usize = 40;
    let lines: Vec<_> = log.lines().collect();
    let left_out = lines.len().saturating_sub(LINES);
    eprintln!("--- {name}: {left_out} lines, and then ---\n{}", lines[left_out..].join("\n"));
}

/// Looks again and again until `look` finds what the test waits for; panics with `what` when it does not come.
///
/// For conditions outside the process, that nothing tells of.
#[track_caller]
pub(crate) fn eventually<T, F>(what: &str, look: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Option<T>,
{
    within(DEADLINE, what, look)
}

/// When to look again. A look that takes long is followed by a pause, too: others need the machine.
pub(crate) fn pace() -> tokio::time::Interval {
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pace
}

/// [`eventually`] with a deadline of its own.
#[track_caller]
pub(crate) fn within<T, F>(limit: Duration, what: &str, mut look: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let caller = std::panic::Location::caller();
    async move {
        let looking = async {
            let mut pace = pace();
            loop {
                pace.tick().await;
                if let Some(found) = look().await {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(limit, looking).await;
        found.unwrap_or_else(|_| panic!("{caller}: waited {limit:?} for {what}"))
    }
}
