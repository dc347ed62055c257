//! A disk that fails while the bridge runs, or from the start: what it does, and what it says.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use futures_util::future::join_all;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::recording;
use crate::admin::metrics::counted;
use crate::blackbox::world::World;
use crate::support::bridge::{SECRET, text_push};
use crate::support::client::Message;
use crate::support::http::{raw_post, read_to_close};
use crate::support::{DEADLINE, eventually};

const PUSHED: &str = "ilink/recv/user/413/text";

/// A bridge whose file operations fail while the file that is returned says so.
pub(super) async fn world() -> (World, PathBuf) {
    let mut fault = PathBuf::new();
    let world = World::prepared(&[], |bridge| {
        fault = bridge.dir().join("fault");
        let environment = recording::environment(&bridge.state_dir(), None, Some(&fault));
        bridge.with_envs(environment)
    })
    .await;
    (world, fault)
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_nothing_is_answered_after_it() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    // A broker that hangs: the process has other things to end than the callback.
    world.broker.pause();
    world.bridge.push(&text_push("413", "before")).await;
    fs::write(&fault, "sync 5 spool.db-wal\n").unwrap();
    // Whoever tries, while it fails and until the process has ended, gets no answer: iLink tries again.
    let (port, mut tries) = (world.bridge.callback_port(), JoinSet::new());
    for n in 0..20 {
        let request = raw_post(&format!("/{SECRET}"), text_push("413", &format!("during {n}")).to_string().as_bytes());
        tries.spawn(async move {
            while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
                if stream.write_all(&request).await.is_ok() {
                    assert_eq!(read_to_close(&mut stream, DEADLINE).await, "", "something was answered");
                }
            }
        });
    }
    assert_eq!(world.bridge.process().ended().await.code(), Some(70));
    tries.join_all().await;
    let log = world.bridge.log();
    assert!(log.contains("the disk failed to sync") && log.contains("dmesg"), "{log}");

    fs::remove_file(&fault).unwrap();
    world.broker.resume();
    world.bridge.start().await;
    world.client.expect_text(PUSHED, "before").await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
}

/// Starts again on a disk that is well, and sees what was answered before.
async fn starts_again(world: &mut World) {
    assert_eq!(world.bridge.process().ended().await.code(), Some(70), "{}", world.bridge.log());
    let log = world.bridge.log();
    assert!(log.contains("the disk failed to sync") && log.contains("dmesg"), "{log}");
    world.bridge.start().await;
    world.client.expect_text(PUSHED, "before").await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
}

#[tokio::test]
async fn one_failed_sync_of_any_file_ends_the_process() {
    // The registration is recorded and a token kept just after the start; at rest the log is moved and the ballast made.
    for line in ["sync#2 5 identity.json", "sync#1 5 token.json", "sync#1 5 spool.ballast"] {
        let (mut world, fault) = world().await;
        fs::write(&fault, format!("{line}\n")).unwrap();
        world.bridge.spawn();
        assert_eq!(world.bridge.process().ended().await.code(), Some(70), "{line}: {}", world.bridge.log());
        assert!(world.bridge.log().contains("the disk failed to sync"), "{line}: {}", world.bridge.log());
        world.bridge.start().await;
    }
    for line in ["sync#1 5 spool.db$", "sync#2 5 spool.db-wal"] {
        let (mut world, fault) = world().await;
        world.bridge.start().await;
        world.broker.stop();
        fs::write(&fault, format!("{line}\n")).unwrap();
        // Its own sync is the first of the log; the second comes when it is moved.
        world.bridge.push(&text_push("413", "before")).await;
        world.broker.restart();
        starts_again(&mut world).await;
    }
}

#[tokio::test]
async fn a_failed_sync_of_a_small_file_ends_all_answers() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    world.broker.stop();
    world.bridge.push(&text_push("413", "before")).await;
    // iLink refuses the token; the next one is to be kept, and the folder cannot be synced then.
    fs::write(&fault, "sync#1 5 /state$\n").unwrap();
    world.sim.expire().await;
    world.broker.restart();
    world.client.publish("ilink/send/user/414/text", "a call, for which it needs a token").await;
    starts_again(&mut world).await;
}

#[tokio::test]
async fn a_log_that_fails_while_what_waited_is_delivered_ends_the_process_and_nothing_is_lost() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    world.broker.stop();
    for batch in 0..30 {
        let pushes = (0..50).map(|n| {
            let push = text_push("413", &format!("{} {}", batch * 50 + n, "x".repeat(400)));
            let bridge = &world.bridge;
            async move { bridge.push(&push).await }
        });
        join_all(pushes).await;
    }
    // Completions are not synced: the first sync of the log is the one before it is moved.
    fs::write(&fault, "sync 5 spool.db-wal\n").unwrap();
    world.broker.restart();
    assert_eq!(world.bridge.process().ended().await.code(), Some(70), "{}", world.bridge.log());
    fs::remove_file(&fault).unwrap();
    world.bridge.start().await;
    let number = |message: &Message| message.text().split(' ').next().map(str::to_owned);
    world
        .client
        .until("all 1500 pushes", |all| {
            let pushed = all.iter().filter(|message| message.topic == PUSHED);
            pushed.filter_map(number).collect::<BTreeSet<_>>().len() == 1500
        })
        .await;
}

#[tokio::test]
async fn what_the_disk_does_not_give_back_for_a_moment_is_delivered_a_little_later() {
    // Too little memory; and the error that SQLite takes for damage.
    let all = [12, 5].map(async |errno| {
        let (mut world, fault) = world().await;
        world.bridge.start().await;
        world.broker.stop();
        // More than is kept in memory.
        for n in 0..9 {
            world.bridge.push(&text_push("413", &format!("{n} {}", "x".repeat(650_000)))).await;
        }
        let pid = world.bridge.process().id();
        fs::write(&fault, format!("read {errno} spool.db\n")).unwrap();
        world.broker.restart();
        world.bridge.logged("the spool cannot be read; trying again").await;
        fs::remove_file(&fault).unwrap();
        world.bridge.logged("the spool can be read again").await;
        let all = world.client.gather("nine pushes", 9, |message| message.topic == PUSHED).await;
        let numbers: Vec<_> = all.iter().map(|message| message.text().split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(numbers, (0..9).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(world.bridge.process().id(), pid);
        assert!(world.bridge.process().is_running());
    });
    join_all(all).await;
}

#[tokio::test]
async fn a_disk_that_refuses_writes_is_said_and_tried_again() {
    // An I/O error, and what a file system says that was made read-only because of one.
    for errno in [5, 30] {
        let (mut world, fault) = world().await;
        world.bridge.start().await;
        world.broker.stop();
        world.bridge.push(&text_push("413", "before")).await;
        fs::write(&fault, format!("write {errno} spool.db\n")).unwrap();
        world.bridge.unanswered(&text_push("413", "refused")).await;
        counted(&world.bridge, "pushes_unanswered_total", &[("cause", "failed")], 1.0).await;
        let spool = world.bridge.admin("readyz").await.json()["spool"].clone();
        let cause = spool["cause"].as_str().unwrap();
        assert!(cause.contains("spool.db") && cause.contains("refuses writes") && cause.contains("dmesg"), "{cause}");
        world.bridge.logged(cause).await;

        fs::remove_file(&fault).unwrap();
        eventually("the spool to be ready", async || {
            (world.bridge.admin("readyz").await.json()["spool"]["ready"] == true).then_some(())
        })
        .await;
        world.broker.restart();
        world.bridge.push(&text_push("413", "after")).await;
        world.client.expect_text(PUSHED, "after").await;
        // What was refused while the writer had it may have been stored all the same: no answer promises nothing.
        let pushed = world.client.all(|message| message.topic == PUSHED && message.text() != "refused");
        assert_eq!(pushed.iter().map(Message::text).collect::<Vec<_>>(), ["before", "after"]);
    }
}

#[tokio::test]
async fn a_result_that_the_disk_refuses_until_the_stop_is_not_lost() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 2})).await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.sim.calls_until("send_msg", "the call", |calls| calls.len() == 1).await;
    fs::write(&fault, "write 5 spool.db\n").unwrap();
    world.bridge.logged("the result of a call cannot be stored yet").await;
    // The farewell takes a while, in which the disk recovers.
    world.broker.pause();
    world.bridge.process().signal(rustix::process::Signal::TERM);
    world.bridge.logged("the bridge stops before the disk has taken the results of some calls").await;
    fs::remove_file(&fault).unwrap();
    assert_eq!(world.bridge.process().ended().await.code(), Some(0));
    world.broker.resume();

    world.bridge.start().await;
    let result = world.client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!((&result["status"], &result["attempts"]), (&json!("ok"), &json!(1)), "{result}");
    assert_eq!(world.sim.calls("send_msg").await.len(), 1, "it was sent again");
}

#[tokio::test]
async fn what_cannot_be_used_at_start_is_named_with_the_remedy() {
    let (mut world, fault) = world().await;
    for (line, words) in [
        ("open 30 /state/lock", &["state directory", "Read-only file system", "make it writable"][..]),
        ("open 13 /state/lock", &["state directory", "Permission denied", "chown"]),
        ("write 30 identity.json", &["identity.json", "written", "Read-only file system", "make it writable"]),
        ("write 28 identity.json", &["identity.json", "No space left", "free some space"]),
        ("write 28 spool.db", &["spool.db", "No space left", "free some space"]),
        ("open 13 spool.db", &["spool.db", "Permission denied", "chown"]),
    ] {
        fs::write(&fault, format!("{line}\n")).unwrap();
        // A verb needs the same files.
        for command in ["run", "callback-url"] {
            let finished = world.bridge.verb(&[command]).await;
            assert_eq!(finished.code, Some(73), "{line}: {finished:?}");
            for word in words {
                assert!(finished.text.contains(word), "{line}: {word:?} is not in {}", finished.text);
            }
        }
    }
    // Nothing of that has left anything behind that is in the way.
    fs::remove_file(&fault).unwrap();
    world.bridge.start().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    fs::write(&fault, "open 13 identity.json\n").unwrap();
    let finished = world.bridge.verb(&["run"]).await;
    assert_eq!(finished.code, Some(73));
    assert!(finished.text.contains("identity.json cannot be read: Permission denied"), "{}", finished.text);
    assert!(finished.text.contains("chown"), "{}", finished.text);
}

#[tokio::test]
async fn a_second_daemon_and_a_verb_beside_a_deaf_one_are_told_who_is_there() {
    let (mut world, _) = world().await;
    world.bridge.start().await;
    let pid = world.bridge.process().id().to_string();
    // Its socket was taken away: verbs do not reach it, and must not work beside it.
    fs::remove_file(world.bridge.state_dir().join("control.sock")).unwrap();
    let dir = world.bridge.state_dir().display().to_string();
    for command in [&["run"][..], &["status"], &["query"], &["register"], &["unregister"], &["callback-url"]] {
        let finished = world.bridge.verb(command).await;
        assert_eq!(finished.code, Some(73), "{finished:?}");
        for word in [&*dir, &*pid, "in use by another ilink2mqtt", "stop that one"] {
            assert!(finished.text.contains(word), "{command:?}: {word:?} is not in {}", finished.text);
        }
    }
    world.bridge.push(&text_push("413", "the first goes on")).await;
    world.client.expect_text(PUSHED, "the first goes on").await;
}
