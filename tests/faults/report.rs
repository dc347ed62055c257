//! The report of a run, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::account::{Rule, Verdict};
use crate::records::{Records, seconds};
use crate::schedule::{self, Step};
use crate::soak::Soak;

/// What a report tells besides the verdict.
pub(crate) struct Run<'a> {
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) steps: &'a [Step],
    /// The part with faults, and all of it.
    pub(crate) under_fire: Duration,
    pub(crate) whole: Duration,
    pub(crate) soak: Option<&'a Soak>,
    pub(crate) logs: &'a Path,
}

/// Violations shown, and lines of the history of each. All of it is among the logs.
const SHOWN: usize = 20;
const LINES: usize = 60;

/// The whole report.
pub(crate) fn text(run: &Run<'_>, records: &Records, verdict: &Verdict) -> String {
    let mut text = String::new();
    write(&mut text, run, records, verdict).expect("a string takes all");
    text
}

fn write(text: &mut String, run: &Run<'_>, records: &Records, verdict: &Verdict) -> std::fmt::Result {
    let kills = records.lives.iter().filter(|life| life.killed).count();
    let title = if run.soak.is_some() { "A soak" } else { "Faults under load" };
    writeln!(text, "# {title}\n\n- {}", machine())?;
    let now = std::time::SystemTime::now();
    writeln!(text, "- begun {} UTC", humantime::format_rfc3339_seconds(now - run.whole))?;
    writeln!(text, "- `{}`", run.command)?;
    let (fire, whole) = (run.under_fire.as_secs(), run.whole.as_secs());
    let result = if verdict.violations.is_empty() { "nothing lost, nothing wrong" } else { "VIOLATIONS" };
    if run.soak.is_some() {
        writeln!(text, "- {fire} s of steady load, {whole} s in all\n\n**Result: {result}.**")?;
    } else {
        let digest = schedule::digest(run.steps);
        writeln!(text, "- seed {}, {} steps, digest of the schedule {digest}", run.seed, run.steps.len())?;
        writeln!(
            text,
            "- {fire} s under faults, {whole} s in all; the bridge was started {} times, {} of them because a sync had failed",
            records.lives.len(),
            records.lives.iter().filter(|life| life.failed.is_some()).count()
        )?;
        let stood: u64 = records.hiccups.iter().map(|(began, ended)| ended - began).sum();
        writeln!(
            text,
            "- the machine or its disk stood still {} times, {:.1} s in all",
            records.hiccups.len(),
            seconds(stood)
        )?;
        let stepped = records.stepped_stamps;
        writeln!(text, "- {stepped} publishes bore the time of a stepped wall clock (no other clock is stepped)")?;
        writeln!(text, "\n**Result: {kills} SIGKILLs of the bridge, {result}.**")?;
    }

    writeln!(text, "\n## Violations\n\n| rule | count |\n|---|---:|")?;
    for (rule, name) in Rule::ALL {
        writeln!(text, "| {name} | {} |", verdict.count(rule))?;
    }
    for violation in verdict.violations.iter().take(SHOWN) {
        let lines: Vec<_> = violation.what.lines().take(LINES).collect();
        writeln!(text, "\n- {:?}: {}", violation.rule, lines.join("\n"))?;
    }
    if verdict.violations.len() > SHOWN {
        writeln!(text, "\n- … and {} more", verdict.violations.len() - SHOWN)?;
    }
    if !verdict.violations.is_empty() {
        writeln!(text, "\nLogs: {}", run.logs.display())?;
    }

    writeln!(text, "\n## Messages\n\n| what | count |\n|---|---:|")?;
    for (name, count) in &verdict.totals {
        writeln!(text, "| {name} | {count} |")?;
    }

    writeln!(text, "\n## Attempts in the busiest minute of one run of the process\n")?;
    writeln!(text, "| what | most | allowed |\n|---|---:|---:|")?;
    for (name, (count, most)) in &verdict.pace {
        let most = if *most == u64::MAX { "–".to_owned() } else { most.to_string() };
        writeln!(text, "| {name} | {count} | {most} |")?;
    }

    if let Some(soak) = run.soak {
        return text.write_str(&soak.text());
    }
    writeln!(text, "\n## Faults\n\n| kind | count |\n|---|---:|")?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for step in run.steps {
        *kinds.entry(step.fault.kind()).or_default() += 1;
    }
    for (kind, count) in kinds {
        writeln!(text, "| {kind} | {count} |")?;
    }
    Ok(())
}

/// Of the machine, what figures depend on.
pub(crate) fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_else(|| "?".to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = after(&read("/proc/cpuinfo"), "model name");
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let kernel = read("/proc/sys/kernel/osrelease");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{cpus} × {model}, {memory} of memory, Linux {}, {profile} build", kernel.trim())
}
