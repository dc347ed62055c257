//! The world of several bridges: three members and three etcd, one broker, the simulated service, and what goes wrong there.
//!
//! ```text
//!           load ──► proxies ──► three bridges ──► proxies ──► Mosquitto ◄── load
//!   (as a load balancer does)      │        │                      ▲
//!                               proxies  proxies                   └── a listener
//!                                  ▼        ▼
//!                           three etcd    iLink sim
//! ```
//!
//! Load, records and accounting are those of the one bridge. Who leads is asked of etcd, past the proxies. Between the members
//! of etcd nothing is cut: a member that is stopped or killed stands for that.

mod faults;
mod measure;
mod watch;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::doors::Doors;
use crate::load::Load;
use crate::schedule::{self, Brief, Broken};
use crate::support::etcd::Member as Etcd;
use crate::support::within;
use crate::world::{GENEROUS, try_group};
use crate::{Conclusion, conclude, peer, pulse};
use world::Cluster;

pub(crate) use world::NAMES;

/// A run with a cluster: its report, and whether all was well.
pub(crate) async fn under_fire(args: &Args, logs: &Path) -> (String, bool) {
    let began = Instant::now();
    let takeover_ms = u64::try_from(args.takeover.as_millis()).unwrap_or(u64::MAX);
    let steps = match args.takeovers {
        Some(count) => schedule::takeovers(count),
        None => schedule::broken(args.seed, args.faults, takeover_ms),
    };
    std::fs::write(logs.join("schedule.txt"), schedule::listed(&steps)).expect("the logs can be written");
    eprintln!("faults: a cluster, seed {}, {} steps", args.seed, steps.len());
    let mut cluster = Cluster::start(logs, &args.log_level, args.takeover).await;
    let (recorder, quiet) = (Arc::clone(&cluster.recorder), CancellationToken::new());
    let ports = cluster.etcds.iter().map(Etcd::port).collect();
    let watching = [
        tokio::spawn(peer::listen(cluster.broker.port(), Arc::clone(&recorder), quiet.clone())),
        tokio::spawn(pulse::watch(logs.join("pulse"), Arc::clone(&recorder), quiet.clone())),
        tokio::spawn(watch::watch(ports, Arc::clone(&recorder), quiet.clone())),
    ];
    for member in 0..cluster.members.len() {
        cluster.spawn(member);
    }
    let load = load(&cluster).await;
    let lanes = load.start();

    let fire = Instant::now();
    for (number, step) in steps.iter().enumerate() {
        if number % 10 == 0 {
            eprintln!("faults: {} s: step {number} of {}", began.elapsed().as_secs(), steps.len());
        }
        faults::apply(&mut cluster, number, *step).await;
    }
    let under_fire = fire.elapsed();

    // With the load still on, which shows that a leader works.
    cluster.heal().await;
    load.stop.cancel();
    lanes.wait().await;
    cluster.drained().await;
    // The leader last: after it another would lead, for too short a time to be noticed.
    let leader = cluster.leading(|_| true).await;
    for member in (0..cluster.members.len()).filter(|member| *member != leader).chain([leader]) {
        cluster.stop(member).await;
    }
    quiet.cancel();
    for watching in watching {
        watching.await.expect("it ends");
    }
    cluster.save_logs();
    let extra = measure::text(&recorder.lock(), args.takeover);
    let schedule = Brief::of(&steps, Broken::kind);
    conclude(args, logs, &recorder, Conclusion { schedule, began, under_fire, soak: None, cluster: Some(extra) })
}

/// Less than for the one bridge: its processes are four times as many.
async fn load(cluster: &Cluster) -> Load {
    // Whoever leads: it may be another one by the next try.
    let group = within(GENEROUS, "a group at iLink", async || {
        let leader = cluster.leading(|_| true).await;
        try_group(&cluster.members[leader].bridge).await
    });
    Load {
        recorder: Arc::clone(&cluster.recorder),
        doors: Doors::new(cluster.callbacks()),
        service: cluster.sim.url(),
        broker: cluster.broker.port(),
        group: group.await,
        push_every: std::time::Duration::from_millis(400),
        command_every: std::time::Duration::from_millis(600),
        at_once: 0,
        stop: CancellationToken::new(),
    }
}
