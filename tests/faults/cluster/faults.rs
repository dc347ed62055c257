//! Applies the faults of a cluster's schedule.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::world::Cluster;
use crate::proxy::Trouble;
use crate::records::{Applied, Time};
use crate::schedule::{Broken, Step, Way};
use crate::world::GENEROUS;

/// So long after etcd stood still the bridges may still not have reached it again.
const AFTER: Time = 3 * crate::records::SECOND;
/// A slow member of etcd: so long it stands still, and so long it goes.
const SLOW: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(150)];

/// Applies one step: waits for a leader that works, then the fault, and the load that follows it.
pub(crate) async fn apply(cluster: &mut Cluster, number: usize, step: Step<Broken>) {
    cluster.check();
    let leader = cluster.leader().await;
    let began = cluster.recorder.now();
    let index = {
        let mut records = cluster.recorder.lock();
        let what = format!("step {number}, {} leads: {step}", super::world::NAMES[leader]);
        records.faults.push(Applied { began, ended: None, what });
        records.faults.len() - 1
    };
    fault(cluster, leader, step.fault).await;
    let ended = cluster.recorder.now();
    {
        let mut records = cluster.recorder.lock();
        records.faults[index].ended = Some(ended);
        if keeps_from_noting(step.fault) {
            records.hiccups.push((began, ended + AFTER));
        }
    }
    sleep(Duration::from_millis(step.gap_ms)).await;
}

/// Whether a leader may be unable to note what it was told, without its process having ended.
fn keeps_from_noting(fault: Broken) -> bool {
    matches!(
        fault,
        Broken::LeaderPause { .. }
            | Broken::LeaderCut { .. }
            | Broken::EtcdKill { .. }
            | Broken::MajorityKill { .. }
            | Broken::EtcdSlow { .. }
    )
}

async fn fault(cluster: &mut Cluster, leader: usize, fault: Broken) {
    let ms = |ms| sleep(Duration::from_millis(ms));
    match fault {
        Broken::LeaderKill { down_ms } => {
            cluster.lost(leader, "SIGKILL");
            cluster.kill(leader);
            ms(down_ms).await;
            cluster.spawn(leader);
        }
        Broken::SuccessorKill { down_ms } => {
            cluster.kill(leader);
            let next = timeout(GENEROUS, cluster.leading(|_| true)).await;
            match next {
                Ok(next) => cluster.kill(next),
                Err(_) => cluster.recorder.incident("nobody took over"),
            }
            ms(down_ms).await;
            cluster.spawn(leader);
            if let Some(next) = next.ok().filter(|next| *next != leader) {
                cluster.spawn(next);
            }
        }
        Broken::StandbyKill { down_ms } => {
            let standby = (leader + 1) % cluster.members.len();
            cluster.kill(standby);
            ms(down_ms).await;
            cluster.spawn(standby);
        }
        Broken::LeaderTerm { down_ms } => {
            cluster.lost(leader, "SIGTERM");
            cluster.stop(leader).await;
            ms(down_ms).await;
            cluster.spawn(leader);
        }
        Broken::StepDown => step_down(cluster, leader).await,
        Broken::LeaderPause { ms: pause } => {
            cluster.members[leader].bridge.process().pause();
            ms(pause).await;
            cluster.members[leader].bridge.process().resume();
        }
        Broken::LeaderCut { ms: cut, silent } => {
            let trouble = if silent { Trouble::HalfOpen(Way::Both) } else { Trouble::Refuse };
            cluster.members[leader].reach_etcd(trouble);
            ms(cut).await;
            cluster.members[leader].reach_etcd(Trouble::None);
        }
        Broken::LinkCut { ms: cut } => {
            cluster.members[leader].link.trouble(Trouble::Refuse);
            ms(cut).await;
            cluster.members[leader].link.trouble(Trouble::None);
        }
        Broken::EtcdKill { which, down_ms } => {
            cluster.etcds[which].kill();
            ms(down_ms).await;
            cluster.etcds[which].spawn();
        }
        Broken::MajorityKill { which, down_ms } => {
            let two = [which, (which + 1) % cluster.etcds.len()];
            for etcd in two {
                cluster.etcds[etcd].kill();
            }
            ms(down_ms).await;
            for etcd in two {
                cluster.etcds[etcd].spawn();
            }
        }
        Broken::EtcdSlow { which, ms } => {
            let (began, etcd) = (Instant::now(), &cluster.etcds[which]);
            while began.elapsed() < Duration::from_millis(ms) {
                etcd.pause();
                sleep(SLOW[0]).await;
                etcd.resume();
                sleep(SLOW[1]).await;
            }
        }
        Broken::Clock { seconds } => {
            let began = cluster.recorder.now();
            cluster.members[leader].clock.step(seconds);
            ms(1000).await;
            step_down(cluster, leader).await;
            cluster.leader().await;
            cluster.members[leader].clock.step(-seconds);
            let ended = cluster.recorder.now();
            cluster.recorder.lock().clocks_apart.push((began, ended));
        }
    }
}

async fn step_down(cluster: &Cluster, leader: usize) {
    cluster.asked_to_go(leader);
    cluster.lost(leader, "step-down");
    let done = cluster.members[leader].bridge.verb(&["step-down"]).await;
    if done.text.contains("does not lead") {
        // Lost in this moment, by an earlier fault.
        cluster.recorder.lock().losses.pop();
    } else if done.code != Some(0) {
        cluster.recorder.incident(&format!("step-down of the leader: {done:?}"));
    }
}
