//! How long it took until another member did what a leader does, after one was made to go; and how pushes fared meanwhile.

use std::fmt::Write as _;
use std::time::Duration;

use crate::records::{Loss, Place, Records, SECOND, Time, seconds};

/// Of each way to go, the longest time until another acts that is meant: beyond `cluster.takeover`, if it counts.
const GOALS: [(&str, bool, Time); 3] =
    [("SIGKILL", true, 4 * SECOND), ("SIGTERM", false, 2 * SECOND), ("step-down", false, 2 * SECOND)];

/// Times of one way to go.
#[derive(Default)]
struct Times {
    /// Until another member had published a push and made a call.
    until_back: Vec<Time>,
    /// From a push's first try to its answer, meanwhile.
    answered: Vec<Time>,
    unanswered: usize,
}

/// For the report.
pub(crate) fn text(records: &Records, takeover: Duration) -> String {
    let takeover = Time::try_from(takeover.as_micros()).unwrap_or(Time::MAX);
    let mut text = String::from("\n## From one leader to the next\n\n");
    text.push_str(
        "From the signal, or the start of `step-down`, to the first push published and the first command executed by ",
    );
    text.push_str("another member; pushes that were sent meanwhile.\n\n");
    text.push_str("| how it ended | count | median | worst | goal | beyond it | pushes meanwhile | answered within (median) | worst | unanswered |\n");
    text.push_str("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|\n");
    for (how, waits, goal) in GOALS {
        let mut times = times(records, how);
        let (count, pushes) = (times.until_back.len(), times.answered.len() + times.unanswered);
        let goal = if waits { takeover + goal } else { goal };
        let beyond = times.until_back.iter().filter(|time| **time > goal).count();
        let goal = seconds(goal);
        let [median, worst] = ends(&mut times.until_back);
        let [answered, slowest] = ends(&mut times.answered);
        let unanswered = times.unanswered;
        let _ = writeln!(
            text,
            "| {how} | {count} | {median} | {worst} | {goal} s | {beyond} | {pushes} | {answered} | {slowest} | {unanswered} |"
        );
    }
    let count = |path: &str| records.calls.iter().filter(|call| call.path == path).count();
    let (tokens, registrations) = (count("get_access_token"), count("set_config"));
    let _ = writeln!(
        text,
        "\nCalls of `get_access_token` in all: {tokens}; of `set_config`, most of them queries: {registrations}."
    );
    text
}

/// Median and worst, for people.
fn ends(times: &mut [Time]) -> [String; 2] {
    times.sort_unstable();
    let of = |time: Option<&Time>| time.map_or_else(|| "–".to_owned(), |time| format!("{:.2} s", seconds(*time)));
    [of(times.get(times.len() / 2)), of(times.last())]
}

fn times(records: &Records, how: &str) -> Times {
    let mut times = Times::default();
    for loss in records.losses.iter().filter(|loss| loss.how == how) {
        let Some(back) = back(records, loss) else { continue };
        times.until_back.push(back - loss.at);
        for push in &records.pushes {
            let Some(first) = push.tries.first().filter(|first| first.at >= loss.at && first.at < back) else {
                continue;
            };
            match push.tries.last().filter(|last| last.answer.is_some()) {
                Some(last) => times.answered.push(last.ended - first.at),
                None => times.unanswered += 1,
            }
        }
    }
    times
}

/// When another member had done both.
fn back(records: &Records, loss: &Loss) -> Option<Time> {
    let by_another = |member: usize, at: Time| member != loss.member && at > loss.at;
    let published = records.publishes.iter().find(|publish| {
        publish.place == Place::Event && by_another(records.connections[publish.connection].member, publish.at)
    });
    let called = records.calls.iter().find(|call| !call.label.is_empty() && by_another(call.member, call.at));
    Some(published?.at.max(called?.at))
}
