//! Pushes: answered 0 means delivered, once, whole, in order.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Copied, Rule, Seen, Verdict};
use crate::labels;
use crate::load;
use crate::records::{Place, Push, SECOND, Try};

/// `inbound.raw_max_age`, the default.
const RAW_MAX_AGE: u64 = 300 * SECOND;

pub(super) fn account(seen: &Seen<'_>, copied: &Copied<'_>, verdict: &mut Verdict) {
    let pushes = &seen.records.pushes;
    let promised: Vec<&Push> = pushes.iter().filter(|push| push.is_promised()).collect();
    verdict.total("pushes sent", pushes.len());
    verdict.total("tries of them", pushes.iter().map(|push| push.tries.len()).sum());
    verdict.total("pushes answered 0", promised.len());
    let unanswered = |push: &&Push| push.tries.iter().all(|made| made.answer.is_none());
    verdict.total("pushes never answered", pushes.iter().filter(unanswered).count());
    for push in pushes {
        // A push of ours is well-formed: it is taken, or cannot be stored now and gets no answer.
        if push.tries.iter().any(|made| !matches!(made.answer, None | Some((200, Some(0))))) {
            verdict.add(Rule::Refused, seen.history(&push.label));
        }
    }
    let identical: Vec<&Push> = pushes.iter().filter(|push| push.lane == load::IDENTICAL).collect();
    let mut late = 0;
    for push in promised.iter().filter(|push| push.lane != load::IDENTICAL) {
        late += usize::from(delivered(seen, push, verdict));
    }
    verdict.total("promised pushes that became late (event only)", late);
    let mut across = 0;
    for push in pushes.iter().filter(|push| push.lane != load::IDENTICAL) {
        let ids = event_ids(seen, &push.label).len();
        across += usize::from(ids > 1 && moves(push) > 0);
        if ids > 1 + reasons(seen, push) {
            verdict.add(Rule::DuplicatePush, seen.history(&push.label));
        }
    }
    verdict.total("pushes tried at two members and stored twice", across);
    same_bytes(seen, &identical, verdict);
    order(seen, &promised, copied, verdict);
    let events = seen.records.publishes.iter().filter(|publish| publish.place == Place::Event && publish.is_taken());
    let ids: HashSet<&str> = events.map(|publish| publish.id.as_str()).collect();
    let gone = ids.iter().filter(|id| !seen.records.received.contains(**id)).count();
    verdict.total("events PUBACKed by the broker", ids.len());
    verdict.total("… which a subscriber never got (lost by the broker)", gone);
}

/// Tries that were not answered as their sender saw it, though the bridge may have answered, or may have been about to when it was
/// killed, or may store them late because it stood still or did not reach etcd: the next one may be a new message.
fn reasons(seen: &Seen<'_>, push: &Push) -> usize {
    let may_be_answered = |made: &&Try| {
        made.answer.is_none()
            && (made.may_be_answered || seen.was_killed(made) || seen.stood_still(made.at, made.ended))
    };
    push.tries.iter().filter(may_be_answered).count()
}

/// In a cluster: how often the push of this label may have been stored once more, as a copy of the same id, because nobody could
/// tell whether an earlier try was answered: its member was killed, or something stood still. Copies come behind what was sent
/// meanwhile.
pub(super) fn copies(seen: &Seen<'_>, label: &str) -> usize {
    let pushes = seen.records.pushes.iter().filter(|push| push.label == label);
    pushes.map(|push| may_be_copied(seen, push)).sum()
}

fn may_be_copied(seen: &Seen<'_>, push: &Push) -> usize {
    // Right after its answer a member has not yet told that it answered.
    let until_told = |made: &Try| Try { ended: made.ended + SECOND, ..made.clone() };
    let is_unclear = |made: &Try| {
        let made = until_told(made);
        seen.was_killed(&made) || seen.stood_still(made.at, made.ended)
    };
    // Of a push of its own bytes, only what was not answered comes again.
    let again = |made: &&Try| push.lane == load::IDENTICAL || made.answer.is_none();
    if seen.records.is_cluster { push.tries.iter().filter(again).filter(|made| is_unclear(made)).count() } else { 0 }
}

/// How often it was tried again at another member.
fn moves(push: &Push) -> usize {
    push.tries.windows(2).filter(|tries| tries[0].member != tries[1].member).count()
}

fn event_ids<'a>(seen: &Seen<'a>, label: &str) -> HashSet<&'a str> {
    let events = seen.of(label).iter().filter(|publish| publish.place == Place::Event && publish.is_taken());
    events.map(|publish| publish.id.as_str()).collect()
}

/// A promised push has its event, and its raw copy unless it was late; whether it was.
fn delivered(seen: &Seen<'_>, push: &Push, verdict: &mut Verdict) -> bool {
    let publishes = seen.of(&push.label);
    let taken = |place: Place| publishes.iter().find(|publish| publish.place == place && publish.is_taken());
    if seen.is_spooled(&push.label) {
        return false;
    }
    let Some(event) = taken(Place::Event) else {
        verdict.add(Rule::LostPush, seen.history(&push.label));
        return false;
    };
    if push.lane == load::PRESENCE || taken(Place::Recv).is_some() {
        return false;
    }
    let late = publishes.iter().find(|publish| publish.late && publish.is_taken());
    let accepted = push.tries.first().map_or(0, |made| made.at);
    // Its age is measured by the boot-time clock, and across a restart by the wall clock, which may have been set.
    let may_be_late = |at| at > accepted + RAW_MAX_AGE || seen.clock_went_forward(accepted, at);
    if late.is_some_and(|late| may_be_late(late.at)) {
        return true;
    }
    verdict.add(Rule::LostCopy, format!("{} (event {})", seen.history(&push.label), event.id));
    false
}

/// Of identical pushes the number is what counts.
fn same_bytes(seen: &Seen<'_>, pushes: &[&Push], verdict: &mut Verdict) {
    let Some(first) = pushes.first() else { return };
    let promised = pushes.iter().filter(|push| push.is_promised()).count();
    let waiting = seen.records.spooled.iter().filter(|label| **label == first.label).count();
    let delivered = event_ids(seen, &first.label).len();
    // One that was given up may have been stored, and an answer that did not arrive makes the next try a new message.
    let may_be_more: usize = pushes.iter().map(|push| usize::from(!push.is_promised()) + reasons(seen, push)).sum();
    let events = seen.of(&first.label).iter().filter(|publish| publish.place == Place::Event && publish.is_taken());
    // The same bytes right behind one of which it is not clear whether it was answered are taken for it, and come under its id.
    // Where leaders follow each other, that looks like any message that comes again.
    let again = events.count() - delivered;
    let under_another = copies(seen, &first.label).min(again);
    verdict.total("identical pushes answered 0", promised);
    verdict.total("… and delivered", delivered);
    verdict.total("… and under the id of another", promised.saturating_sub(delivered + waiting));
    verdict.total("… ids that came more than once", again);
    if delivered + waiting + under_another < promised {
        verdict.add(Rule::LostPush, format!("{promised} identical pushes answered 0, {delivered} delivered"));
    }
    if delivered > promised + may_be_more {
        let what = format!("{promised} identical pushes answered 0, {delivered} delivered, {may_be_more} may be more");
        verdict.add(Rule::DuplicatePush, what);
    }
}

/// The last copies that the broker took are in the order in which the pushes of one sender were answered: what came out of turn,
/// because one before it was refused, came again behind that. What was stored a second time by another member follows whatever
/// was sent meanwhile.
fn order(seen: &Seen<'_>, promised: &[&Push], copied: &Copied<'_>, verdict: &mut Verdict) {
    let moved: HashSet<&str> = promised.iter().filter(|push| moves(push) > 0).map(|push| push.label.as_str()).collect();
    let mut first: HashMap<&str, &str> = HashMap::new();
    let mut positions: HashMap<(&str, Place), usize> = HashMap::new();
    for (position, publish) in seen.records.publishes.iter().enumerate().filter(|(_, publish)| publish.is_taken()) {
        let label = publish.label.as_str();
        let is_another = moved.contains(label) && *first.entry(label).or_insert(&publish.id) != publish.id;
        if is_another || copied.contains_key(label) {
            continue;
        }
        positions.insert((publish.label.as_str(), publish.place), position);
    }
    for place in [Place::Event, Place::Recv] {
        let mut last: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
        for push in promised.iter().filter(|push| labels::number(&push.label).is_some()) {
            let Some(position) = positions.get(&(push.label.as_str(), place)) else { continue };
            let last = last.entry(push.lane).or_insert((0, ""));
            if push.lane != load::IDENTICAL && *position < last.0 {
                verdict.add(Rule::ReorderedPush, format!("after {}: {}", last.1, seen.history(&push.label)));
            }
            *last = (last.0.max(*position), &push.label);
        }
    }
}
