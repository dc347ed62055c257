//! How long a command may wait while the service would take it: no longer than the longest back-off that concerns it.
//!
//! Good weather for a command is where no spell of trouble is felt by its calls and the bridge runs. A back-off is as long as
//! [`back_off`] reckons from what was answered; one that concerns the command was set before the good weather began, or by the
//! first that was left of the bad: a token that is dead by then, or one more turn of an endpoint that is still in trouble.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Ledger;
use super::story::{NOBODY, Story};
use super::weather::{PATHS, Spell, back_off};

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
