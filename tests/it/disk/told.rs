//! A store that does not store: that it is full, that the disk refuses for now, that it has failed for good. Each is told apart.

use std::fs;

use super::failing::world;
use super::recording;
use crate::admin::prometheus::Metrics;
use crate::blackbox::states::Told;
use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::eventually;
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::sim::Sim;

const PUSHED: &str = "ilink/recv/user/413/text";

/// The store is in this state in all places, and the broker is in none that is told.
#[track_caller]
fn is(told: &Told, state: &str, on_page: &str, cause: &str) {
    let spool = &told.health()["spool"];
    assert_eq!((spool["kind"].as_str(), spool["ready"].as_bool()), (Some(state), Some(false)), "{spool}");
    assert!(spool["cause"].as_str().unwrap().contains(cause), "{spool}");
    assert!(humantime::parse_rfc3339(spool["since"].as_str().unwrap()).is_ok(), "{spool}");
    told.line("spool           not ready since ", &[cause]);
    told.shows(&[&format!(">{on_page}<"), cause]);
    for other in ["ok", "full", "refused", "failed"] {
        let present = i64::from(other == state);
        assert_eq!(told.metrics.whole("store_state", &[("state", other)]), present, "{other}");
    }
    for kind in ["busy", "refused_for_now", "ends_connection", "refused"] {
        assert_eq!(told.metrics.whole("broker_trouble", &[("kind", kind)]), 0, "{kind}");
    }
}

async fn is_in(world: &World, state: &str) -> Told {
    Told::once(&world.bridge, state, |told| told.health()["spool"]["kind"] == state).await
}

#[tokio::test]
async fn a_disk_that_refuses_for_now_is_not_one_that_has_failed() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    fs::write(&fault, "write 5 spool.db\n").unwrap();
    world.bridge.unanswered(&text_push("413", "during")).await;
    is(&is_in(&world, "refused").await, "refused", "not writable", "the disk refuses writes");
    fs::remove_file(&fault).unwrap();
    world.bridge.wait_ready().await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
    let told = Told::by(&world.bridge).await;
    assert_eq!((told.health()["spool"].get("kind"), told.metrics.whole("store_state", &[("state", "ok")])), (None, 1));
}

#[tokio::test]
async fn a_full_queue_is_no_fault_of_the_disk() {
    let mut world = World::prepared(&[], |bridge| bridge.with("spool.max_bytes", "20KiB")).await;
    world.bridge.start().await;
    world.broker.stop();
    let large = "x".repeat(3000);
    for n in 0..4 {
        world.bridge.push(&text_push("413", &format!("{n} {large}"))).await;
    }
    world.bridge.unanswered(&text_push("413", &large)).await;
    is(&is_in(&world, "full").await, "full", "full", "the inbound queue is full");
}

#[tokio::test]
async fn a_failed_sync_is_told_for_as_long_as_the_process_still_answers() {
    let broker = ScriptedBroker::bind().await;
    let sim = Sim::start(&[]).await;
    let mut bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &sim).with("mqtt.output", "raw");
    let fault = bridge.dir().join("fault");
    let environment = recording::environment(&bridge.state_dir(), None, Some(&fault));
    bridge = bridge.with_envs(environment);
    bridge.spawn();
    let mut peer = broker.up().await;
    // Not acknowledged: there is something to wait for, some seconds, before all ends.
    bridge.push(&text_push("413", "before")).await;
    peer.publish().await.expect("the push");
    Told::once(&bridge, "a token", |told| told.health()["cloud"]["state"] == "online").await;
    // iLink refuses it for the next call, and the folder cannot be synced when another is kept.
    sim.expire().await;
    fs::write(&fault, "sync#1 5 /state$\n").unwrap();
    peer.command("ilink/send/user/414/text", 1, "x").await;
    let told = eventually("the failure to be told", async || {
        let told = (bridge.admin("readyz").await.json(), bridge.admin("metrics").await.body);
        (told.0["spool"]["kind"] == "failed").then_some(told)
    })
    .await;
    let (ready, metrics) = (told.0, Metrics::parse(&told.1));
    assert!(ready["spool"]["cause"].as_str().unwrap().contains("the disk failed to sync"), "{ready}");
    assert_eq!(metrics.whole("store_state", &[("state", "failed")]), 1);
    assert_eq!(bridge.process().ended().await.code(), Some(70));
    assert!(bridge.log().contains("the disk failed to sync"), "{}", bridge.log());
}
