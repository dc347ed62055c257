//! The soak: no faults, a steady mixed load, and what the bridge's process holds, sampled from `/proc`.
//!
//! Flat means: the last third holds no more than the second. The first third is for filling caches and pools. One of them is
//! large: the bridge remembers the last command of each packet id. So the soak begins with more commands than there are ids.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::world::World;

/// Commands to begin with: all packet ids are used, though some commands are refused and not remembered.
pub(crate) const AT_ONCE: usize = 80_000;
const BEGINNING: Duration = Duration::from_mins(15);
const EVERY: Duration = Duration::from_secs(10);
/// Rows of the table, at most.
const ROWS: usize = 40;
const MIB: u64 = 1 << 20;

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    /// Bytes in memory, and those of them that are no file's.
    resident: u64,
    anonymous: u64,
    files: u64,
    threads: u64,
    spool: u64,
    log: u64,
    /// Milliseconds of processor time since its start.
    processor_ms: u64,
}

/// What must be flat, and by how much the last third may exceed the second: a share (in percent) and an amount.
type Field = fn(&Sample) -> u64;
const FLAT: [(&str, Field, u64, u64); 6] = [
    ("resident memory", |sample| sample.resident, 3, MIB / 2),
    ("anonymous memory", |sample| sample.anonymous, 3, MIB / 2),
    ("file descriptors", |sample| sample.files, 0, 3),
    ("threads", |sample| sample.threads, 0, 1),
    ("spool.db", |sample| sample.spool, 3, MIB / 16),
    ("spool.db-wal", |sample| sample.log, 5, MIB),
];

/// All samples of a soak.
pub(crate) struct Soak {
    samples: Vec<Sample>,
}

impl Soak {
    /// Watches the bridge for so long, from when the commands to begin with are sent.
    pub(crate) async fn watch(world: &mut World, how_long: Duration) -> Self {
        let (id, spool) = (world.bridge.process().id(), world.bridge.state_dir().join("spool.db"));
        let began = Instant::now();
        while world.recorder.lock().commands.len() < AT_ONCE {
            world.check_bridge();
            assert!(began.elapsed() < BEGINNING, "{AT_ONCE} commands are not taken within {BEGINNING:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("faults: {AT_ONCE} commands taken within {:?}; now the steady load", began.elapsed());

        let began = Instant::now();
        let mut pace = tokio::time::interval(EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = Vec::new();
        while began.elapsed() < how_long {
            pace.tick().await;
            world.check_bridge();
            samples.push(sample(id, &spool, began.elapsed()));
        }
        Self { samples }
    }

    fn thirds(&self) -> (&[Sample], &[Sample]) {
        let third = self.samples.len() / 3;
        (&self.samples[third..2 * third], &self.samples[2 * third..])
    }

    /// What has grown, in words.
    pub(crate) fn grown(&self) -> Vec<String> {
        let (second, last) = self.thirds();
        let mut grown = Vec::new();
        for (name, of, percent, amount) in FLAT {
            let (before, after) = (median(second, of), median(last, of));
            if after > before + before * percent / 100 + amount {
                grown.push(format!("{name}: {before} in the second third, {after} in the last"));
            }
        }
        grown
    }

    /// For the report.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("\n## What the process holds\n\nMedians of the thirds; flat: ");
        text.push_str("the last third is within the margin of the second.\n\n");
        let (second, last) = self.thirds();
        let first = &self.samples[..self.samples.len() / 3];
        text.push_str("| what | first | second | last | margin | |\n|---|---:|---:|---:|---|---|\n");
        let grown = self.grown();
        for (name, of, percent, amount) in FLAT {
            let [first, second, last] = [first, second, last].map(|third| median(third, of));
            let verdict = if grown.iter().any(|what| what.starts_with(&format!("{name}:"))) { "GROWN" } else { "flat" };
            let _ = writeln!(text, "| {name} | {first} | {second} | {last} | {percent} % + {amount} | {verdict} |");
        }
        text.push_str(
            "\n| minute | resident KiB | anonymous KiB | files | threads | spool.db KiB | wal KiB | CPU % |\n",
        );
        text.push_str("|---:|---:|---:|---:|---:|---:|---:|---:|\n");
        let step = self.samples.len().div_ceil(ROWS).max(1);
        let mut before = self.samples[0];
        for sample in self.samples.iter().skip(step).step_by(step) {
            let Sample { resident, anonymous, files, threads, spool, log, .. } = sample;
            let time = u64::try_from(sample.at.saturating_sub(before.at).as_millis()).unwrap_or(u64::MAX).max(1);
            // Tenths of a percent.
            let share = (sample.processor_ms - before.processor_ms) * 1000 / time;
            let _ = writeln!(
                text,
                "| {:.1} | {} | {} | {files} | {threads} | {} | {} | {}.{} |",
                sample.at.as_secs_f64() / 60.0,
                resident / 1024,
                anonymous / 1024,
                spool / 1024,
                log / 1024,
                share / 10,
                share % 10,
            );
            before = *sample;
        }
        text
    }
}

fn median(samples: &[Sample], of: Field) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn sample(id: u32, spool: &Path, at: Duration) -> Sample {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let status = read("status");
    let of = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let stat = read("stat");
    // Fields 14 and 15 of the whole line, in ticks of 10 ms.
    let ticks = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks: u64 = ticks.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum();
    let size = |file: PathBuf| std::fs::metadata(file).map_or(0, |file| file.len());
    Sample {
        at,
        resident: of("VmRSS:") * 1024,
        anonymous: of("RssAnon:") * 1024,
        files: std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, |files| files.count() as u64),
        threads: of("Threads:"),
        spool: size(spool.to_owned()),
        log: size(spool.with_extension("db-wal")),
        processor_ms: ticks * 10,
    }
}

/// The verdict must be able to fail.
pub(crate) fn self_check() {
    let of = |growth: u64| Soak {
        samples: (0..90).map(|n| Sample { resident: 20 * MIB + n * growth, ..Sample::default() }).collect(),
    };
    assert!(of(0).grown().is_empty());
    assert!(of(1024).grown().is_empty());
    assert_eq!(of(MIB / 4).grown().len(), 1);
}
