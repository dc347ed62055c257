//! Applies the faults of the schedule.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::peer::Peer;
use crate::proxy::Trouble;
use crate::records::Applied;
use crate::schedule::{Fault, Ill, Net, Side, Step};
use crate::support::bridge::UID;
use crate::world::World;

/// How long a calm may take: some faults have waits of minutes as their consequence, which a later restart ends.
const CALM: Duration = Duration::from_secs(20);

/// How long is waited for a sync that is to fail.
const SYNC_COMES: Duration = Duration::from_secs(4);

/// Applies one step: the fault, and the load that follows it.
pub(crate) async fn apply(world: &mut World, number: usize, step: Step) {
    world.check_bridge();
    let began = world.recorder.now();
    let what = format!("step {number}: {step}");
    let index = {
        let mut records = world.recorder.lock();
        records.faults.push(Applied { began, ended: None, what });
        records.faults.len() - 1
    };
    fault(world, step.fault).await;
    let ended = world.recorder.now();
    world.recorder.lock().faults[index].ended = Some(ended);
    sleep(Duration::from_millis(step.gap_ms)).await;
}

async fn fault(world: &mut World, fault: Fault) {
    let ms = |ms| sleep(Duration::from_millis(ms));
    match fault {
        Fault::BridgeKill { down_ms } => {
            world.kill_bridge();
            ms(down_ms).await;
            world.spawn_bridge();
        }
        Fault::BridgeKillTwice { down_ms, again_ms } => {
            world.kill_bridge();
            ms(down_ms).await;
            world.spawn_bridge();
            ms(again_ms).await;
            world.check_bridge();
            world.kill_bridge();
            world.spawn_bridge();
        }
        Fault::BridgeKillWithoutBroker { down_ms } => {
            world.broker.stop();
            ms(down_ms / 2).await;
            world.kill_bridge();
            world.spawn_bridge();
            ms(down_ms).await;
            world.broker.restart();
        }
        Fault::BridgeKillWithoutApi { down_ms } => {
            network(world, Side::Api, Net::Refuse { ms: down_ms * 2 }).await;
            ms(down_ms / 2).await;
            world.kill_bridge();
            world.spawn_bridge();
            ms(down_ms).await;
        }
        Fault::BridgeTerm { down_ms } => {
            world.stop_bridge().await;
            ms(down_ms).await;
            world.spawn_bridge();
        }
        Fault::BrokerKill { down_ms } => {
            world.broker.kill();
            let at = world.recorder.now();
            world.recorder.lock().broker_losses.push(at);
            ms(down_ms).await;
            world.broker.restart();
        }
        Fault::BrokerTerm { down_ms } => {
            world.broker.stop();
            ms(down_ms).await;
            world.broker.restart();
        }
        Fault::BrokerPause { ms: pause } => {
            world.broker.pause();
            ms(pause).await;
            world.broker.resume();
        }
        Fault::Takeover { hold_ms, wipe } => {
            let client_id = format!("ilink2mqtt-{UID}");
            let intruder = Peer::connect(world.broker.port(), &client_id, (!wipe).then_some(3600)).await;
            if wipe {
                let at = world.recorder.now();
                world.recorder.lock().broker_losses.push(at);
            }
            ms(hold_ms).await;
            drop(intruder);
        }
        Fault::Network { side, net } => network(world, side, net).await,
        Fault::Service(ill) => service(world, ill).await,
        Fault::Expire => world.sim.expire().await,
        Fault::Forget => world.sim.forget().await,
        Fault::Clock { seconds } => {
            world.clock.step(seconds);
            if seconds > 0 {
                let at = world.recorder.now();
                world.recorder.lock().clock_forward.push(at);
            }
        }
        Fault::SyncFails { file, number, after_ms } => sync_fails(world, file, number, after_ms).await,
        Fault::DiskHangs { ms: each, for_ms } => disk_hangs(world, each, for_ms).await,
        Fault::Outage { side, ms } => {
            network(world, side, Net::Refuse { ms }).await;
            healed(world, side).await;
        }
        Fault::ServiceDown { ms: down } => {
            let at = world.recorder.now();
            world.recorder.lock().api_troubles.push((at, at + down * 1000));
            world.sim.fault(&json!({"mode": "status", "code": 500, "times": 0})).await;
            ms(down).await;
            world.sim.fault(&json!({"mode": "clear"})).await;
        }
        Fault::BrokerBusy { code, ms } => broker(world, Trouble::Busy(code), Some(ms)).await,
        // It passes with the next push.
        Fault::BrokerRefusesOnce { code } => broker(world, Trouble::RefuseOnce(code), None).await,
        Fault::BrokerDies { ms } => broker(world, Trouble::Die, Some(ms)).await,
        Fault::Calm => {
            world.ready(CALM).await;
        }
    }
}

/// Lets a sync of this file fail; the bridge ends itself then.
async fn sync_fails(world: &mut World, file: &'static str, number: u64, after_ms: u64) {
    let since = world.recorder.now();
    world.disk.fail_sync(number, after_ms, file);
    // An occasion for what is seldom written.
    world.sim.expire().await;
    world.ended_by_its_disk(since, SYNC_COMES).await;
}

/// Lets each sync hang, for so long.
async fn disk_hangs(world: &mut World, each: u64, for_ms: u64) {
    let began = world.recorder.now();
    world.disk.hang(each);
    sleep(Duration::from_millis(for_ms)).await;
    world.disk.heal();
    // What hangs then comes to its end.
    sleep(Duration::from_millis(each)).await;
    let ended = world.recorder.now();
    world.recorder.lock().hiccups.push((began, ended));
}

/// Makes the broker misbehave, for so long.
async fn broker(world: &mut World, trouble: Trouble, for_ms: Option<u64>) {
    healed(world, Side::Mqtt).await;
    world.proxy(Side::Mqtt).trouble(trouble);
    if let Some(ms) = for_ms {
        sleep(Duration::from_millis(ms)).await;
        world.proxy(Side::Mqtt).trouble(Trouble::None);
    }
}

/// Makes the service misbehave, and gives it an occasion where the load gives none.
async fn service(world: &World, ill: Ill) {
    let delay_s = Duration::from_millis(ill.delay_ms).as_secs_f64();
    let order = json!({"path": ill.path, "mode": ill.mode, "code": ill.code, "delay_s": delay_s, "times": ill.times});
    world.sim.fault(&order).await;
    match ill.path {
        "get_access_token" => world.sim.expire().await,
        "set_config" => world.sim.forget().await,
        _ => {}
    }
}

async fn healed(world: &mut World, side: Side) {
    if let Some(healing) = world.healing[side as usize].take() {
        healing.await.expect("a proxy heals");
    }
}

/// Makes trouble on one connection, which passes while other faults come.
async fn network(world: &mut World, side: Side, net: Net) {
    healed(world, side).await;
    if side == Side::Api {
        let at = world.recorder.now();
        let ms = match net {
            // When so many bytes have passed, nobody knows.
            Net::Cut { .. } => 5000,
            Net::Stall { ms, .. } | Net::HalfOpen { ms, .. } | Net::Slow { ms } | Net::Refuse { ms } => ms,
        };
        world.recorder.lock().api_troubles.push((at, at + ms * 1000));
    }
    let proxy = Arc::clone(world.proxy(side));
    let (trouble, for_ms) = match net {
        Net::Cut { after } => return proxy.trouble(Trouble::Cut(after)),
        Net::Stall { way, ms } => (Trouble::Stall(way), ms),
        Net::HalfOpen { way, ms } => (Trouble::HalfOpen(way), ms),
        Net::Slow { ms } => (Trouble::Slow, ms),
        Net::Refuse { ms } => (Trouble::Refuse, ms),
    };
    proxy.trouble(trouble);
    world.healing[side as usize] = Some(tokio::spawn(async move {
        sleep(Duration::from_millis(for_ms)).await;
        proxy.trouble(Trouble::None);
    }));
}
