//! Commands: acknowledged means one result, and the result is what happened at iLink.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{GRACE, Rule, Seen, Verdict};
use crate::labels;
use crate::load;
use crate::records::{Call, Command, Delivery, Outcome, Place, SECOND, Time};
use crate::world::API_TIMEOUT;

/// `outbound.ambiguous_tries`.
const AMBIGUOUS_TRIES: usize = 3;

/// Everything about one command.
struct Case<'a> {
    label: &'a str,
    lane: usize,
    deliveries: Vec<&'a Delivery>,
    calls: Vec<&'a Call>,
    /// The ids of its results, with what each says and when it first said it.
    results: BTreeMap<&'a str, (&'a Outcome, Time)>,
    /// It may have been taken so often: a redelivery that cannot be known as one is a new command.
    stored_at_most: usize,
}

pub(super) fn account(seen: &Seen<'_>, verdict: &mut Verdict) {
    let cases = cases(seen);
    let commands = &seen.records.commands;
    verdict.total("commands sent", commands.len());
    verdict.total("commands PUBACKed by the broker", commands.iter().filter(|command| command.taken).count());
    let acked = |case: &&Case<'_>| case.deliveries.iter().any(|delivery| delivery.acked.is_some());
    verdict.total("commands PUBACKed by the bridge", cases.values().filter(acked).count());
    let calls = seen.records.calls.iter().filter(|call| !call.label.is_empty());
    verdict.total("calls made for them", calls.count());
    let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut undelivered, mut unfinished, mut recalled) = (0, 0, 0);
    for command in commands {
        let Some(case) = cases.get(command.label.as_str()) else {
            undelivered += usize::from(command.taken);
            never_delivered(seen, command, verdict);
            continue;
        };
        for (outcome, _) in case.results.values() {
            *statuses.entry(outcome.status.as_str()).or_default() += 1;
        }
        promised(seen, case, verdict);
        let acked = case.deliveries.iter().any(|delivery| delivery.acked.is_some());
        if command.taken && !acked && case.results.is_empty() {
            unfinished += 1;
            never_delivered(seen, command, verdict);
        }
        recalled += repeated_calls(seen, case, verdict);
        for (outcome, at) in case.results.values() {
            if let Some(wrong) = wrong(seen, case, outcome, *at) {
                verdict.add(Rule::WrongResult, format!("{wrong}: {}", seen.history(case.label)));
            }
        }
    }
    for (status, name) in [
        ("ok", "results: ok"),
        ("error", "results: error"),
        ("expired", "results: expired"),
        ("uncertain", "results: uncertain"),
        ("rejected", "results: rejected"),
    ] {
        verdict.total(name, statuses.get(status).copied().unwrap_or(0));
    }
    let refused = |case: &&Case<'_>| {
        case.lane != load::BAD && case.results.values().any(|(outcome, _)| outcome.status == "rejected")
    };
    let refused = cases.values().filter(refused).count();
    verdict.total("… of these refused because etcd took nothing for so long", refused);
    verdict.total("calls repeated (no answer had come)", recalled);
    verdict.total("commands that the broker took and never delivered (lost by the broker)", undelivered);
    verdict.total("… or delivered, and not again before the bridge could take it", unfinished);
    order(seen, &cases, verdict);
}

fn cases<'a>(seen: &Seen<'a>) -> HashMap<&'a str, Case<'a>> {
    let mut cases: HashMap<&str, Case<'a>> = HashMap::new();
    for delivery in &seen.records.deliveries {
        let label = delivery.label.as_str();
        let new = || {
            let lane = labels::number(label).map_or(usize::MAX, |(lane, _)| lane);
            let results = results(seen, label);
            Case { label, lane, deliveries: Vec::new(), calls: Vec::new(), results, stored_at_most: 0 }
        };
        cases.entry(label).or_insert_with(new).deliveries.push(delivery);
    }
    for call in &seen.records.calls {
        if let Some(case) = cases.get_mut(call.label.as_str()) {
            case.calls.push(call);
        }
    }
    for case in cases.values_mut() {
        case.stored_at_most = stored_at_most(seen, case);
    }
    cases
}

fn results<'a>(seen: &Seen<'a>, label: &str) -> BTreeMap<&'a str, (&'a Outcome, Time)> {
    let mut results = BTreeMap::new();
    for publish in seen.of(label).iter().filter(|publish| matches!(publish.place, Place::Result | Place::Reply)) {
        if let Some(outcome) = &publish.result {
            results.entry(publish.id.as_str()).or_insert((outcome, publish.at));
        }
    }
    results
}

/// The broker may deliver again; only with DUP, in the same session and under the same packet id can it be told.
fn stored_at_most(seen: &Seen<'_>, case: &Case<'_>) -> usize {
    let same_session = |from: usize, to: usize| {
        seen.records.connections[from + 1..=to].iter().all(|connection| connection.session_present != Some(false))
    };
    let is_known = |at: usize, delivery: &&Delivery| {
        delivery.dup
            && case.deliveries[..at]
                .iter()
                .any(|earlier| earlier.pkid == delivery.pkid && same_session(earlier.connection, delivery.connection))
    };
    let known = case.deliveries.iter().enumerate().filter(|(at, delivery)| is_known(*at, delivery)).count();
    // A refused command is not stored, so that another run of the bridge does not know it again.
    let lives: HashSet<usize> =
        case.deliveries.iter().map(|delivery| seen.life_of_connection(delivery.connection, delivery.at)).collect();
    let refused = if case.lane == load::BAD { lives.len() } else { 0 };
    (case.deliveries.len() - known).max(refused)
}

/// It was acknowledged: its result has been, or it waits.
fn promised(seen: &Seen<'_>, case: &Case<'_>, verdict: &mut Verdict) {
    let taken = |publish: &&&crate::records::Publish| {
        matches!(publish.place, Place::Result | Place::Reply) && publish.is_taken()
    };
    let has_result = seen.of(case.label).iter().any(|publish| taken(&publish));
    let acked = case.deliveries.iter().any(|delivery| delivery.acked.is_some());
    if acked && !has_result && !seen.is_spooled(case.label) {
        verdict.add(Rule::LostCommand, seen.history(case.label));
    }
    if case.results.len() > case.stored_at_most {
        verdict.add(Rule::SecondResult, seen.history(case.label));
    }
}

fn never_delivered(seen: &Seen<'_>, command: &Command, verdict: &mut Verdict) {
    let lost_by_broker = seen.records.broker_losses.iter().any(|at| *at + GRACE >= command.sent);
    if command.taken && !lost_by_broker {
        verdict.add(Rule::LostCommand, format!("never delivered by the broker: {}", seen.history(&command.label)));
    }
}

/// iLink has executed it, as far as its answer says.
fn executed(call: &Call) -> bool {
    call.answer.is_some_and(|answer| answer.code == 0)
}

/// The bridge knows what became of the call, and had the time to note it.
fn is_known(seen: &Seen<'_>, call: &Call) -> bool {
    let limit = u64::try_from(API_TIMEOUT.as_micros()).unwrap_or(u64::MAX);
    let answered = call.answer.and_then(|answer| answer.handed_on);
    // On a busy machine the bridge's own time-out may come sooner than the proxy's clock says.
    answered.is_some_and(|at| at.saturating_sub(call.at) < limit / 2 && seen.could_note(call.member, call.at, at))
}

/// An executed call is repeated only if the bridge could not know; one that must not be repeated never is. How many were.
fn repeated_calls(seen: &Seen<'_>, case: &Case<'_>, verdict: &mut Verdict) -> usize {
    let mut repeated = 0;
    if case.lane == load::CREATE {
        let may_be_executed = |call: &&&Call| call.answer.is_none_or(|answer| matches!(answer.code, 0 | 1017 | -1));
        let made = case.calls.iter().filter(may_be_executed).count();
        if made > case.stored_at_most {
            verdict.add(Rule::DuplicateCall, seen.history(case.label));
        }
        return made.saturating_sub(1);
    }
    for (at, call) in case.calls.iter().enumerate().filter(|(_, call)| executed(call)) {
        let later = case.calls.len() - at - 1;
        repeated += later.min(1);
        if later >= case.stored_at_most && is_known(seen, call) {
            verdict.add(Rule::DuplicateCall, seen.history(case.label));
        }
    }
    repeated
}

/// What is wrong about a result, if anything.
fn wrong(seen: &Seen<'_>, case: &Case<'_>, outcome: &Outcome, at: Time) -> Option<&'static str> {
    let began = case.deliveries.first().map_or(0, |delivery| delivery.at);
    // As with a full spool.
    if outcome.status == "rejected" && case.calls.is_empty() && seen.stood_still(began, at) {
        return None;
    }
    if (outcome.status == "rejected") != (case.lane == load::BAD) {
        return Some("rejected, or not, though it should be the other way");
    }
    if case.lane == load::BAD {
        return (!case.calls.is_empty()).then_some("rejected and called");
    }
    if case.lane == load::STATES {
        return None;
    }
    // With more than one of them under one label, each result has its own calls.
    let single = case.stored_at_most == 1;
    let known_success = case.calls.iter().any(|call| executed(call) && is_known(seen, call));
    let unanswered = case.calls.iter().any(|call| !is_known(seen, call) || matches!(code(call), Some(1017 | -1)));
    match outcome.status.as_str() {
        "ok" if !case.calls.iter().any(|call| executed(call)) => Some("ok without a call that succeeded"),
        "error" if !case.calls.iter().any(|call| code(call) == outcome.code) => Some("a code that iLink never gave"),
        "error" | "expired" | "uncertain" if single && known_success => Some("not ok, though iLink said so"),
        "expired" if !may_expire(seen, case, began, at) => Some("expired before its time"),
        "uncertain"
            if case.lane != load::CREATE && !may_expire(seen, case, began, at) && !tried_out(seen, case, began, at) =>
        {
            Some("uncertain too early")
        }
        "uncertain" if !unanswered && !disturbed(seen, began, at) => Some("uncertain though every call was answered"),
        "ok" | "error" | "expired" | "uncertain" => None,
        _ => Some("no such status"),
    }
}

fn code(call: &Call) -> Option<i64> {
    call.answer.map(|answer| answer.code)
}

fn may_expire(seen: &Seen<'_>, case: &Case<'_>, began: Time, at: Time) -> bool {
    let ttl = if case.lane == load::SHORT { load::SHORT_TTL_S } else { 300 };
    // Whole seconds of it may have been spent in the broker.
    at + SECOND > began + ttl * SECOND || seen.clock_went_forward(began, at)
}

/// What may have been executed was tried as often as it may be; a try that a cut or a kill kept from us counts as well.
fn tried_out(seen: &Seen<'_>, case: &Case<'_>, began: Time, at: Time) -> bool {
    let ambiguous = |call: &&&Call| !is_known(seen, call) || matches!(code(call), Some(1017 | -1));
    case.calls.iter().filter(ambiguous).count() >= AMBIGUOUS_TRIES || disturbed(seen, began, at)
}

/// A request may have been cut before it was whole, or its process ended.
fn disturbed(seen: &Seen<'_>, from: Time, to: Time) -> bool {
    let troubles = &seen.records.api_troubles;
    seen.ended_between(from, to) || troubles.iter().any(|(began, ended)| ended + 10 * SECOND >= from && *began <= to)
}

/// Commands to one receiver go out in the order in which they were stored: if one was acknowledged before another was first
/// delivered, its first call is the earlier one.
fn order(seen: &Seen<'_>, cases: &HashMap<&str, Case<'_>>, verdict: &mut Verdict) {
    let mut lanes: BTreeMap<usize, Vec<(Time, Time, Time, &str)>> = BTreeMap::new();
    for case in cases.values() {
        let Some(call) = case.calls.first() else { continue };
        let acked = case.deliveries.iter().filter_map(|delivery| delivery.acked).min();
        let delivered = case.deliveries.iter().map(|delivery| delivery.at).min();
        let (acked, delivered) = (acked.unwrap_or(Time::MAX), delivered.unwrap_or(0));
        lanes.entry(case.lane).or_default().push((delivered, acked, call.at, case.label));
    }
    for cases in lanes.values_mut() {
        let mut by_ack: Vec<_> = cases.clone();
        by_ack.sort_by_key(|case| case.1);
        cases.sort_unstable();
        let (mut next, mut latest) = (0, (0, ""));
        for (delivered, _, called, label) in cases.iter() {
            while let Some(earlier) = by_ack.get(next).filter(|earlier| earlier.1 < *delivered) {
                latest = latest.max((earlier.2, earlier.3));
                next += 1;
            }
            if latest.0 > *called {
                let what = format!("before {}: {}", seen.history(latest.1), seen.history(label));
                verdict.add(Rule::ReorderedCommand, what);
            }
        }
    }
}
