//! Figures by name, of one round; and medians of several rounds.

use std::collections::BTreeMap;

use super::generator::Outcome;
use super::recorder::Arrived;
use super::usage::Usage;

/// What one round of one subject gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    figures: BTreeMap<&'static str, f64>,
    /// Messages answered.
    pub(crate) answered: u64,
    /// Answered and not arrived.
    pub(crate) lost: u64,
    /// Not answered.
    pub(crate) unanswered: u64,
}

/// The keys of latencies, for [`Sample::latency`].
pub(crate) const ANSWER: [&str; 3] = ["answer p50", "answer p99", "answer p99.9"];
pub(crate) const ARRIVAL: [&str; 3] = ["arrival p50", "arrival p99", "arrival p99.9"];

impl Sample {
    pub(crate) fn new(answered: u64, lost: u64) -> Self {
        Self { answered, lost, ..Self::default() }
    }

    /// Of pushes.
    pub(crate) fn of(outcome: &Outcome, arrived: &Arrived, used: Usage) -> Self {
        let answered = outcome.answered();
        let mut sample = Self::new(answered, arrived.missing);
        sample.unanswered = outcome.unanswered.len() as u64;
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        sample.set("answered", answered as f64 / seconds(outcome.began_ns, outcome.ended_ns));
        sample.set("delivered", arrived.distinct as f64 / seconds(outcome.began_ns, arrived.last_ns));
        sample.latency(ANSWER, outcome.latency_us);
        sample.latency(ARRIVAL, arrived.latency_us);
        sample.set("cpu", used.cpu_us / answered as f64);
        sample.set("written", used.written / answered as f64);
        sample
    }

    pub(crate) fn set(&mut self, name: &'static str, value: f64) {
        self.figures.insert(name, value);
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    /// Three percentiles of µs, kept as ms.
    pub(crate) fn latency(&mut self, names: [&'static str; 3], us: [f64; 3]) {
        for (name, us) in names.into_iter().zip(us) {
            self.set(name, us / 1000.0);
        }
    }

    /// The median of each figure, the sum of each count.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for (name, value) in rounds.iter().flat_map(|round| &round.figures) {
            all.entry(name).or_default().push(*value);
        }
        let sum = |count: fn(&Self) -> u64| rounds.iter().map(count).sum();
        Self {
            figures: all.into_iter().map(|(name, values)| (name, middle(values))).collect(),
            answered: sum(|round| round.answered),
            lost: sum(|round| round.lost),
            unanswered: sum(|round| round.unanswered),
        }
    }
}

/// The median of at least one value.
pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}
