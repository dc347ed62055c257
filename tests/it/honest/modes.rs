//! Who may read what the bridge writes: its owner alone, whatever the directory was and whatever the umask.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::blackbox::world::World;
use crate::support::bridge::text_push;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// Whether it is for its owner alone, or was only on its way to its own name and is gone.
fn is_private_or_gone(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.permissions().mode() & 0o777 == 0o600,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound && path.extension() == Some("tmp".as_ref()),
    }
}

/// The files there, each of which must be its owner's alone.
#[track_caller]
fn private(dir: &Path) -> Vec<String> {
    assert_eq!(mode(dir), 0o700);
    let names = std::fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        assert!(is_private_or_gone(&entry.path()), "{entry:?}");
        entry.file_name().into_string().unwrap()
    });
    names.collect()
}

#[tokio::test]
async fn what_was_open_to_others_is_closed_and_what_is_written_is_closed_from_the_start() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    let dir = world.bridge.state_dir();
    std::fs::create_dir(&dir).unwrap();
    for name in ["token.json", "token.json.tmp", "spool.db", "spool.db-shm", "lock", "subscriptions.json"] {
        std::fs::write(dir.join(name), if name == "spool.db" { "not a database".repeat(1000) } else { String::new() })
            .unwrap();
        std::fs::set_permissions(dir.join(name), Permissions::from_mode(0o666)).unwrap();
    }
    std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    world.bridge.start().await;
    world.bridge.logged("others could read this file").await;
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect("ilink/recv/user/413/text").await;
    world.sim.answer_code("get_access_token", 1009, 0).await;
    world.sim.expire().await;
    world.client.publish("ilink/send/user/413/text", "x").await;
    world.client.expect_text("ilink/bridge/cloud", "degraded").await;
    let quotas = dir.join("quotas.json");
    crate::support::eventually("the quota to be kept", async || quotas.exists().then_some(())).await;
    let names = private(&dir);
    for name in [
        "identity.json",
        "spool.db",
        "spool.db-wal",
        "spool.db-shm",
        "spool.db.damaged-1",
        "control.sock",
        "lock",
        "quotas.json",
        "budgets.json",
    ] {
        assert!(names.iter().any(|seen| seen == name), "{name}: {names:?}");
    }
    world.bridge.process().signal(Signal::TERM);
    world.bridge.process().ended().await;
    private(&dir);
}

#[tokio::test]
async fn verbs_without_a_daemon_leave_no_more_behind() {
    let world = World::prepared(&[], |bridge| bridge).await;
    for verb in [&["status"][..], &["register"], &["call", "ham_group/list"], &["unregister"], &["callback-url"]] {
        let done = world.bridge.verb(verb).await;
        assert!(matches!(done.code, Some(0 | 69)), "{verb:?}: {done:?}");
        private(&world.bridge.state_dir());
    }
}
