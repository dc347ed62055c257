//! Leaders: one after the other. None does anything once its successor has begun.

use super::{Rule, Seen, Verdict};
use crate::cluster::NAMES;
use crate::records::{Time, seconds};

/// Something that only a leader does.
struct Act<'a> {
    life: usize,
    at: Time,
    what: &'a str,
    label: &'a str,
    /// Of a call: until when it was under way.
    until: Time,
}

pub(super) fn account(seen: &Seen<'_>, verdict: &mut Verdict) {
    let acts = acts(seen);
    let successors = successors(seen, &acts);
    for act in &acts {
        let Some((successor, began)) = successors[act.life] else { continue };
        let name = |member: usize| NAMES[member];
        let told = |verb: &str| {
            let (by, next) = (seen.records.lives[act.life].member, seen.records.lives[successor].member);
            let Act { at, what, label, .. } = act;
            format!(
                "{} {verb} {what} {label} at {:.3} s; {} began at {:.3} s",
                name(by),
                seconds(*at),
                name(next),
                seconds(began)
            )
        };
        if act.at > began {
            verdict.add(Rule::TwoLed, format!("{}\n{}", told("did"), seen.history(act.label)));
        } else if act.until > began {
            verdict.under_way.push(told("had under way"));
        }
    }
}

fn acts<'a>(seen: &Seen<'a>) -> Vec<Act<'a>> {
    let records = seen.records;
    let calls = records.calls.iter().map(|call| {
        let answered = call.answer.and_then(|answer| answer.handed_on);
        let (life, until) = (seen.life_of(call.member, call.at), answered.unwrap_or(Time::MAX));
        Act { life, at: call.at, what: &call.path, label: &call.label, until }
    });
    let publishes = records.publishes.iter().map(|publish| {
        let life = seen.life_of_connection(publish.connection, publish.at);
        Act { life, at: publish.at, what: &publish.topic, label: &publish.label, until: publish.at }
    });
    calls.chain(publishes).collect()
}

/// For each life, the one of another member that was first to act of all that came after it, and when.
fn successors(seen: &Seen<'_>, acts: &[Act<'_>]) -> Vec<Option<(usize, Time)>> {
    let lives = &seen.records.lives;
    let mut first = vec![Time::MAX; lives.len()];
    for act in acts {
        first[act.life] = first[act.life].min(act.at);
    }
    let successor = |life: usize| {
        let others = (life + 1..lives.len()).filter(|later| lives[*later].member != lives[life].member);
        others.map(|later| (later, first[later])).min_by_key(|(_, at)| *at).filter(|(_, at)| *at < Time::MAX)
    };
    (0..lives.len()).map(successor).collect()
}
