//! What the bridge's promises cost: rates, latencies, CPU, disk and memory, each beside a naive server that
//! promises nothing, and pushes also beside the least that storing them can cost.
//!
//! ```sh
//! cargo bench --bench load                      # the full run, about an hour
//! cargo bench --bench load -- --quick           # the same with small numbers, about two minutes
//! cargo bench --bench load -- --only pushes,latency --rounds 9
//! cargo bench --bench load -- --only cluster    # several bridges for one account, with etcd: a table of its own
//! cargo bench --bench load -- --write           # also puts the table into tests/load/RESULTS.md, in place of the last
//! ```
//!
//! Everything runs on loopback as processes of its own: a real Mosquitto, the bridge (three of them, with `output` raw and
//! both, and one that only takes commands in), a subscriber, a cloud that answers when it is told to, the naive server (the same
//! axum and rumqttc, no spool, no waiting for PUBACKs, the answer at once), and `least`, which is naive but for a row of SQLite
//! and a sync before each answer (`roles/least.rs`). The generator is this process. Subjects
//! are measured in turn, in several rounds, and the table shows medians, so that what else the machine does meets all of
//! them alike. The ratios are what to compare; the rates are this machine's.
//!
//! With `--only cluster` it is three bridges for one account and three members of etcd instead (`cluster.rs`).
//!
//! Every message has a number. Whatever was answered and did not arrive is counted in the last column, and makes the exit
//! code 1. Nothing here is a timed test: no figure fails anything.
//!
//! Not run by `cargo test`, not even with `--all-targets`, which only builds it. `cargo bench` builds the program with the
//! features its tests need, too; of what is measured that touches only tokio's clock, by one atomic read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool that cannot measure should say where and stop"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are for people"
)]

mod backlog;
mod cluster;
mod commands;
mod generator;
mod goals;
mod growth;
mod helper;
mod message;
mod mqtt;
mod options;
mod pushes;
mod recorder;
mod resting;
mod roles;
mod routes;
mod sample;
#[path = "../it/support/mod.rs"]
mod support;
mod table;
mod usage;
mod world;

use std::process::ExitCode;

use clap::Parser;

use options::{Options, Role, Section};
use table::Table;
use world::World;

fn main() -> ExitCode {
    let options = Options::parse();
    match options.role {
        Some(Role::Subscriber { port, filters }) => roles::subscriber::run(port, &filters),
        Some(Role::Cloud) => roles::cloud::run(),
        Some(Role::Least { broker, dir }) => roles::least::run(broker, dir),
        Some(Role::Naive { broker, cloud }) => roles::naive::run(broker, cloud),
        None if options.bench => return measure(&options),
        None => println!("load measures only as `cargo bench --bench load`"),
    }
    ExitCode::SUCCESS
}

fn measure(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let table = runtime.block_on(run(options));
    let text = table.markdown(options);
    println!("\n{text}");
    if options.write {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/load/RESULTS.md");
        let written = std::fs::read_to_string(file).unwrap_or_default();
        std::fs::write(file, replaced(&written, options.heading(), &text)).expect("the results can be written");
    }
    if table.lost() > 0 {
        eprintln!("load: {} messages were answered and did not arrive", table.lost());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The results with another table under this heading. What people say about the figures stays, and so does the other table.
fn replaced(results: &str, heading: &str, table: &str) -> String {
    let mut chapters: Vec<_> = results.split("\n## ").map(str::trim_end).map(str::to_owned).collect();
    let name = heading.trim_start_matches("## ");
    let chapter = format!("{name}\n\n{}", table.trim_end());
    match chapters.iter_mut().find(|chapter| chapter.lines().next() == Some(name)) {
        Some(there) => *there = chapter,
        None => chapters.push(chapter),
    }
    chapters.join("\n\n## ") + "\n"
}

async fn run(options: &Options) -> Table {
    let mut table = Table::new();
    let mut world = World::start().await;
    for section in options.sections() {
        eprintln!("load: {section:?}");
        match section {
            Section::Resting => resting::measure(&mut world, options, &mut table).await,
            Section::Pushes => pushes::closed(&mut world, options, &mut table).await,
            Section::Latency => pushes::paced(&mut world, options, &mut table).await,
            Section::Commands => commands::measure(&mut world, options, &mut table).await,
            Section::Backlog => backlog::measure(&mut world, options, &mut table).await,
            Section::Growth => growth::measure(&mut world, options, &mut table).await,
            Section::Routes => routes::measure(&mut world, options, &mut table).await,
            Section::Cluster => cluster::measure(&mut world, options, &mut table).await,
        }
    }
    table
}
