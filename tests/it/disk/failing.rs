//! A disk that fails while the bridge runs, or from the start: what it does, and what it says.

use std::fs;
use std::path::PathBuf;

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
    let world = World::prepared(&[], |mut bridge| {
        fault = bridge.dir().join("fault");
        for (name, value) in recording::environment(&bridge.state_dir(), None, Some(&fault)) {
            bridge = bridge.with_env(name, &value);
        }
        bridge
    })
    .await;
    (world, fault)
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_nothing_is_answered_after_it() {
    let (mut world, fault) = world().await;
    world.bridge.start().await;
    world.broker.stop();
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
    world.broker.restart();
    world.bridge.start().await;
    world.client.expect_text(PUSHED, "before").await;
    world.bridge.push(&text_push("413", "after")).await;
    world.client.expect_text(PUSHED, "after").await;
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
