//! Cost grows with the work and with nothing else: many senders, many receivers, large contents.

use super::commands;
use super::generator::{Load, Until};
use super::options::Options;
use super::sample::Sample;
use super::table::{Line, Table};
use super::usage;
use super::world::{Each, Subject, World};

const SUBJECTS: [Subject; 2] = [Subject::Naive, Subject::Raw];

const PUSHES: [Line; 3] = [
    Line { says: "delivered/s", figures: &["delivered"] },
    Line { says: "CPU µs a push", figures: &["cpu"] },
    Line { says: "MB resident, peak", figures: &["peak"] },
];
const COMMANDS: [Line; 2] =
    [Line { says: "calls/s", figures: &["calls"] }, Line { says: "MB resident, peak", figures: &["peak"] }];

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    for senders in [1, 100, 10_000] {
        let load = Load { senders, ..Load::fast(64, Until::Time(options.step())) };
        pushes(world, options, table, &format!("pushes of {senders} senders"), load).await;
    }
    for (name, size) in [("100 B", 100), ("4 KB", 4096), ("64 KB", 65_536), ("1 MB", 1_048_576)] {
        let load = Load { size, ..Load::fast(8, Until::Time(options.step())) };
        pushes(world, options, table, &format!("pushes of {name}, 8 connections"), load).await;
    }
    for receivers in [1, 100, 10_000] {
        let mut rounds = <Each<Vec<Sample>>>::default();
        fresh(world).await;
        for _ in 0..options.rounds() {
            for subject in SUBJECTS {
                let pid = world.pid(subject);
                usage::forget_peak(pid);
                let mut sample = commands::flood(world, subject, options.commands(), receivers).await;
                sample.set("peak", usage::memory(pid)[2]);
                rounds[subject as usize].push(sample);
            }
        }
        table.rounds(&format!("commands to {receivers} receivers"), &COMMANDS, &rounds);
    }
}

async fn pushes(world: &mut World, options: &Options, table: &mut Table, about: &str, load: Load) {
    let mut rounds = <Each<Vec<Sample>>>::default();
    fresh(world).await;
    for _ in 0..options.rounds() {
        for subject in SUBJECTS {
            let pid = world.pid(subject);
            usage::forget_peak(pid);
            let mut sample = world.push(subject, load).await;
            sample.set("peak", usage::memory(pid)[2]);
            rounds[subject as usize].push(sample);
        }
    }
    table.rounds(about, &PUSHES, &rounds);
}

/// A bridge with nothing of what was before in its memory.
async fn fresh(world: &mut World) {
    world.raw.stop().await;
    world.raw.start().await;
}
