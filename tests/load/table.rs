//! The one table.

use std::fmt::Write as _;

use super::goals;
use super::options::Options;
use super::sample::Sample;
use super::usage;
use super::world::Subject;

/// One line of the table: what it says, its unit, and the figures in its cells.
pub(crate) struct Line {
    pub(crate) says: &'static str,
    pub(crate) figures: &'static [&'static str],
}

#[derive(Default)]
struct Row {
    says: String,
    cells: [String; 3],
    ratios: [String; 2],
    arrived: String,
}

impl Row {
    fn figures(&self) -> goals::Cells<'_> {
        let ([_, raw, both], [to_raw, to_both]) = (&self.cells, &self.ratios);
        (&self.says, [raw, both, to_raw, to_both].map(String::as_str))
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
    pub(crate) fn rounds(&mut self, about: &str, lines: &[Line], rounds: &[Vec<Sample>; 3]) {
        let medians = [0, 1, 2].map(|of| (!rounds[of].is_empty()).then(|| Sample::median(&rounds[of])));
        for (at, line) in lines.iter().enumerate() {
            let value = |of: usize, figure: &str| medians[of].as_ref().and_then(|sample| sample.get(figure));
            let cell = |of: usize| {
                let values: Vec<_> = line.figures.iter().filter_map(|figure| value(of, figure)).map(number).collect();
                values.join(" / ")
            };
            let ratio = |of: usize| {
                let first = line.figures.first()?;
                let naive = value(Subject::Naive as usize, first).filter(|naive| *naive > 0.0)?;
                value(of, first).map(|value| format!("{:.2}", value / naive))
            };
            let mut row = Row {
                says: format!("{about}: {}", line.says),
                cells: [0, 1, 2].map(cell),
                ratios: [1, 2].map(|of| ratio(of).unwrap_or_default()),
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
        self.cells(says, ["", &value.into(), ""].map(str::to_owned));
    }

    /// Adds a line about so many pushes, of which some are missing.
    pub(crate) fn drained(&mut self, says: &str, value: String, answered: u64, missing: u64) {
        self.lost += missing;
        let arrived = format!("raw {} of {answered}", answered - missing.min(answered));
        self.push(Row {
            says: says.to_owned(),
            cells: [String::new(), value, String::new()],
            arrived,
            ..Row::default()
        });
    }

    /// Adds a line with ready cells.
    pub(crate) fn cells(&mut self, says: &str, cells: [String; 3]) {
        self.push(Row { says: says.to_owned(), cells, ..Row::default() });
    }

    /// Answered messages that did not arrive, of the bridge's.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The naive server promises nothing: what it loses is shown, and is no failure.
    fn verify(&mut self, medians: &[Option<Sample>; 3]) -> String {
        let mut text = Vec::new();
        for (name, sample) in ["naive", "raw", "both"].into_iter().zip(medians) {
            let Some(sample) = sample else { continue };
            if name != "naive" {
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
        text.push_str("| measured | naive | raw | both | raw ÷ naive | both ÷ naive | answered and arrived |\n");
        text.push_str("|---|--:|--:|--:|--:|--:|---|\n");
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
