//! Something else stands where a file of the bridge should be, or what stands there is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, Queue, Store as _};
use tempfile::TempDir;

use super::child::LIMITS;
use super::platter::Dice;
use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, text_push};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Text,
    Image,
    Empty,
    Zeros,
    Half,
    OtherDatabase,
    Directory,
}

use Thing::{Directory, Empty, Half, Image, OtherDatabase, Text, Zeros};

fn put(thing: Thing, path: &Path) {
    let there = fs::read(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    match thing {
        Text => fs::write(path, "milk, bread, a new lamp for the hall\n".repeat(200)).unwrap(),
        Image => fs::write(path, [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &[7; 3000]].concat()).unwrap(),
        Empty => fs::write(path, "").unwrap(),
        Zeros => fs::write(path, vec![0; there.len().max(4096)]).unwrap(),
        Half => fs::write(path, &there[..there.len() / 2]).unwrap(),
        Directory => fs::create_dir(path).unwrap(),
        OtherDatabase => {
            let conn = rusqlite::Connection::open(path).unwrap();
            conn.execute_batch("CREATE TABLE songs (title TEXT); INSERT INTO songs VALUES ('Ode to Joy')").unwrap();
        }
    }
}

/// A state directory as a good run left it.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn the_bridge_starts_over_what_it_can_replace_and_says_so() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    for (name, thing, said) in [
        ("spool.db", Text, &["the spool was damaged", "spool.db.damaged-1"][..]),
        ("spool.db", Image, &["the spool was damaged", "spool.db.damaged-1"]),
        ("spool.db", Zeros, &["the spool was damaged", "spool.db.damaged-1"]),
        ("spool.db", Half, &["the spool was damaged", "spool.db.damaged-1"]),
        ("spool.db", OtherDatabase, &["not a spool", "spool.db.damaged-1"]),
        ("spool.db", Empty, &["spool.db was an empty file"]),
        // Neither of these holds anything after a clean stop.
        ("spool.db-wal", Text, &[]),
        ("spool.db-shm", Image, &[]),
        ("spool.ballast", Text, &[]),
        ("spool.answered", Text, &[]),
        ("spool.answered", Directory, &[]),
        // A new token is fetched.
        ("token.json", Image, &[]),
        ("token.json", Empty, &[]),
        ("token.json", Directory, &["token", "directory"]),
    ] {
        let mut bridge = Bridge::new(&world.broker, &world.sim);
        copied(&world.bridge.state_dir(), &bridge.state_dir());
        let path = bridge.state_dir().join(name);
        put(thing, &path);
        let content = fs::read(&path).unwrap_or_default();
        bridge.start().await;
        let text = format!("{thing:?} for {name}");
        bridge.push(&text_push("413", &text)).await;
        world.client.expect_text("ilink/recv/user/413/text", &text).await;
        // Ready is said before there is a token to keep.
        for word in said {
            bridge.logged(word).await;
        }
        assert_eq!(bridge.stop().await.code(), Some(0), "{text}");
        if said.iter().any(|word| word.contains("damaged-1")) {
            let kept = fs::read(bridge.state_dir().join("spool.db.damaged-1")).unwrap();
            assert!(kept == content, "{text}: it is not kept as it was");
        }
    }
}

#[tokio::test]
async fn the_bridge_does_not_start_over_what_only_its_operator_can_replace() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let identity = &["identity.json is damaged", "restore it from a backup", "move it away"][..];
    for (name, thing, said) in [
        ("identity.json", Text, identity),
        ("identity.json", Image, identity),
        ("identity.json", Empty, identity),
        ("identity.json", Zeros, identity),
        ("identity.json", Half, identity),
        ("identity.json", Directory, &["identity.json", "move away what stands there"]),
        ("spool.db", Directory, &["spool.db", "not a file", "move away what stands there"]),
        ("spool.db-wal", Directory, &["spool.db-wal", "not a file", "move away what stands there"]),
        ("spool.db-shm", Directory, &["spool.db-shm", "not a file", "move away what stands there"]),
        ("lock", Directory, &["lock", "move away what stands there"]),
    ] {
        let bridge = Bridge::new(&world.broker, &world.sim);
        copied(&world.bridge.state_dir(), &bridge.state_dir());
        put(thing, &bridge.state_dir().join(name));
        let finished = bridge.verb(&["run"]).await;
        assert_eq!(finished.code, Some(73), "{thing:?} for {name}: {finished:?}");
        for word in said {
            assert!(finished.text.contains(word), "{thing:?} for {name}: {word:?} is not in {}", finished.text);
        }
        assert!(finished.text.contains(bridge.state_dir().to_str().unwrap()), "{}", finished.text);
    }
}

/// Damages some of a file, by the dice.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> &'static str {
    let at = dice.below(bytes.len());
    let page = at / 1024 * 1024;
    let end = (page + 1024).min(bytes.len());
    match dice.below(6) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[page..end].fill(0),
        2 => bytes.truncate(at),
        3 => bytes[page..(page + 512).min(end)].fill_with(|| dice.roll().to_le_bytes()[0]),
        4 => {
            // A page that was written to the wrong place.
            let other = dice.below(bytes.len() / 1024) * 1024;
            let copy = bytes[other..(other + 1024).min(bytes.len())].to_vec();
            let length = copy.len().min(bytes.len() - page);
            bytes[page..page + length].copy_from_slice(&copy[..length]);
        }
        _ => {
            for _ in 0..5 {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
            return "five bits";
        }
    }
    "one place"
}

#[tokio::test]
async fn any_damage_costs_what_it_hit_and_nothing_false_is_read() {
    let original = TempDir::new().unwrap();
    let (spool, _) = Spool::open(original.path(), LIMITS).unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..150_u8 {
        let data = vec![n; usize::from(n) * 23];
        expected.insert(spool.append(Queue::Outbound, data.clone().into(), None).await.unwrap(), data);
    }
    spool.close().await;
    // And some that are in the log only.
    let (spool, _) = Spool::open(original.path(), LIMITS).unwrap();
    // The log is read first: what a checkpoint takes out of it meanwhile is in the other file then. If the machine is so busy
    // that the spool comes to rest before, and empties it, there are some more.
    let file = |name: &str| fs::read(original.path().join(name)).unwrap();
    let (db, log) = loop {
        for n in 150..200_u8 {
            let data = vec![n; usize::from(n) * 5];
            expected.insert(spool.append(Queue::Outbound, data.clone().into(), None).await.unwrap(), data);
        }
        let log = file("spool.db-wal");
        if !log.is_empty() {
            break (file("spool.db"), log);
        }
        assert!(expected.len() < 2000, "nothing is ever in the log");
    };
    let mut kept = 0;
    let rounds = 120;
    for seed in 0..rounds {
        let mut dice = Dice(seed);
        let dir = super::scratch();
        let (mut db, mut log) = (db.clone(), log.clone());
        let in_log = dice.below(3) == 0;
        let how = damage(if in_log { &mut log } else { &mut db }, &mut dice);
        fs::write(dir.path().join("spool.db"), &db).unwrap();
        fs::write(dir.path().join("spool.db-wal"), &log).unwrap();
        let (spool, recovered) = Spool::open(dir.path(), LIMITS).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let rows = spool.read_after(Queue::Outbound, 0, usize::MAX, usize::MAX).await.unwrap();
        for row in &rows {
            assert_eq!(
                expected.get(&row.seq).map(|data| &data[..]),
                Some(&row.data[..]),
                "{seed} ({how}): row {}",
                row.seq
            );
        }
        let told = !recovered.alarms.is_empty() || spool.counters().damaged_rows > 0;
        // What the end of a log held is not missed by anybody: SQLite takes a torn one for one that ended there.
        assert!(rows.len() == expected.len() || told || in_log, "{seed} ({how}): {} rows and nobody told", rows.len());
        let new = spool.append(Queue::Outbound, b"new".to_vec().into(), None).await.unwrap();
        assert!(rows.iter().all(|row| row.seq < new), "{seed}: numbers go on");
        kept += rows.len();
    }
    println!(
        "{rounds} damaged spools: {kept} of {} rows read, none of them false",
        u64::try_from(expected.len()).unwrap() * rounds
    );
}
