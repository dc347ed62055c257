//! The report of a run, in Markdown.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::account::{Rule, Verdict};
use crate::records::{Records, seconds};
use crate::schedule::Brief;
use crate::soak::Soak;

/// What a report tells besides the verdict.
pub(crate) struct Run<'a> {
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) schedule: Brief,
    /// The part with faults, and all of it.
    pub(crate) under_fire: Duration,
    pub(crate) whole: Duration,
    pub(crate) soak: Option<&'a Soak>,
    /// What else a run with a cluster tells.
    pub(crate) cluster: Option<String>,
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

fn head(text: &mut String, run: &Run<'_>, records: &Records, verdict: &Verdict) -> std::fmt::Result {
    let title = match (run.soak, &run.cluster) {
        (Some(_), _) => "A soak",
        (None, Some(_)) => "Faults of a cluster under load",
        (None, None) => "Faults under load",
    };
    writeln!(text, "# {title}\n\n- {}", machine())?;
    let now = std::time::SystemTime::now();
    writeln!(text, "- begun {} UTC", humantime::format_rfc3339_seconds(now - run.whole))?;
    writeln!(text, "- `{}`", run.command)?;
    let (fire, whole) = (run.under_fire.as_secs(), run.whole.as_secs());
    let result = if verdict.violations.is_empty() { "nothing lost, nothing wrong" } else { "VIOLATIONS" };
    if run.soak.is_some() {
        return writeln!(text, "- {fire} s of steady load, {whole} s in all\n\n**Result: {result}.**");
    }
    let Brief { steps, digest, .. } = &run.schedule;
    writeln!(text, "- seed {}, {steps} steps, digest of the schedule {digest}", run.seed)?;
    writeln!(text, "- {fire} s under faults, {whole} s in all")?;
    let stepped = records.stepped_stamps;
    writeln!(text, "- {stepped} publishes bore the time of a stepped wall clock (no other clock is stepped)")?;
    let lives = &records.lives;
    if run.cluster.is_some() {
        writeln!(text, "- {} leaderships, one after the other", lives.len())?;
        return writeln!(text, "\n**Result: {steps} faults, {result}.**");
    }
    let failed = lives.iter().filter(|life| life.failed.is_some()).count();
    writeln!(text, "- the bridge was started {} times, {failed} of them because a sync had failed", lives.len())?;
    let stood: u64 = records.hiccups.iter().map(|(began, ended)| ended - began).sum();
    let (times, stood) = (records.hiccups.len(), seconds(stood));
    writeln!(text, "- the machine or its disk stood still {times} times, {stood:.1} s in all")?;
    let kills = lives.iter().filter(|life| life.killed).count();
    writeln!(text, "\n**Result: {kills} SIGKILLs of the bridge, {result}.**")
}

fn write(text: &mut String, run: &Run<'_>, records: &Records, verdict: &Verdict) -> std::fmt::Result {
    head(text, run, records, verdict)?;
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

    if let Some(cluster) = &run.cluster {
        text.push_str(cluster);
        writeln!(text, "\n## Calls under way when the successor began\n")?;
        if verdict.under_way.is_empty() {
            writeln!(text, "None.")?;
        }
        for call in &verdict.under_way {
            writeln!(text, "- {call}")?;
        }
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
    for (kind, count) in &run.schedule.kinds {
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
