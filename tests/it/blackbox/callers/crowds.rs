//! More connections than there is room for.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::attackers::{Attackers, Caller, From, Habit, alone, exchange};
use super::{World, in_time, push_from, rejected, still_works};
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::http::{Answer, http, raw_post};
use crate::support::{DEADLINE, eventually};

const MANY: usize = 2000;
/// Open files of a bridge that a few hundred attackers fill.
const FEW_FILES: u32 = 256;
/// More connections than the callback has room for with so few.
const FEW: usize = 128;

fn quiet(bridge: Bridge) -> Bridge {
    bridge.with("log.level", "info")
}

/// Pushes while `attackers` are at it, and come back after they were cut; says how long the slowest took and what the bridge needs.
async fn measure(world: &mut World, what: &str, attackers: &Attackers, from: Caller) {
    let (round, took) = in_time(what, async |round| {
        let (mut took, until) = (Vec::new(), attackers.connects() + 500);
        while took.len() < 20 || (attackers.connects() < until && took.len() < 2000) {
            took.push(push_from(world, from, &format!("push {round}.{}", took.len())).await);
        }
        took
    })
    .await;
    let last = format!("push {round}.{}", took.len() - 1);
    world.client.expect_text("ilink/recv/user/413/text", &last).await;
    let process = world.bridge.process();
    eprintln!(
        "{what}: {} pushes, median {:?}, slowest {:?}; {} attacks; {} KiB; {} files",
        took.len(),
        took[took.len() / 2],
        took.last().unwrap(),
        attackers.connects(),
        process.memory(),
        process.open_files(),
    );
}

#[tokio::test]
async fn thousands_of_idle_connections_from_the_pushs_own_address() {
    let _alone = alone().await;
    let mut world = World::ready_with(quiet).await;
    still_works(&world).await;
    let before = world.bridge.process().memory();
    let attackers = Attackers::start(world.bridge.callback_port(), MANY, From::One(Caller::ILINK), &[Habit::silent()]);
    attackers.connected(MANY).await;
    measure(&mut world, "2000 idle, one address", &attackers, Caller::ILINK).await;
    let more = Attackers::start(world.bridge.callback_port(), 900, From::Many, &Habit::slow());
    more.connected(900).await;
    measure(&mut world, "and 900 slow, 900 addresses", &more, Caller::ILINK).await;
    let during = world.bridge.process().memory();
    let files = world.bridge.process().open_files();
    drop((attackers, more));
    eventually("the attackers' connections to be gone", async || {
        (world.bridge.process().open_files() < 200).then_some(())
    })
    .await;
    let after = world.bridge.process().memory();
    eprintln!("memory in KiB: {before} before, {during} during, {after} after; {files} files during");
    assert!(files < 1200, "{files} open files");
    assert!(during.saturating_sub(before) < 100 * 1024, "{before} KiB before, {during} KiB during");
    assert!(rejected(&world, "crowded").await >= 900, "cut connections are counted");
    let lines = world.bridge.log().lines().count();
    assert!(lines < 40, "{lines} lines:\n{}", world.bridge.log());
    still_works(&world).await;
}

#[tokio::test]
async fn thousands_of_slow_connections_from_as_many_addresses() {
    let _alone = alone().await;
    let mut world = World::ready_with(quiet).await;
    let attackers = Attackers::start(world.bridge.callback_port(), MANY, From::Many, &Habit::slow());
    attackers.connected(MANY).await;
    // The first push comes from an address that was never heard of.
    measure(&mut world, "2000 slow, 2000 addresses", &attackers, Caller::ILINK).await;
    drop(attackers);
    let lines = world.bridge.log().lines().count();
    assert!(lines < 40, "{lines} lines:\n{}", world.bridge.log());
    still_works(&world).await;
}

#[tokio::test]
async fn a_half_read_push_is_not_cut_for_others() {
    let _alone = alone().await;
    let world = World::ready_with(|bridge| quiet(bridge).with_open_files(FEW_FILES)).await;
    let port = world.bridge.callback_port();
    let request = raw_post(&format!("/{SECRET}"), text_push("413", "in two halves").to_string().as_bytes());
    let (first, second) = request.split_at(request.len() - 20);
    let attackers = Attackers::start(port, 400, From::One(Caller::STRANGER), &[Habit::silent()]);
    attackers.connected(400).await;
    let mut answer = String::new();
    // On a busy machine a body may not be whole within the bridge's 10 s.
    for _ in 0..5 {
        // From the attackers' own address: nothing but the secret tells it from them.
        let mut push = Caller::STRANGER.connect(port).await.unwrap();
        push.write_all(first).await.unwrap();
        // More than the bridge has room for are cut, which were there before it or came after it.
        let enough = attackers.ends() + FEW;
        eventually("attackers to be cut", async || (attackers.ends() >= enough).then_some(())).await;
        answer = exchange(&mut push, second, b"{\"code\":0}").await;
        if !answer.is_empty() {
            break;
        }
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    world.client.expect_text("ilink/recv/user/413/text", "in two halves").await;
}

#[tokio::test]
async fn with_few_files_the_rest_of_the_bridge_still_has_some() {
    let _alone = alone().await;
    let mut world = World::ready_with(|bridge| quiet(bridge).with_open_files(FEW_FILES)).await;
    world.bridge.logged("LimitNOFILE").await;
    let attackers = Attackers::start(world.bridge.callback_port(), 600, From::Many, &Habit::slow());
    attackers.connected(600).await;
    measure(&mut world, "600 slow, 256 files", &attackers, Caller::ILINK).await;
    let files = world.bridge.process().open_files();
    assert!(files < FEW_FILES as usize, "{files} open files");
    // A call to iLink, a new connection to the broker, the control socket and the disk.
    world.client.publish("ilink/send/user/413/text", "out").await;
    assert_eq!(world.client.expect("ilink/result/send/user/413/text").await.json()["status"], json!("ok"));
    world.broker.stop();
    push_from(&world, Caller::ILINK, "while the broker is away").await;
    world.broker.restart();
    world.client.expect_text("ilink/recv/user/413/text", "while the broker is away").await;
    let log = world.bridge.log();
    assert!(!log.contains("could not accept"), "{log}");
}

#[tokio::test]
async fn the_systems_refusal_to_accept_is_survived() {
    let _alone = alone().await;
    // So few that accepting does fail: what is left of them after the bridge's own is less than the listeners' least.
    let mut world = World::prepared(&[], |bridge| quiet(bridge).with_open_files(40)).await;
    world.bridge.start().await;
    let attackers = Attackers::start(world.bridge.callback_port(), 200, From::Many, &[Habit::silent()]);
    attackers.connected(200).await;
    world.bridge.logged("could not accept").await;
    drop(attackers);
    still_works(&world).await;
    let log = world.bridge.log();
    let said = log.lines().filter(|line| line.contains("could not accept")).count();
    assert!(said <= 3, "{said} times:\n{log}");
}

#[tokio::test]
async fn the_admin_listener_has_its_bounds_too() {
    let _alone = alone().await;
    let world = World::ready_with(quiet).await;
    let port = world.bridge.admin_port();
    let attackers = Attackers::start(port, 500, From::One(Caller::STRANGER), &Habit::slow());
    attackers.connected(500).await;
    let health = http().get(format!("http://127.0.0.1:{port}/healthz"));
    assert_eq!(Answer::of(health).await.status, 200);
    push_from(&world, Caller::ILINK, "aside").await;
    // Who sends no head is cut.
    let mut silent = Caller::ILINK.connect(port).await.unwrap();
    let cut = exchange(&mut silent, b"GET /", b"");
    tokio::time::timeout(DEADLINE, cut).await.expect("a slow client of the admin listener is cut");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_attackers() {
    let _alone = alone().await;
    let mut took = Vec::new();
    // The callback alone would wait 8 s for those. On a busy machine everything together may take so long; not every time.
    while took.iter().all(|took| *took >= Duration::from_secs(8)) {
        assert!(took.len() < 4, "{took:?}");
        let mut world = World::ready_with(quiet).await;
        let port = world.bridge.callback_port();
        let attackers = Attackers::start(port, 100, From::One(Caller::STRANGER), &Habit::slow());
        attackers.connected(100).await;
        let began = std::time::Instant::now();
        assert!(world.bridge.stop().await.success());
        took.push(began.elapsed());
    }
}
