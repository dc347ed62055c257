//! What must be true at the end of the day, and how long a command may wait while the service would take it: no longer than the
//! longest back-off that concerns it.
//!
//! Good weather for a command is where no spell of trouble is felt by its calls and the bridge runs. A back-off is as long as
//! [`back_off`] reckons from what was answered; one that concerns the command was set before the good weather began, or by the
//! first that was left of the bad: a token that is dead by then, or one more turn of an endpoint that is still in trouble.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::service::{Memory, Said, Try};
use super::story::{Asked, NOBODY, Story, Up};
use super::weather::{CONFIG, End, PATHS, Spell, TOKEN, back_off};
use crate::local::{CommandResult, Status};
use crate::outbound::attempt::Ambiguous;

/// What an attempt changed without a sync goes to the disk with the next mark, or after two seconds in peace.
const UNSYNCED: Duration = Duration::from_secs(12);
/// Clocks are read in whole milliseconds: once by who accepts, once by each run.
const ROUNDING: Duration = Duration::from_millis(5);

pub(super) struct Ledger {
    pub(super) began: Instant,
    pub(super) asked: Vec<Asked>,
    pub(super) acked: Vec<(String, Instant)>,
    pub(super) results: Vec<(Instant, CommandResult)>,
    pub(super) memory: Memory,
    pub(super) spells: Vec<Spell>,
    pub(super) ups: Vec<Up>,
    /// `outbound.ambiguous_tries`.
    pub(super) tries: u32,
    pub(super) ambiguous: Ambiguous,
}

impl Ledger {
    /// What is wrong; and of what a day should hold, what this one held.
    pub(super) fn look(&self) -> (Vec<String>, BTreeSet<&'static str>) {
        let stories = self.stories();
        let patience = Patience::of(self);
        let (mut wrong, mut held) = (Vec::new(), BTreeSet::new());
        for story in &stories {
            let mut found: Vec<String> = self.result(story).into_iter().collect();
            found.extend(self.executions(story));
            found.extend(patience.waits(story));
            wrong.extend(found.into_iter().map(|what| story.told(&what, self)));
            held.extend(story.results.first().map(|(_, result)| result.status.as_str()));
            held.extend((story.results.len() > 1).then_some("told again"));
            held.extend((story.executed() > 1).then_some("executed again"));
        }
        wrong.extend(order(&stories));
        wrong.extend(self.budget(TOKEN, [(6, 30), (12, 300)]));
        wrong.extend(self.budget(CONFIG, [(6, 60), (12, 600)]));
        (wrong, held)
    }

    fn stories(&self) -> Vec<Story<'_>> {
        let acked: HashMap<&str, Instant> = self.acked.iter().map(|(mark, at)| (mark.as_str(), *at)).collect();
        let mut results: HashMap<&str, Vec<&(Instant, CommandResult)>> = HashMap::new();
        for result in &self.results {
            let mark = result.1.reference.as_ref().unwrap().as_json().trim_matches('"');
            results.entry(mark).or_default().push(result);
        }
        let stories = self.asked.iter().map(|asked| Story {
            asked,
            acked: acked.get(&*asked.mark).copied(),
            tries: self.memory.tries.get(&asked.mark).map(Vec::as_slice).unwrap_or_default(),
            results: results.remove(&*asked.mark).unwrap_or_default(),
        });
        stories.collect()
    }

    fn result(&self, story: &Story<'_>) -> Option<String> {
        let Some((at, result)) = story.results.first() else { return Some("it has no result".to_owned()) };
        // Of a refusal, which is not stored, a killed bridge does not know the id: its copy is told by its reason.
        let same = |copy: &CommandResult| match result.status {
            Status::Rejected => (copy.status, &copy.name) == (result.status, &result.name),
            _ => copy == result,
        };
        if !story.results.iter().all(|(_, copy)| same(copy)) {
            return Some("it has two results".to_owned());
        }
        let posted = story.tries.iter().filter(|one| one.at <= *at).count();
        // One that was marked, and did not leave because the bridge was killed, counts as well.
        let counted = usize::try_from(result.attempts).unwrap();
        if counted > posted + self.killed_at_work(story) || (counted == 0 && posted > 0) {
            return Some(format!("of {posted} tries, it counts {counted}"));
        }
        let last = story.tries.last().map(|one| one.said);
        let is_true = match result.status {
            Status::Ok => story.executed() > 0 && last == Some(Said::Code(0)),
            Status::Error => result.code.is_some_and(|code| code != 0 && last == Some(Said::Code(code))),
            Status::Expired => story.executed() == 0,
            Status::Rejected => story.tries.is_empty(),
            Status::Uncertain => story.tries.iter().any(|one| self.is_unknown(one)) || self.killed_at_work(story) > 0,
        };
        (!is_true).then(|| format!("it was not {}", result.status.as_str()))
    }

    /// Whether the bridge cannot know that a try was not executed.
    fn is_unknown(&self, one: &Try) -> bool {
        match (one.said, one.heard) {
            (Said::Nothing | Said::InFront | Said::Code(1017), _) | (_, None) => true,
            // That it was not executed is stored without a sync.
            (_, Some(heard)) => {
                let cut = |up: &Up| up.how == End::Power && up.from <= one.at && up.to >= heard;
                self.ups.iter().any(|up| cut(up) && up.to <= heard + UNSYNCED)
            }
        }
    }

    /// How often the bridge was killed when the command may just have been marked, and its request had not left.
    fn killed_at_work(&self, story: &Story<'_>) -> usize {
        let open = |up: &&Up| up.to >= story.asked.at && story.ended().is_none_or(|ended| up.to <= ended);
        self.ups.iter().filter(open).filter(|up| up.at_work && up.how != End::Stop).count()
    }

    fn executions(&self, story: &Story<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        let once = story.asked.once || self.ambiguous == Ambiguous::Report;
        let most = usize::try_from(if once { 1 } else { self.tries }).unwrap();
        if story.executed() > most {
            wrong.push(format!("it was executed {} times", story.executed()));
        }
        let perhaps = |one: &&Try| {
            let unknown = matches!(one.said, Said::Nothing | Said::Code(1017)) || one.heard.is_none();
            unknown || (once && one.said == Said::InFront)
        };
        if story.tries.iter().filter(perhaps).count() > most {
            wrong.push("it was tried too often after it may have been executed".to_owned());
        }
        if once && story.tries.iter().skip_while(|one| !perhaps(one)).count() > 1 {
            wrong.push("it was tried again after it may have been executed".to_owned());
        }
        let last = story.tries.last().map(|one| one.at);
        if let (Some(acked), Some(last)) = (story.acked, last)
            && last > acked + story.asked.ttl + ROUNDING
        {
            wrong.push(format!("it was sent {:?} late", last - (acked + story.asked.ttl)));
        }
        if last > story.ended() && story.ended().is_some() {
            wrong.push("it was sent after its result".to_owned());
        }
        wrong
    }

    /// No window holds more calls than the burst, and one more in each period; a second is for the rounding of kept clocks.
    fn budget(&self, path: &str, pace: [(usize, u64); 2]) -> Option<String> {
        let made: Vec<Instant> = self.memory.own.iter().filter(|(own, _)| *own == path).map(|(_, at)| *at).collect();
        let is_outrun = |(burst, every): &(usize, u64)| {
            made.iter().enumerate().any(|(number, from)| {
                made[number..].iter().enumerate().any(|(more, to)| {
                    let periods = (*to - *from + Duration::from_secs(1)).as_secs() / every;
                    more + 1 > burst + usize::try_from(periods).unwrap()
                })
            })
        };
        let outrun = pace.iter().find(|pace| is_outrun(pace));
        outrun.map(|pace| format!("{path} was called {} times, in some window more often than {pace:?}", made.len()))
    }
}

/// In each lane, a client's commands are executed in the order in which they were asked for.
fn order(stories: &[Story<'_>]) -> Vec<String> {
    let mut last: HashMap<&str, (Instant, &str)> = HashMap::new();
    let mut wrong = Vec::new();
    for story in stories {
        let Some(first) = story.tries.iter().find(|one| one.executed) else { continue };
        let Asked { lane, mark, .. } = story.asked;
        if let Some((before, other)) = last.insert(lane, (first.at, mark)).filter(|(before, _)| *before > first.at) {
            wrong.push(format!("{mark} overtook {other} in the lane {lane} by {:?}", before - first.at));
        }
    }
    wrong
}

/// When all back-offs are over, what waits goes in turn; a call takes up to `ilink.timeout`.
const IN_TURN: Duration = Duration::from_secs(20);

pub(super) struct Patience {
    /// The spans of good weather, each within one run of the bridge, and for whose calls.
    good: Vec<(&'static str, Instant, Instant)>,
    /// When something odd was answered, and when all back-offs are over that were set until then.
    over: Vec<(Instant, Instant)>,
}

impl Patience {
    pub(super) fn of(ledger: &Ledger) -> Self {
        let mut good = Vec::new();
        for path in PATHS.into_iter().chain([NOBODY]) {
            // What has no receiver shares one lane, whatever its path.
            let paths: &[&str] = if path == NOBODY { &PATHS } else { &[path] };
            let is_felt = |spell: &&Spell| paths.iter().any(|path| spell.is_felt(path, &ledger.spells));
            let mut bad: Vec<&Spell> = ledger.spells.iter().filter(is_felt).collect();
            bad.sort_by_key(|spell| spell.from);
            for up in &ledger.ups {
                let mut from = up.from;
                for spell in &bad {
                    let begins = (ledger.began + spell.from).min(up.to);
                    if from < begins {
                        good.push((path, from, begins));
                    }
                    from = from.max(ledger.began + spell.to);
                }
                if from < up.to {
                    good.push((path, from, up.to));
                }
            }
        }
        let mut until = ledger.began;
        let over = ledger.memory.odd.iter().map(|(at, path, trouble)| {
            until = until.max(*at + back_off(path, *trouble));
            (*at, until)
        });
        Self { good, over: over.collect() }
    }

    /// When the last back-off is over that was set before, or by what that had left.
    fn backed_off(&self, from: Instant) -> Instant {
        let over = |until: Instant| {
            let met = self.over.partition_point(|(at, _)| *at < until);
            self.over[..met].last().map_or(from, |(_, over)| *over).max(from)
        };
        over(over(from) + IN_TURN)
    }

    /// In which good weather a command waited too long.
    pub(super) fn waits(&self, story: &Story<'_>) -> Vec<String> {
        let Some(acked) = story.acked else { return vec!["it was never acknowledged".to_owned()] };
        let path = if story.asked.lane.ends_with(NOBODY) { NOBODY } else { story.asked.path };
        let mut wrong = Vec::new();
        for (_, from, to) in self.good.iter().filter(|(good, ..)| *good == path) {
            let (from, to) = (acked.max(*from), story.ended().map_or(*to, |ended| ended.min(*to)));
            let over = self.backed_off(from);
            if from < to && to > over + IN_TURN {
                let (waited, late) = (to - from, to - over);
                wrong.push(format!("it waited {waited:?} in good weather, {late:?} after the last back-off's end"));
            }
        }
        wrong
    }
}
