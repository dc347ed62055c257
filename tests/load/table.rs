//! The one table.

use std::fmt::Write as _;

use super::goals;
use super::options::Options;
use super::sample::Sample;
use super::usage;
use super::world::{Each, Subject};

/// One line of the table: what it says, its unit, and the figures in its cells.
pub(crate) struct Line {
    pub(crate) says: &'static str,
    pub(crate) figures: &'static [&'static str],
}

#[derive(Default)]
struct Row {
    says: String,
    cells: Each<String>,
    /// Raw and both beside naive, raw and both beside the least.
    ratios: [String; 4],
    arrived: String,
}

impl Row {
    fn figures(&self) -> goals::Cells<'_> {
        let ([_, _, raw, both], [raw_to_naive, both_to_naive, raw_to_least, both_to_least]) =
            (&self.cells, &self.ratios);
        (&self.says, [raw, both, raw_to_naive, both_to_naive, raw_to_least, both_to_least].map(String::as_str))
    }
}

/// Rows as they were measured.
#[derive(Default)]
pub(crate) struct Table {
    machine: String,
    rows: Vec<Row>,
    lost: u64,
}

impl Table {
    /// Of this machine as it is before anything is measured.
    pub(crate) fn new() -> Self {
        Self { machine: usage::machine(), ..Self::default() }
    }

    /// Adds lines about what was measured in rounds; subjects without rounds stay empty.
    pub(crate) fn rounds(&mut self, about: &str, lines: &[Line], rounds: &Each<Vec<Sample>>) {
        let each = Subject::ALL.map(|subject| subject as usize);
        let medians = each.map(|of| (!rounds[of].is_empty()).then(|| Sample::median(&rounds[of])));
        for (at, line) in lines.iter().enumerate() {
            let value = |of: usize, figure: &str| medians[of].as_ref().and_then(|sample| sample.get(figure));
            let cell = |of: usize| {
                let values: Vec<_> = line.figures.iter().filter_map(|figure| value(of, figure)).map(number).collect();
                values.join(" / ")
            };
            let ratio = |of: Subject, to: Subject| {
                let first = line.figures.first()?;
                let beside = value(to as usize, first).filter(|beside| *beside > 0.0)?;
                value(of as usize, first).map(|value| format!("{:.2}", value / beside))
            };
            let ratios = [Subject::Naive, Subject::Least]
                .map(|to| [Subject::Raw, Subject::Both].map(|of| ratio(of, to).unwrap_or_default()));
            let mut row = Row {
                says: format!("{about}: {}", line.says),
                cells: each.map(cell),
                ratios: ratios.into_iter().flatten().collect::<Vec<_>>().try_into().unwrap_or_default(),
                arrived: String::new(),
            };
            if at == 0 {
                row.arrived = self.verify(&medians);
            }
            self.push(row);
        }
    }

    /// Adds a line with something measured once, in the bridge's column.
    pub(crate) fn single(&mut self, says: &str, value: impl Into<String>) {
        self.cells(says, ["", "", &value.into(), ""].map(str::to_owned));
    }

    /// Adds a line about so many pushes, of which some are missing.
    pub(crate) fn drained(&mut self, says: &str, value: String, answered: u64, missing: u64) {
        self.lost += missing;
        let arrived = format!("raw {} of {answered}", answered - missing.min(answered));
        self.push(Row {
            says: says.to_owned(),
            cells: [String::new(), String::new(), value, String::new()],
            arrived,
            ..Row::default()
        });
    }

    /// Adds a line with ready cells.
    pub(crate) fn cells(&mut self, says: &str, cells: Each<String>) {
        self.push(Row { says: says.to_owned(), cells, ..Row::default() });
    }

    /// Answered messages that did not arrive, of the bridge's.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The naive server promises nothing, the least one no order and no retry: what they lose is shown, and is no failure.
    fn verify(&mut self, medians: &Each<Option<Sample>>) -> String {
        let mut text = Vec::new();
        for (subject, sample) in Subject::ALL.into_iter().zip(medians) {
            let (Some(sample), name) = (sample, subject.base()) else { continue };
            if matches!(subject, Subject::Raw | Subject::Both) {
                self.lost += sample.lost;
            }
            let mut of =
                format!("{name} {} of {}", sample.answered - sample.lost.min(sample.answered), sample.answered);
            if sample.unanswered > 0 {
                let _ = write!(of, " (+{} not answered)", sample.unanswered);
            }
            text.push(of);
        }
        text.join(", ")
    }

    fn push(&mut self, row: Row) {
        let Row { says, cells, ratios, arrived } = &row;
        eprintln!("  {says}: {} | {} {arrived}", cells.join(" | "), ratios.join(" | "));
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self, options: &Options) -> String {
        let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let mut text = format!(
            "Made by `cargo bench --bench load{}`; how to read it is said in `main.rs`. Medians of {} rounds.\n\n{}\n",
            if arguments.is_empty() { String::new() } else { format!(" -- {}", arguments.join(" ")) },
            options.rounds(),
            self.machine,
        );
        let rows: Vec<_> = self.rows.iter().map(Row::figures).collect();
        let _ = writeln!(text, "{}", goals::markdown(&rows));
        text.push_str("| measured | naive | least | raw | both | raw ÷ naive | both ÷ naive | raw ÷ least | both ÷ least | answered and arrived |\n");
        text.push_str("|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n");
        for Row { says, cells, ratios, arrived } in &self.rows {
            let _ = writeln!(text, "| {says} | {} | {} | {arrived} |", cells.join(" | "), ratios.join(" | "));
        }
        text
    }
}

/// As many digits as are worth reading.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
