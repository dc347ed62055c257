//! The accounting: from what was recorded to a verdict. Pure, so that fabricated losses can show that it finds them.
//!
//! What is demanded is the contract's: answered 0 or acknowledged means delivered (or still in the spool), a result means what it
//! says, order is kept for each sender and receiver, and a repetition needs a reason. Judged is the bridge: what the broker
//! acknowledged to it, the broker has; what a killed broker then loses is counted apart.

mod commands;
mod leaders;
mod pace;
mod pushes;
mod self_check;

use std::collections::{BTreeMap, HashMap};

use crate::labels;
use crate::load;
use crate::records::{Life, Publish, Records, SECOND, Time, Try, seconds};

pub(crate) use self_check::self_check;

/// An acknowledgement needs so long to be read and committed, at most, on a busy machine: a repetition after a crash or a
/// reconnect that came sooner after it is as if it had not come.
const GRACE: Time = 3 * SECOND;

/// What is never allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    LostPush,
    LostCommand,
    LostCopy,
    DuplicatePush,
    DuplicatePublish,
    DuplicateCall,
    SecondResult,
    WrongResult,
    ReorderedPush,
    ReorderedCommand,
    Refused,
    TooFast,
    TwoLed,
    Incident,
}

impl Rule {
    pub(crate) const ALL: [(Self, &'static str); 14] = [
        (Self::LostPush, "push answered 0 and lost"),
        (Self::LostCommand, "command PUBACKed and lost (no result)"),
        (Self::LostCopy, "one copy of a push lost"),
        (Self::DuplicatePush, "one push stored twice without a reason"),
        (Self::DuplicatePublish, "published again without a reason"),
        (Self::DuplicateCall, "iLink called again without a reason"),
        (Self::SecondResult, "another result (another id) for one command"),
        (Self::WrongResult, "wrong result"),
        (Self::ReorderedPush, "pushes of one sender out of order"),
        (Self::ReorderedCommand, "commands to one receiver out of order"),
        (Self::Refused, "push refused without a reason"),
        (Self::TooFast, "endless fast retry"),
        (Self::TwoLed, "a leader acted after its successor had begun"),
        (Self::Incident, "the run itself: unasked end, not ready, not drained"),
    ];
}

/// One of them, with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Totals, in the order of the report.
    pub(crate) totals: Vec<(&'static str, u64)>,
    /// Highest counts in one minute.
    pub(crate) pace: BTreeMap<String, (u64, u64)>,
    /// Calls that a leader had under way when its successor began.
    pub(crate) under_way: Vec<String>,
}

impl Verdict {
    fn add(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    fn total(&mut self, name: &'static str, count: usize) {
        self.totals.push((name, count as u64));
    }

    pub(crate) fn count(&self, rule: Rule) -> usize {
        self.violations.iter().filter(|violation| violation.rule == rule).count()
    }
}

/// Accounts for everything.
pub(crate) fn account(records: &Records) -> Verdict {
    let mut verdict = Verdict::default();
    let seen = Seen::new(records);
    let copied = republished(&seen, &mut verdict);
    pushes::account(&seen, &copied, &mut verdict);
    commands::account(&seen, &mut verdict);
    leaders::account(&seen, &mut verdict);
    pace::account(records, &mut verdict);
    for incident in &records.incidents {
        verdict.add(Rule::Incident, incident.clone());
    }
    verdict
}

/// The records by label and id.
struct Seen<'a> {
    records: &'a Records,
    /// Labels by id.
    labels: HashMap<&'a str, &'a str>,
    publishes: HashMap<&'a str, Vec<&'a Publish>>,
}

impl<'a> Seen<'a> {
    fn new(records: &'a Records) -> Self {
        let labelled = records.publishes.iter().filter(|publish| !publish.label.is_empty());
        let labels: HashMap<&str, &str> =
            labelled.map(|publish| (publish.id.as_str(), publish.label.as_str())).collect();
        let mut seen = Self { records, labels, publishes: HashMap::new() };
        for publish in &records.publishes {
            let label = seen.label_of(publish);
            if !label.is_empty() {
                seen.publishes.entry(label).or_default().push(publish);
            }
        }
        seen
    }

    /// Its own; a result's copy, which bears none, has that of another with its id.
    fn label_of(&self, publish: &'a Publish) -> &'a str {
        let of_id = || self.labels.get(publish.id.as_str()).copied().unwrap_or_default();
        Some(publish.label.as_str()).filter(|label| !label.is_empty()).unwrap_or_else(of_id)
    }

    fn of(&self, label: &str) -> &[&'a Publish] {
        self.publishes.get(label).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_spooled(&self, label: &str) -> bool {
        self.records.spooled.iter().any(|spooled| spooled == label)
    }

    /// Had the run of this member's process that asked at `asked` the time to note what it was told at `told`?
    fn could_note(&self, member: usize, asked: Time, told: Time) -> bool {
        let life = self.records.lives.get(self.life_of(member, asked));
        life.and_then(Life::noted_until).is_none_or(|end| end > self.noted_by(told))
    }

    /// By when what was told at `at` is noted at the latest: after the grace, not counting what the machine stood still.
    fn noted_by(&self, at: Time) -> Time {
        let mut by = at + GRACE;
        for (began, ended) in &self.records.hiccups {
            if *began <= by && *ended > at {
                by += ended - at.max(*began);
            }
        }
        by
    }

    /// In a cluster: while this try was at its member.
    fn was_killed(&self, made: &Try) -> bool {
        let meanwhile = |(member, at): &(usize, Time)| *member == made.member && *at >= made.at && *at <= made.ended;
        self.records.kills.iter().any(meanwhile)
    }

    /// Something was done to the members or to etcd meanwhile that they could only wait for. In a cluster only: what one bridge
    /// stores late, it knows.
    fn stood_still(&self, from: Time, to: Time) -> bool {
        self.records.is_cluster && self.records.hiccups.iter().any(|(began, ended)| *began <= to && *ended >= from)
    }

    /// A run of the process, or a leadership, ended. That of a leadership is noticed late, but the next began after it.
    fn ended_between(&self, from: Time, to: Time) -> bool {
        let within = |at: Time| at >= from && at <= to;
        self.records.lives.iter().any(|life| life.ended.is_some_and(within) || within(life.started))
    }

    fn life_of(&self, member: usize, at: Time) -> usize {
        self.records.lives.iter().rposition(|life| life.member == member && life.started <= at).unwrap_or(0)
    }

    fn life_of_connection(&self, connection: usize, at: Time) -> usize {
        self.life_of(self.records.connections.get(connection).map_or(0, |connection| connection.member), at)
    }

    /// The clock, or the next leader's.
    fn clock_went_forward(&self, from: Time, to: Time) -> bool {
        let apart = self.records.clocks_apart.iter().any(|(began, ended)| *began <= to && *ended >= from);
        apart || self.records.clock_forward.iter().any(|at| *at >= from && *at <= to)
    }

    /// Everything about one label, in its order, for people.
    fn history(&self, label: &str) -> String {
        let mut lines = Vec::new();
        for push in self.records.pushes.iter().filter(|push| push.label == label).take(5) {
            for made in &push.tries {
                lines
                    .push((made.at, format!("pushed; {:?} after {:.3} s", made.answer, seconds(made.ended - made.at))));
            }
        }
        for command in self.records.commands.iter().filter(|command| command.label == label) {
            lines.push((command.sent, format!("sent to the broker, taken: {}", command.taken)));
        }
        for it in self.records.deliveries.iter().filter(|delivery| delivery.label == label) {
            let acked = it.acked.map(seconds);
            let what =
                format!("connection {}: delivered, id {}, dup {}, PUBACK {acked:?}", it.connection, it.pkid, it.dup);
            lines.push((it.at, what));
        }
        for call in self.records.calls.iter().filter(|call| call.label == label) {
            let passed = call.handed_on.map(seconds);
            lines.push((call.at, format!("called {}, handed on {passed:?}, answer {:?}", call.path, call.answer)));
        }
        for it in self.of(label) {
            let what = format!(
                "connection {}: published to {} id {} {:?} late {}, PUBACK {:?}",
                it.connection, it.topic, it.id, it.result, it.late, it.acked
            );
            lines.push((it.at, what));
        }
        let (first, last) = (lines.iter().map(|line| line.0).min(), lines.iter().map(|line| line.0).max());
        for fault in &self.records.faults {
            let from = first.unwrap_or(0).saturating_sub(2 * SECOND);
            if fault.ended.is_none_or(|ended| ended >= from) && last.is_some_and(|last| fault.began <= last) {
                lines.push((fault.began, fault.what.clone()));
            }
        }
        lines.sort();
        let line = |(at, what): &(Time, String)| format!("\n    {:.3} s {what}", seconds(*at));
        format!("{label}{}", lines.iter().map(line).collect::<String>())
    }
}

/// The pushes that were stored once more as copies, by label, and how often.
type Copied<'a> = HashMap<&'a str, usize>;

/// The same message published again needs a reason: it is a copy, or its acknowledgement did not come, or the process or the connection ended
/// before it could be noted.
fn republished<'a>(seen: &Seen<'a>, verdict: &mut Verdict) -> Copied<'a> {
    let mut by_id: HashMap<&str, Vec<&Publish>> = HashMap::new();
    for publish in seen.records.publishes.iter().filter(|publish| !publish.id.is_empty()) {
        by_id.entry(publish.id.as_str()).or_default().push(publish);
    }
    let mut repeated = 0;
    // In each run for itself: the next one publishes again what was not complete, and its copies with it.
    let mut unexplained: HashMap<(&str, &str, usize), usize> = HashMap::new();
    for publishes in by_id.values() {
        let mut last: HashMap<&str, &Publish> = HashMap::new();
        for publish in publishes {
            let Some(before) = last.insert(publish.topic.as_str(), publish) else { continue };
            repeated += 1;
            if !may_repeat(seen, publishes, before, publish) {
                let life = seen.life_of_connection(publish.connection, publish.at);
                *unexplained.entry((seen.label_of(publish), publish.topic.as_str(), life)).or_default() += 1;
            }
        }
    }
    let mut copied = Copied::new();
    for ((label, ..), times) in unexplained {
        if times > pushes::copies(seen, label) {
            verdict.add(Rule::DuplicatePublish, seen.history(label));
        } else {
            let most = copied.entry(label).or_default();
            *most = times.max(*most);
        }
    }
    verdict.total("publishes repeated (crash, reconnect)", repeated);
    verdict.total("pushes stored once more, under the same id", copied.values().sum());
    copied
}

/// What was refused for now is sent again, and so is all behind it, whatever had become of that: between the two copies one of
/// what comes before it was sent again. Results are in line by topic.
fn behind_another(seen: &Seen<'_>, before: &Publish, again: &Publish) -> bool {
    let of_push = |publish: &Publish| labels::number(&publish.label).filter(|_| publish.label.starts_with('p'));
    // Identical pushes have one number: which came first is told by when they were sent first.
    let numbered = |lane: usize| lane != load::IDENTICAL;
    let comes_first = |other: &Publish| match (of_push(other), of_push(again)) {
        (Some((lane, _)), Some((same, _))) if !numbered(lane) => lane == same && other.id != again.id,
        (Some((lane, number)), Some((same, later))) => lane == same && number < later,
        (None, None) => other.result.is_some() && other.topic == again.topic && other.id != again.id,
        _ => false,
    };
    // They were recorded in their order.
    let all = &seen.records.publishes;
    let at = |time: Time| all.partition_point(|publish| publish.at < time);
    let (earlier, between) = (&all[..at(before.at)], &all[at(before.at)..at(again.at)]);
    let sent_before = |other: &&Publish| {
        let same = |publish: &Publish| publish.id == other.id && publish.topic == other.topic;
        of_push(other).is_some_and(|(lane, _)| numbered(lane)) || earlier.iter().rev().any(same)
    };
    between.iter().filter(|other| comes_first(other)).any(|other| sent_before(&other))
}

fn may_repeat<'a>(seen: &Seen<'a>, all: &[&Publish], before: &Publish, again: &'a Publish) -> bool {
    let connection = &seen.records.connections[before.connection];
    let noted = |publish: &Publish, end: Time| {
        let reply = publish.acked.filter(|_| publish.is_taken());
        reply.and_then(|reply| reply.handed_on).is_some_and(|at| seen.noted_by(at) <= end)
    };
    // A late push says so on its event topic, where it may have been before.
    if again.late && !before.late {
        return true;
    }
    // A refused command is not stored: what the broker delivered again is refused again.
    let label = seen.label_of(again);
    let delivered = || seen.records.deliveries.iter().filter(|delivery| delivery.label == label).count();
    let is_rejected = |publish: &&Publish| publish.result.as_ref().is_some_and(|outcome| outcome.status == "rejected");
    if all.iter().any(is_rejected) && delivered() > 1 {
        return true;
    }
    // Also in another run: what is behind one that was refused is not done with before that is.
    if behind_another(seen, before, again) {
        return true;
    }
    let life_of = |publish: &Publish| seen.life_of_connection(publish.connection, publish.at);
    let life = life_of(before);
    if life == life_of(again) {
        return before.connection != again.connection && !noted(before, connection.closed.unwrap_or(Time::MAX))
            || before.acked.is_some() && !before.is_taken();
    }
    // Another run starts again with all publishes of what was not complete.
    let end = seen.records.lives[life].noted_until().unwrap_or(Time::MAX);
    let mut topics: HashMap<&str, bool> = HashMap::new();
    for publish in all.iter().filter(|publish| life_of(publish) == life) {
        // What was on its way when its connection ended may not have been read.
        let closed = seen.records.connections[publish.connection].closed.unwrap_or(Time::MAX);
        *topics.entry(publish.topic.as_str()).or_default() |= noted(publish, end.min(closed));
    }
    topics.values().any(|noted| !noted) || all.iter().any(|publish| !topics.contains_key(publish.topic.as_str()))
}
