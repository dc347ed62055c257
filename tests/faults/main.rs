//! The fault harness: the real bridge, a real Mosquitto and the simulated service as processes of their own, numbered messages
//! both ways all the time, and meanwhile kills, cuts, stalls, wrong answers and clock steps. Then every message is accounted
//! for: lost, doubled, out of order, with a wrong result or without one.
//!
//! ```text
//!            load ──► proxy ──► bridge ──► proxy ──► Mosquitto ◄── load
//!   (pushes as iLink)             │                     ▲   (commands as devices)
//!                               proxy ──► iLink sim     └── a listener
//! ```
//!
//! The proxies make the network's faults and record what passed; the verdict is drawn from these records alone.
//!
//! - `cargo test`: a short run, a fixed seed, every kind of fault.
//! - `cargo test --release --test faults -- --seed 1 --kills 200 --report target/faults.md`: a long one.
//! - `cargo test --test faults -- --cluster`: the same with three bridges and three etcd (see `cluster.rs`); `--faults 200` makes
//!   it a long one, `--takeovers 50` measures how long it takes until another member does the leader's work.
//! - `cargo test --release --test faults -- --soak 30m --report target/soak.md`: no faults; does what the process holds stay flat?
//!
//! The same seed gives the same schedule. Which message a fault meets is the machine's doing: a run cannot be replayed, but a
//! failing one names each message with all that was seen of it, and keeps the logs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests; clippy's exception for tests does not reach a program of its own"
)]

mod account;
mod args;
mod clock;
mod cluster;
mod disk;
mod doors;
mod faults;
mod http_tap;
mod labels;
mod load;
mod mqtt_tap;
mod peer;
mod proxy;
mod pulse;
mod records;
mod report;
mod schedule;
mod soak;
#[path = "../it/support/mod.rs"]
mod support;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use args::{Args, Asked};
use doors::Doors;
use load::Load;
use records::Recorder;
use schedule::Brief;
use soak::Soak;
use world::World;

const HELP: &str = "\
The fault harness of ilink2mqtt.

  cargo test --test faults -- [OPTIONS]

  --seed N         which schedule (default 1)
  --kills N        go on until the bridge was killed so often, in whole rounds (default 1: one round)
  --cluster        three bridges and three etcd instead of one bridge
  --faults N       of a cluster: so many (default: one of each kind)
  --takeovers N    of a cluster: the leader is killed so often, and each time its successor steps down; times are measured
  --takeover TIME  of a cluster: `cluster.takeover` (default 3s)
  --soak TIME      no faults: a steady load for so long (30m); what the process holds must stay flat
  --report FILE    write the report (Markdown), besides printing it
  --log-level L    of the bridge, kept with the logs of a failed run (default debug)

Exit code 0: nothing lost, nothing wrong. Options of cargo test are understood; with a filter that does not name `faults`
nothing is run.";

fn main() -> ExitCode {
    match args::parse(std::env::args().skip(1)) {
        Asked::Run(args) => run(&args),
        Asked::Help => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Asked::List => {
            println!("faults: test");
            ExitCode::SUCCESS
        }
        Asked::Nothing => {
            println!("faults: not run, the filter names something else");
            ExitCode::SUCCESS
        }
        Asked::Wrong(wrong) => {
            eprintln!("faults: {wrong}\n\n{HELP}");
            ExitCode::from(64)
        }
    }
}

fn run(args: &Args) -> ExitCode {
    args::self_check();
    schedule::self_check();
    doors::self_check();
    account::self_check();
    soak::self_check();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(6).enable_all().build().expect("a runtime");
    // Kept when anything fails, a panic included; removed when all is well.
    let logs = tempfile::Builder::new().prefix("faults-").tempdir().expect("a temporary directory").keep();
    eprintln!("faults: logs in {}", logs.display());
    let (text, well) = runtime.block_on(async {
        if args.cluster { cluster::under_fire(args, &logs).await } else { under_fire(args, &logs).await }
    });
    println!("{text}");
    if let Some(file) = &args.report {
        std::fs::write(file, &text).expect("the report can be written");
    }
    if well {
        let _ = std::fs::remove_dir_all(&logs);
        println!("test result: ok. 1 passed; 0 failed (faults)");
        return ExitCode::SUCCESS;
    }
    println!("test result: FAILED (faults)");
    ExitCode::FAILURE
}

/// A run: its report, and whether all was well.
async fn under_fire(args: &Args, logs: &Path) -> (String, bool) {
    let began = Instant::now();
    let steps = if args.soak.is_some() { Vec::new() } else { schedule::schedule(args.seed, args.kills) };
    std::fs::write(logs.join("schedule.txt"), schedule::listed(&steps)).expect("the logs can be written");
    eprintln!("faults: seed {}, {} steps, digest {}", args.seed, steps.len(), schedule::digest(&steps));
    let mut world = World::start(logs, &args.log_level, args.soak.is_none()).await;
    let (load, listening) = (load(&world, args.soak.is_some()).await, CancellationToken::new());
    let listener = tokio::spawn(peer::listen(world.broker.port(), Arc::clone(&world.recorder), listening.clone()));
    let watching = tokio::spawn(pulse::watch(logs.join("pulse"), Arc::clone(&world.recorder), listening.clone()));
    let lanes = load.start();

    let fire = Instant::now();
    for (number, step) in steps.iter().enumerate() {
        if number % 50 == 0 {
            eprintln!("faults: {} s: step {number} of {}", began.elapsed().as_secs(), steps.len());
        }
        faults::apply(&mut world, number, *step).await;
    }
    let soak = match args.soak {
        Some(how_long) => Some(Soak::watch(&mut world, how_long).await),
        None => None,
    };
    let under_fire = fire.elapsed();

    load.stop.cancel();
    lanes.wait().await;
    settle(&mut world).await;
    listening.cancel();
    listener.await.expect("the listener ends");
    watching.await.expect("the pulse ends");
    world.save_logs();

    let grown = soak.as_ref().map(Soak::grown).unwrap_or_default();
    let grown = grown.into_iter().map(|what| format!("not flat: {what}"));
    world.recorder.lock().incidents.extend(grown);
    let schedule = Brief::of(&steps, |fault| fault.kind());
    conclude(args, logs, &world.recorder, Conclusion { schedule, began, under_fire, soak, cluster: None })
}

/// What a run tells at its end besides its records.
struct Conclusion {
    schedule: Brief,
    began: Instant,
    under_fire: Duration,
    soak: Option<Soak>,
    cluster: Option<String>,
}

/// The account of a run: its report, and whether all was well.
fn conclude(args: &Args, logs: &Path, recorder: &Recorder, concluded: Conclusion) -> (String, bool) {
    let records = recorder.lock();
    let verdict = account::account(&records);
    let all = |violation: &account::Violation| format!("{:?}: {}\n\n", violation.rule, violation.what);
    let all: Vec<_> = verdict.violations.iter().map(all).collect();
    std::fs::write(logs.join("violations.txt"), all.concat()).expect("the logs can be written");
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let run = report::Run {
        command: format!("cargo test {release}--test faults -- {command}"),
        seed: args.seed,
        schedule: concluded.schedule,
        under_fire: concluded.under_fire,
        whole: concluded.began.elapsed(),
        soak: concluded.soak.as_ref(),
        cluster: concluded.cluster,
        logs,
    };
    (report::text(&run, &records, &verdict), verdict.violations.is_empty())
}

/// Ten lanes of pushes and twelve of commands: 50 pushes and 40 commands in a second, or 20 and 10 for a soak.
async fn load(world: &World, soak: bool) -> Load {
    let (push_ms, command_ms) = if soak { (500, 1200) } else { (200, 300) };
    Load {
        recorder: Arc::clone(&world.recorder),
        doors: Doors::new(vec![world.callback()]),
        service: world.sim.url(),
        broker: world.broker.port(),
        group: world::make_group(&world.bridge).await,
        push_every: Duration::from_millis(push_ms),
        command_every: Duration::from_millis(command_ms),
        at_once: if soak { soak::AT_ONCE } else { 0 },
        stop: CancellationToken::new(),
    }
}

/// Faults off, everything delivered, the bridge stopped, the spool looked into.
async fn settle(world: &mut World) {
    world.heal().await;
    world.drained().await;
    world.stop_bridge().await;
    let spooled = world.spooled().await;
    world.recorder.lock().spooled = spooled;
}
