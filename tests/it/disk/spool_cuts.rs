//! The spool alone, with every promise known exactly: what may be found after a power cut, and what must.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use ilink2mqtt::store::sqlite::{Recovered, Spool};
use ilink2mqtt::store::{Append as _, Queue, Store as _};
use tempfile::TempDir;

use super::child::{self, LIMITS, Mark, register, tag, value};
use super::platter::{Dice, FATES, Platter, write_out};
use super::recording::{self, Event};
use super::small_disk::in_own_process;
use super::{assert_complete, scratch, wanted};

/// What the spool was asked and what it has answered, up to a moment.
#[derive(Default)]
struct Promises {
    phase: String,
    /// Everything each register was set to, with the number of the request.
    registers: BTreeMap<String, Vec<(u64, Option<String>)>>,
    begun: HashMap<u64, u64>,
    /// What a run that failed was asked and did not answer is there or not, whatever the next one answers.
    undecided: HashMap<String, BTreeSet<Option<String>>>,
    /// Every request up to this one is durable.
    durable: u64,
    partial: Vec<u8>,
}

impl Promises {
    fn take(&mut self, written: &[u8]) {
        self.partial.extend_from_slice(written);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.partial.drain(..=end).collect();
            match serde_json::from_slice(&line).unwrap() {
                Mark::Phase(name) => {
                    if name.starts_with("afterwards") {
                        let allowed = |register: &String| (register.clone(), self.allowed(register));
                        self.undecided = self.registers.keys().map(allowed).collect();
                    }
                    self.phase = name;
                }
                Mark::Begin { n, at_ms, sets } => {
                    self.begun.insert(n, at_ms);
                    for (register, value) in sets {
                        self.registers.entry(register).or_default().push((n, value));
                    }
                }
                Mark::Done { n } => self.durable = self.durable.max(n),
            }
        }
    }

    /// The values that a register may have: from the last durable one on, any.
    fn allowed(&self, register: &str) -> BTreeSet<Option<String>> {
        let Some(settings) = self.registers.get(register) else { return BTreeSet::from([None]) };
        let floor = settings.iter().rposition(|(n, _)| *n <= self.durable);
        let since = settings[floor.unwrap_or(0)..].iter().map(|(_, value)| value.clone());
        let undecided = self.undecided.get(register).into_iter().flatten().cloned();
        since.chain(floor.is_none().then_some(None)).chain(undecided).collect()
    }
}

/// What is wrong with what was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    failed_opens: usize,
    lost: usize,
    invented: usize,
    alarms: usize,
    texts: Vec<String>,
}

impl Findings {
    pub(super) fn any(&self) -> bool {
        self.failed_opens + self.lost + self.invented + self.alarms > 0
    }

    fn add(&mut self, other: Self) {
        self.failed_opens += other.failed_opens;
        self.lost += other.lost;
        self.invented += other.invented;
        self.alarms += other.alarms;
        self.texts.extend(other.texts);
    }
}

/// Opens what a power cut left and compares it with what was promised.
async fn examine(dir: &Path, promises: &Promises, thoroughly: bool) -> Findings {
    let mut findings = Findings::default();
    let (spool, recovered) = match Spool::open(dir, LIMITS) {
        Ok(opened) => opened,
        Err(error) => {
            findings.failed_opens += 1;
            findings.texts.push(format!("it does not open: {error}"));
            return findings;
        }
    };
    // The one damage there is was made on purpose, and cost nothing.
    let rebuilds = promises.phase.starts_with("rebuil");
    if !(recovered == Recovered::default() || rebuilds && recovered.damaged_rows == 0) {
        findings.alarms += 1;
        findings.texts.push(format!("{recovered:?}"));
    }
    let found = contents(&spool, &mut findings).await;
    let set_aside = register(Queue::SetAside, 0).replace("/0", "/");
    for name in promises.registers.keys().filter(|name| !name.starts_with(&set_aside)) {
        let allowed = promises.allowed(name);
        let there = found.get(name).cloned();
        if !allowed.contains(&there) {
            findings.lost += 1;
            findings.texts.push(format!("{name} is {there:?}, of {allowed:?}"));
        }
    }
    for name in found.keys().filter(|name| !promises.registers.contains_key(*name)) {
        findings.invented += 1;
        findings.texts.push(format!("{name} was never stored"));
    }
    check_set_aside(promises, &found, &set_aside, &mut findings);
    if spool.counters().damaged_rows > 0 {
        findings.alarms += 1;
        findings.texts.push("damaged rows".to_owned());
    }
    if thoroughly && !findings.any() {
        let rows = |found: &BTreeMap<String, String>| found.keys().filter(|name| name.starts_with("inbound/")).count();
        let seq =
            spool.append(Queue::Inbound, b"a row of the next run".to_vec().into(), None).await.expect("it takes rows");
        spool.close().await;
        let (spool, recovered) = Spool::open(dir, LIMITS).expect("it opens again");
        assert_eq!(recovered, Recovered::default());
        let all = spool.read_after(Queue::Inbound, 0, usize::MAX, usize::MAX).await.unwrap();
        assert_eq!(all.len(), rows(&found) + 1);
        assert_eq!(all.last().map(|row| row.seq), Some(seq), "numbers go on");
    }
    findings
}

async fn contents(spool: &Spool, findings: &mut Findings) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for queue in [Queue::Inbound, Queue::Outbound, Queue::SetAside] {
        let rows = spool.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("reading works");
        if spool.stats(queue).depth != u64::try_from(rows.len()).unwrap() {
            findings.lost += 1;
            findings.texts.push(format!("{}: {} rows, counted {:?}", queue.as_str(), rows.len(), spool.stats(queue)));
        }
        let tags: Vec<_> = rows.iter().map(|row| tag(&row.data)).collect();
        if !tags.is_sorted() {
            findings.lost += 1;
            findings.texts.push(format!("{}: another order than the requests'", queue.as_str()));
        }
        found.extend(rows.iter().map(|row| (register(queue, tag(&row.data)), value(&row.data))));
    }
    let keys = spool.redeliveries().await.expect("reading works");
    found.extend(keys.iter().map(|(pkid, digest)| (format!("redelivery/{pkid}"), tag(digest).to_string())));
    let notes = spool.notes("").await.expect("reading works");
    found.extend(notes.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())));
    found
}

/// The newest rows that fit, as of some request since the last durable one.
fn check_set_aside(promises: &Promises, found: &BTreeMap<String, String>, prefix: &str, findings: &mut Findings) {
    let mut stored: Vec<_> = promises
        .registers
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, settings)| (settings[0].0, name, settings[0].1.clone().unwrap()))
        .collect();
    stored.sort();
    let size = |value: &str| value.split_once(' ').unwrap().1.parse::<u64>().unwrap() + ilink2mqtt::store::ROW_OVERHEAD;
    let kept_of = |stored: &[(u64, &String, String)]| {
        let mut kept = BTreeMap::new();
        let mut bytes = 0;
        for (_, name, value) in stored.iter().rev() {
            bytes += size(value);
            if bytes > LIMITS.set_aside {
                break;
            }
            kept.insert((*name).clone(), value.clone());
        }
        kept
    };
    let there: BTreeMap<_, _> =
        found.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let floor = stored.iter().take_while(|(n, ..)| *n <= promises.durable).count();
    if !(floor..=stored.len()).any(|end| kept_of(&stored[..end]) == there) {
        findings.lost += 1;
        findings.texts.push(format!("set aside: {} of {} rows, {floor} durable", there.len(), stored.len()));
    }
}

/// Where to cut: the same number in each phase, half of them right before or after what matters.
fn points(events: &[Event], marks: u64, wanted: usize) -> Vec<usize> {
    let mut phases: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let is_mark = matches!(event, Event::Written { inode, .. } if *inode == marks);
        if matches!(event, Event::Written { inode, data, .. } if *inode == marks && data.starts_with(b"{\"Phase")) {
            phases.push(Default::default());
        }
        let Some((all, special)) = phases.last_mut() else { continue };
        all.push(at);
        let matters = is_mark || !matches!(event, Event::Written { .. });
        if matters {
            special.extend([at.saturating_sub(1), at]);
        }
    }
    let mut dice = Dice(7);
    let each = wanted.div_ceil(phases.len() * 2);
    let mut points: Vec<usize> = phases
        .iter()
        .flat_map(|(all, special)| {
            let mut pick = |from: &[usize]| (0..each).map(|_| from[dice.below(from.len())]).collect::<Vec<_>>();
            [pick(all), pick(special)].concat()
        })
        .collect();
    points.sort_unstable();
    points
}

pub(super) struct Replayed {
    pub(super) findings: Findings,
    points: usize,
    writes: usize,
    syncs: usize,
}

/// Cuts the power at `wanted` points of a recorded history.
pub(super) async fn replay(events: &[Event], wanted: usize, lies: bool) -> (Replayed, Platter) {
    let marks = events
        .iter()
        .find_map(|event| match event {
            Event::Opened { inode, name, .. } if name == "marks" => Some(*inode),
            _ => None,
        })
        .expect("marks");
    let points = points(events, marks, wanted);
    let mut left = points.iter().copied().peekable();
    let (mut platter, mut promises) = (Platter::default(), Promises::default());
    let mut findings = Findings::default();
    let mut writes = 0;
    for (at, event) in events.iter().enumerate() {
        platter.apply(event, lies);
        match event {
            Event::Written { inode, data, .. } if *inode == marks => promises.take(data),
            Event::Written { .. } => writes += 1,
            _ => {}
        }
        while left.next_if_eq(&at).is_some() {
            let seed = u64::try_from(points.len() - left.len()).unwrap();
            let fate = FATES[points.len().wrapping_sub(left.len()) % FATES.len()];
            let dir = scratch();
            write_out(&platter.cut(fate, &mut Dice(seed)), dir.path());
            let mut found = examine(dir.path(), &promises, seed.is_multiple_of(8)).await;
            for text in &mut found.texts {
                *text = format!("cut {seed} after step {at} ({}; {fate:?}): {text}", promises.phase);
            }
            findings.add(found);
        }
    }
    (Replayed { findings, points: points.len(), writes, syncs: platter.syncs }, platter)
}

#[test]
fn no_power_cut_loses_what_the_spool_promised() {
    in_own_process("disk::spool_cuts::no_power_cut_loses_what_the_spool_promised", every_cut());
}

async fn every_cut() {
    let (dir, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = logs.path().join("log");
    child::run("first", dir.path(), &log).await;
    child::run("second", dir.path(), &log).await;
    let events = recording::read(&log, dir.path());
    let (replayed, platter) = replay(&events, wanted(), false).await;
    assert_complete(&platter, dir.path());
    let Replayed { findings, points, writes, syncs } = replayed;
    println!(
        "spool: {points} power cuts in {} recorded steps ({writes} writes, {syncs} syncs): {} failed opens, {} lost, {} invented, {} alarms",
        events.len(),
        findings.failed_opens,
        findings.lost,
        findings.invented,
        findings.alarms,
    );
    assert!(points >= 300 || points >= wanted());
    assert!(!findings.any(), "{}", findings.texts.join("\n"));
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found_out() {
    in_own_process("disk::spool_cuts::a_disk_that_lies_about_its_syncs_is_found_out", a_lying_disk());
}

async fn a_lying_disk() {
    let (dir, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = logs.path().join("log");
    child::run("quick", dir.path(), &log).await;
    let events = recording::read(&log, dir.path());
    let (honest, _) = replay(&events, 40, false).await;
    assert!(!honest.findings.any(), "{}", honest.findings.texts.join("\n"));
    let (lying, _) = replay(&events, 40, true).await;
    println!("a disk that ignores every sync: {} findings at {} power cuts", lying.findings.texts.len(), lying.points);
    assert!(lying.findings.lost > 0, "the examination sees no loss: {:?}", lying.findings);
}
