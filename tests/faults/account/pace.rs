//! Attempts per minute: nothing is tried again and again at full speed, whatever fails.

use std::collections::{BTreeMap, HashMap};

use super::{Rule, Verdict};
use crate::records::{Records, SECOND, Time, seconds};

const MINUTE: Time = 60 * SECOND;

/// The link waits 0.5 s, doubling to 30 s, and begins anew after 10 s of a standing connection: at most six failures in a
/// row every 10 s. Besides, each fault of the schedule may end one connection that stood.
const CONNECTIONS: u64 = 36;
/// The session waits 1 s, doubling to 60 s, and longer where iLink asks for it; what it lost is asked for once more at once.
/// A minute holds six failures of each of them, and as many losses by new faults.
const SESSION: u64 = 15;
/// A command waits likewise; a session that had to be renewed repeats a call once at once.
const COMMAND: u64 = 14;

pub(super) fn account(records: &Records, verdict: &mut Verdict) {
    let opened = records.connections.iter().map(|connection| connection.opened);
    limit(records, "connections to the broker", CONNECTIONS, opened, verdict);
    let mut paths: BTreeMap<&str, Vec<Time>> = BTreeMap::new();
    let mut labels: HashMap<&str, Vec<Time>> = HashMap::new();
    for call in &records.calls {
        if call.label.is_empty() {
            paths.entry(call.path.as_str()).or_default().push(call.at);
        } else {
            labels.entry(call.label.as_str()).or_default().push(call.at);
        }
    }
    for (path, times) in paths {
        // Calls of the load that have no label of their own are as many as the load has.
        let most = if matches!(path, "set_config" | "get_access_token") { SESSION } else { u64::MAX };
        limit(records, &format!("calls of {path} that bear no number"), most, times.into_iter(), verdict);
    }
    let mut worst = (0, Vec::new());
    for times in labels.into_values() {
        let most = in_a_minute(records, times.iter().copied()).0;
        if most > worst.0 {
            worst = (most, times);
        }
    }
    limit(records, "calls for one command", COMMAND, worst.1.into_iter(), verdict);
}

fn limit(records: &Records, what: &str, most: u64, times: impl Iterator<Item = Time>, verdict: &mut Verdict) {
    let (count, at) = in_a_minute(records, times);
    if count > most {
        verdict.add(Rule::TooFast, format!("{what}: {count} within the minute before {:.3} s", seconds(at)));
    }
    verdict.pace.insert(what.to_owned(), (count, most));
}

/// The most within a minute of one run of the process (its waits are its own), and when that minute ended.
fn in_a_minute(records: &Records, times: impl Iterator<Item = Time>) -> (u64, Time) {
    let mut recent = std::collections::VecDeque::new();
    let (mut life, mut worst) = (0, (0, 0));
    for at in times {
        while records.lives.get(life + 1).is_some_and(|next| next.started <= at) {
            life += 1;
            recent.clear();
        }
        recent.push_back(at);
        while recent.front().is_some_and(|first| first + MINUTE < at) {
            recent.pop_front();
        }
        worst = worst.max((recent.len() as u64, at));
    }
    worst
}
