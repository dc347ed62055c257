//! What 1,000 routes cost a push that fires none of them, beside none at all.

use std::fmt::Write as _;

use super::generator::{Load, Until};
use super::options::Options;
use super::sample::Sample;
use super::table::{Line, Table, number};
use super::world::{Subject, World};

const ROUTES: usize = 1000;
/// The one sender of these loads.
const SENDER: u32 = 100_000;

const LINES: [Line; 3] = [
    Line { says: "delivered/s", figures: &["delivered"] },
    Line { says: "CPU µs a push", figures: &["cpu"] },
    Line { says: "MB resident", figures: &["resident"] },
];

/// How the rule of this number selects.
type Selects = fn(usize) -> String;

/// Sets of rules, by name.
const SETS: [(&str, Selects); 4] = [
    ("no routes", |_| String::new()),
    ("1,000 routes of other senders", |n| format!("from = \"user/{n}/text\"\n")),
    ("1,000 routes of the sender, each with a pattern", |n| {
        format!("from = \"user/{SENDER}/text\"\nmatch = '(?i)^(?<dev>lamp{n}) (?<v>on|off)$'\n")
    }),
    ("1,000 routes of the sender, half with patterns, half for JSON", |n| {
        let selects = if n % 2 == 0 { "match = '[0-9]+ (?<v>°C|K)'" } else { "payload = \"${json:/level}\"" };
        format!("from = \"user/{SENDER}/text\"\n{selects}\n")
    }),
];

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    let mut rounds: [Vec<Sample>; SETS.len()] = Default::default();
    for _ in 0..options.rounds() {
        for ((_, selects), rounds) in SETS.iter().zip(&mut rounds) {
            restart(world, &rules(*selects)).await;
            let load = Load::fast(64, Until::Time(options.step()));
            let mut sample = world.push(Subject::Raw, load).await;
            sample.set("resident", super::usage::memory(world.pid(Subject::Raw))[0]);
            rounds.push(sample);
        }
    }
    let cpu = |rounds: &[Sample]| Sample::median(rounds).get("cpu").unwrap_or_default();
    let none = cpu(&rounds[0]);
    for ((name, _), rounds) in SETS.iter().zip(rounds) {
        let ratio = cpu(&rounds) / none;
        table.rounds(&format!("pushes, 64 connections, {name}"), &LINES, &[Vec::new(), Vec::new(), rounds, Vec::new()]);
        table.single(&format!("{name}: CPU beside no routes"), number(ratio));
    }
    restart(world, "").await;
}

async fn restart(world: &mut World, rules: &str) {
    world.raw.stop().await;
    world.raw.set_tables(rules);
    world.raw.start().await;
}

fn rules(selects: Selects) -> String {
    let mut rules = String::new();
    if selects(0).is_empty() {
        return rules;
    }
    for n in 0..ROUTES {
        let topic = format!("cmnd/device{n}/POWER");
        let _ = write!(rules, "\n[[route.from_ilink]]\nname = \"r{n}\"\ntopic = \"{topic}\"\n{}", selects(n));
    }
    rules
}
