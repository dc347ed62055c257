//! A disk that hangs: nothing is answered meanwhile, not even by a refusal, and what waits for it is bounded.

use std::fs;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::failing::world;
use crate::admin::metrics::{count, counted};
use crate::blackbox::world::World;
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::{raw_connection, raw_post, read_to_close};
use crate::support::{DEADLINE, eventually};

const PUSHED: &str = "ilink/recv/user/413/text";
/// Every sync of the spool's waits while the fault is there.
const HANGS: &str = "sync 0 spool.db\n";

fn request(text: &str) -> Vec<u8> {
    raw_post(&format!("/{SECRET}"), text_push("413", text).to_string().as_bytes())
}

async fn unanswered(world: &World, cause: &str, count: u32) {
    counted(&world.bridge, "pushes_unanswered_total", &[("cause", cause)], f64::from(count)).await;
}

#[tokio::test]
async fn a_push_that_the_disk_does_not_take_is_cut_without_a_byte_and_its_repeat_is_one_message() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    let port = world.bridge.callback_port();
    world.bridge.push(&text_push("413", "before")).await;
    world.client.expect_text(PUSHED, "before").await;
    fs::write(&fault, HANGS).unwrap();
    // The second of two on one connection is cut as well, and nothing of it is answered.
    let both = [request("waits"), request("waits behind it")].concat();
    let (began, mut stream) = (Instant::now(), raw_connection(port, &both).await);
    assert_eq!(read_to_close(&mut stream, DEADLINE).await, "");
    assert!(began.elapsed() >= Duration::from_secs(5), "iLink is not waited for: {:?}", began.elapsed());
    unanswered(&world, "slow", 1).await;
    world.bridge.logged("a push is left unanswered").await;
    // One whose sender leaves first, as iLink does, counts too.
    let leaves = raw_connection(port, &request("leaves")).await;
    let waited = Instant::now();
    eventually("it to be held", async || (waited.elapsed() > Duration::from_secs(2)).then_some(())).await;
    drop(leaves);
    unanswered(&world, "slow", 2).await;

    fs::remove_file(&fault).unwrap();
    // The next try is the same message, as long as none was answered.
    world.bridge.push(&text_push("413", "waits")).await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
    let seen = world.client.all(|message| message.topic == PUSHED && message.text() == "waits");
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test]
async fn beyond_256_that_wait_a_connection_is_cut_at_once() {
    const MORE: u32 = 44;
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    let port = world.bridge.callback_port();
    fs::write(&fault, HANGS).unwrap();
    let mut tries = JoinSet::new();
    for n in 0..256 + MORE {
        tries.spawn(async move {
            let mut stream = raw_connection(port, &request(&format!("push {n}"))).await;
            read_to_close(&mut stream, DEADLINE).await
        });
    }
    for answer in tries.join_all().await {
        assert_eq!(answer, "");
    }
    unanswered(&world, "overload", MORE).await;
    unanswered(&world, "slow", 256).await;
    fs::remove_file(&fault).unwrap();
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
}

#[tokio::test]
async fn what_waits_for_the_disk_is_bounded_though_its_senders_have_left() {
    // 64 MiB of bodies, and what it takes to read them: a release build, which begins with 12 MB, stays under 100 MB.
    const AT_MOST_KIB: u64 = 88_000;
    const PATIENCE: Duration = Duration::from_secs(3);
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    let port = world.bridge.callback_port();
    fs::write(&fault, HANGS).unwrap();
    let large = "x".repeat(700_000);
    let before = world.bridge.process().memory();
    let (mut most, mut rounds, mut overload, began) = (0, 0, 0.0, Instant::now());
    // A machine with much else to do takes in only a few before their senders leave: until there is no room left, with ever
    // more patience.
    while rounds < 5 || overload < 1.0 {
        assert!(began.elapsed() < 4 * DEADLINE, "there was room for all of them");
        rounds += 1;
        let patience = if rounds <= 5 { PATIENCE } else { PATIENCE * (rounds - 4) };
        let mut tries = JoinSet::new();
        for n in 0..60 {
            let request = request(&format!("{rounds}.{n} {large}"));
            tries.spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // It leaves when its patience ends, taken or not: what finds no room is not even read to its end.
                let sent = async {
                    stream.write_all(&request).await.unwrap();
                    stream.read_to_end(&mut Vec::new()).await
                };
                let _ = timeout(patience, sent).await;
            });
        }
        tries.join_all().await;
        most = most.max(world.bridge.process().memory().saturating_sub(before));
        overload = count(&world.bridge, "pushes_unanswered_total", &[("cause", "overload")]).await;
    }
    eprintln!("{most} KiB more while {rounds} times 60 pushes of 0.95 MB wait; {overload} of them found no room");
    assert!(most < AT_MOST_KIB, "{most} KiB more while the disk hangs");
    fs::remove_file(&fault).unwrap();
    // As soon as the disk goes on there is room again.
    world.bridge.push(&text_push("413", &format!("after {large}"))).await;
    eventually("the push", async || {
        let all = world.client.all(|message| message.topic == PUSHED && message.text().starts_with("after"));
        (!all.is_empty()).then_some(())
    })
    .await;
    assert!(world.bridge.process().memory().saturating_sub(before) < AT_MOST_KIB);
}
