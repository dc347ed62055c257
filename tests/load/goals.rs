//! What is aimed at, and how far the figures of a table are from it.

use std::fmt::Write as _;

/// Which cell of a row.
#[derive(Clone, Copy)]
enum In {
    Raw,
    Both,
    RawToNaive,
    BothToNaive,
    RawToLeast,
    BothToLeast,
}

/// A figure: the number at a place of a row's cell; of several rows that begin so, the largest.
#[derive(Clone, Copy)]
struct Figure(&'static str, In, usize);

enum Bound {
    Most(f64),
    Least(f64),
    /// Of another figure.
    MostTimes(f64, Figure),
    LeastTimes(f64, Figure),
}

use Bound::{Least, LeastTimes, Most, MostTimes};
use In::{Both, BothToLeast, BothToNaive, Raw, RawToLeast, RawToNaive};

const SYNC: Figure = Figure("one write of 4 KiB and fdatasync", Raw, 0);
const AT_64: &str = "pushes, 64 connections: answered/s";
const AT_512: &str = "pushes, 512 connections: answered/s";
const TO_SUBSCRIBER: &str = "pushes at 1000/s: push to subscriber";

/// Eight lanes at 50 ms make 160 calls a second.
const GOALS: [(&str, Figure, Bound); 30] = [
    ("pushes at 64 connections, raw, beside naive", Figure(AT_64, RawToNaive, 0), Least(0.6)),
    ("pushes at 64 connections, both, beside naive", Figure(AT_64, BothToNaive, 0), Least(0.4)),
    ("pushes at 64 connections, raw, beside the least", Figure(AT_64, RawToLeast, 0), Least(0.95)),
    ("pushes at 64 connections, both, beside the least", Figure(AT_64, BothToLeast, 0), Least(0.9)),
    (
        "CPU a push at 64 connections, raw, beside the least",
        Figure("pushes, 64 connections: CPU", RawToLeast, 0),
        Most(1.4),
    ),
    (
        "one connection: p50, raw, beside the least",
        Figure("pushes, 1 connections: push to answer", RawToLeast, 0),
        Most(1.15),
    ),
    ("one push a second: disk bytes a push", Figure("one push a second: disk bytes", Raw, 0), Most(8200.0)),
    ("512 connections beside 64, raw", Figure(AT_512, Raw, 0), LeastTimes(0.9, Figure(AT_64, Raw, 0))),
    ("512 connections beside 64, both", Figure(AT_512, Both, 0), LeastTimes(0.9, Figure(AT_64, Both, 0))),
    (
        "one connection: p50 beside one sync, ms",
        Figure("pushes, 1 connections: push to answer", Raw, 0),
        MostTimes(2.5, SYNC),
    ),
    ("push to subscriber at 1,000/s: p50, ms", Figure(TO_SUBSCRIBER, Raw, 0), Most(1.0)),
    ("push to subscriber at 1,000/s: p99, ms", Figure(TO_SUBSCRIBER, Raw, 1), Most(5.0)),
    ("commands taken in/s", Figure("commands: taken in/s", Raw, 0), Least(5000.0)),
    ("calls/s, answered after 50 ms", Figure("commands, calls answered after 50 ms: calls/s", Raw, 0), Least(144.0)),
    ("drain beside live", Figure("backlog of", Raw, 1), Least(0.5)),
    ("peak memory while spooling, MB", Figure("outage, ", Raw, 3), Most(40.0)),
    ("peak memory while draining, MB", Figure("… while draining", Raw, 2), Most(40.0)),
    ("start with the backlog, ms", Figure("killed with", Raw, 0), Most(300.0)),
    ("memory idle, MB", Figure("idle: MB resident", Raw, 0), Most(12.0)),
    ("peak memory at full load, raw, MB", Figure("pushes of 1 senders: MB resident, peak", Raw, 0), Most(24.0)),
    ("size of the program, MB", Figure("size of the program", Raw, 0), Most(10.0)),
    ("start, ms", Figure("start to listening", Raw, 0), Most(100.0)),
    ("idle: bytes written", Figure("idle: disk bytes", Raw, 0), Most(0.0)),
    ("idle: CPU %", Figure("idle: CPU", Raw, 0), Most(0.1)),
    ("1,000 routes with patterns: CPU beside none", Figure("1,000 routes of the sender, each", Raw, 0), Most(2.0)),
    ("1,000 routes, half for JSON: CPU beside none", Figure("1,000 routes of the sender, half", Raw, 0), Most(2.0)),
    ("cluster, 64 connections: answered/s", Figure("cluster, 64 connections: answered/s", Raw, 0), Least(2000.0)),
    (
        "cluster, one connection to the leader: p50 beside one transaction of etcd",
        Figure("cluster, one connection to the leader: p50", Raw, 0),
        Most(1.5),
    ),
    (
        "cluster, one connection to a standby: p50 beside one transaction of etcd",
        Figure("cluster, one connection to a standby: p50", Raw, 0),
        Most(1.5),
    ),
    ("cluster, memory of a standby, MB", Figure("cluster, a standby idle", Raw, 0), Most(12.0)),
];

/// A row of the table: what it says, and its cells as in [`In`].
pub(super) type Cells<'t> = (&'t str, [&'t str; 6]);

/// The goals that these rows say something about.
pub(super) fn markdown(rows: &[Cells<'_>]) -> String {
    let mut text = "| goal | | measured | met |\n|---|--:|--:|---|\n".to_owned();
    for (name, figure, bound) in &GOALS {
        let Some(measured) = figure.of(rows) else { continue };
        let times = |factor: f64, other: Figure| other.of(rows).map(|other| factor * other);
        let (sign, limit) = match *bound {
            Most(limit) => ("≤", Some(limit)),
            Least(limit) => ("≥", Some(limit)),
            MostTimes(factor, other) => ("≤", times(factor, other)),
            LeastTimes(factor, other) => ("≥", times(factor, other)),
        };
        let Some(limit) = limit else { continue };
        let met = if sign == "≤" { measured <= limit } else { measured >= limit };
        let [limit, measured] = [limit, measured].map(super::table::number);
        let _ = writeln!(text, "| {name} | {sign} {limit} | {measured} | {} |", if met { "yes" } else { "**no**" });
    }
    text
}

impl Figure {
    fn of(self, rows: &[Cells<'_>]) -> Option<f64> {
        let Self(says, column, place) = self;
        let rows = rows.iter().filter(|row| row.0.starts_with(says));
        rows.filter_map(|row| numbers(row.1[column as usize]).nth(place)).max_by(f64::total_cmp)
    }
}

/// The numbers in a cell, in order.
fn numbers(cell: &str) -> impl Iterator<Item = f64> {
    cell.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ',')
        .filter_map(|number| number.trim_end_matches(['.', ',']).replace(',', "").parse().ok())
}
