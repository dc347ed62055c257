//! Pushes as fast as they are answered, and at a fixed pace.

use super::generator::{self, Load, Until};
use super::options::Options;
use super::sample::{ANSWER, ARRIVAL, Sample};
use super::table::{Line, Table};
use super::usage::Syncs;
use super::world::{Each, Subject, World};

const FAST: [Line; 5] = [
    Line { says: "answered/s", figures: &["answered"] },
    Line { says: "delivered/s", figures: &["delivered"] },
    Line { says: "push to answer, ms p50 / p99 / p99.9", figures: &ANSWER },
    Line { says: "CPU µs a push", figures: &["cpu"] },
    Line { says: "disk bytes a push", figures: &["written"] },
];

const PACED: [Line; 3] = [
    Line { says: "push to subscriber, ms p50 / p99 / p99.9", figures: &ARRIVAL },
    Line { says: "push to answer, ms p50 / p99 / p99.9", figures: &ANSWER },
    Line { says: "CPU µs a push", figures: &["cpu"] },
];

/// Each connection sends its next push as soon as the one before was answered.
pub(crate) async fn closed(world: &mut World, options: &Options, table: &mut Table) {
    for connections in [1, 8, 64, 512] {
        let load = Load::fast(connections, Until::Time(options.step()));
        let rounds = rounds(world, options, load).await;
        table.rounds(&format!("pushes, {connections} connections"), &FAST, &rounds);
    }
    for connections in [1, 64] {
        let mut cells = <Each<String>>::default();
        for subject in [Subject::Raw, Subject::Both] {
            let load = Load::fast(connections, Until::Time(options.step().min(std::time::Duration::from_secs(2))));
            cells[subject as usize] = syncs(world, subject, load).await;
        }
        table.cells(&format!("pushes, {connections} connections: syncs a push (under strace)"), cells);
    }
}

/// At a fixed pace, over connections enough that none waits for another.
pub(crate) async fn paced(world: &mut World, options: &Options, table: &mut Table) {
    for (pace, connections) in [(50.0, 4), (1000.0, 32)] {
        let load = Load { pace: Some(pace), ..Load::fast(connections, Until::Time(options.step() * 2)) };
        let rounds = rounds(world, options, load).await;
        table.rounds(&format!("pushes at {pace}/s"), &PACED, &rounds);
    }
}

/// The subjects in turn, round after round.
async fn rounds(world: &mut World, options: &Options, load: Load) -> Each<Vec<Sample>> {
    let mut rounds = <Each<Vec<Sample>>>::default();
    for _ in 0..options.rounds() {
        for subject in Subject::ALL {
            rounds[subject as usize].push(world.push(subject, load).await);
        }
    }
    rounds
}

async fn syncs(world: &mut World, subject: Subject, load: Load) -> String {
    let Some(syncs) = Syncs::of(world.pid(subject)) else { return "no strace".to_owned() };
    let run = world.next_run();
    let outcome = generator::drive(&world.target(subject), load, run).await;
    world.settled(subject).await;
    syncs.end().map_or_else(|| "?".to_owned(), |count| format!("{:.3}", count / outcome.answered() as f64))
}
