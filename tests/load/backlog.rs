//! An outage of the broker: pushes pile up, the bridge is killed and started again, the broker comes back.

use std::time::{Duration, Instant};

use super::generator::{self, Load, Until};
use super::options::Options;
use super::resting::start_to_listening;
use super::table::{Table, number};
use super::usage;
use super::world::{Subject, World};

const CONNECTIONS: usize = 64;

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    let live = world.push(Subject::Raw, Load::fast(CONNECTIONS, Until::Time(options.step()))).await;
    let run = world.next_run();
    world.subscriber.begin(run);
    world.broker.stop();
    let target = world.target(Subject::Raw);
    let mut spooled = 0;
    // All in one run: the generator numbers them through.
    let mut numbers = generator::Numbers::default();
    for level in [1_000, 10_000, 100_000, 1_000_000, options.backlog()] {
        let level = level.min(options.backlog());
        if level <= spooled {
            continue;
        }
        let pid = world.pid(Subject::Raw);
        usage::forget_peak(pid);
        let load = Load::fast(CONNECTIONS, Until::Count(level));
        let outcome = generator::drive_on(&target, load, run, &mut numbers).await;
        let seconds = (outcome.ended_ns - outcome.began_ns) as f64 / 1e9;
        let rate = (level - spooled) as f64 / seconds;
        let [now, anonymous, peak] = usage::memory(pid);
        table.single(
            &format!("outage, {spooled} to {level} spooled: answered/s; MB resident (anonymous; peak)"),
            format!("{}; {now:.1} ({anonymous:.1}; {peak:.1})", number(rate)),
        );
        spooled = level;
    }
    world.raw.kill();
    let ready = start_to_listening(&mut world.raw);
    table.single(&format!("killed with {spooled} spooled: start to listening, ms"), number(ready));
    drain(world, table, spooled, &numbers.unanswered, live.get("delivered").unwrap_or(0.0)).await;
}

async fn drain(world: &mut World, table: &mut Table, spooled: u64, unanswered: &[u64], live: f64) {
    let pid = world.pid(Subject::Raw);
    usage::forget_peak(pid);
    let began = Instant::now();
    world.broker.restart();
    let arrived = world.subscriber.arrived(spooled, unanswered);
    world.settled(Subject::Raw).await;
    let rate = arrived.distinct as f64 / (arrived.last_ns.saturating_sub(arrived.first_ns)) as f64 * 1e9;
    let [now, anonymous, peak] = usage::memory(pid);
    table.drained(
        &format!("backlog of {spooled}: delivered/s once connected"),
        format!("{} ({:.2} of live, {} copies)", number(rate), rate / live, arrived.copies),
        spooled - unanswered.len() as u64,
        arrived.missing,
    );
    table.single("… while draining: MB resident (anonymous; peak)", format!("{now:.1} ({anonymous:.1}; {peak:.1})"));
    table.single("… from the broker's start to the last, s", number(began.elapsed().as_secs_f64()));
    world.raw.wait_ready().await;
    world.both.wait_ready().await;
    // The naive server waits 50 ms between two attempts.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
