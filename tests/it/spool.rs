//! The spool from outside: what was answered is there, whatever happened to the process, the file or the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ilink2mqtt::store::sqlite::{OpenError, Recovered, Spool};
use ilink2mqtt::store::{Append as _, Key, Limits, Queue, ROW_OVERHEAD, Row, SpoolError, Store as _};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROOMY: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 24 };

fn open(dir: &Path) -> Arc<Spool> {
    let (spool, recovered) = Spool::open(dir, ROOMY).expect("it opens");
    assert_eq!(recovered, Recovered::default());
    spool
}

async fn everything(spool: &Spool, queue: Queue) -> Vec<Row> {
    spool.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("reading works")
}

async fn contents(spool: &Spool, queue: Queue) -> BTreeMap<u64, Vec<u8>> {
    everything(spool, queue).await.into_iter().map(|row| (row.seq, row.data.to_vec())).collect()
}

/// What a crash leaves: the files as they are, without the process's knowledge of them.
fn crashed(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    // The log first: a checkpoint between the two then does no harm.
    for name in ["spool.db-wal", "spool.db"] {
        if dir.join(name).exists() {
            fs::copy(dir.join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

/// Stores a row, and what a crash leaves just after that: its log holds the row. On a busy machine the spool may have come to
/// rest before the files are copied, and emptied its log; then another row is stored.
async fn logged(spool: &Spool, dir: &Path) -> TempDir {
    for _ in 0..50 {
        spool.append(Queue::Inbound, vec![1; 5000].into(), None).await.unwrap();
        let copy = crashed(dir);
        if fs::metadata(copy.path().join("spool.db-wal")).unwrap().len() > 0 {
            return copy;
        }
    }
    panic!("nothing is ever in the log");
}

async fn until(mut met: impl FnMut() -> bool) {
    tokio::time::timeout(crate::support::DEADLINE, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it happens in time");
}

#[tokio::test]
async fn rows_are_numbered_read_replaced_and_completed() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let appended = spool.appended(Queue::Inbound);
    for n in 1..=3_u64 {
        assert_eq!(spool.append(Queue::Inbound, vec![u8::try_from(n).unwrap(); 10].into(), None).await, Ok(n));
    }
    assert_eq!(*appended.borrow(), 3);
    assert_eq!(spool.append(Queue::Outbound, b"other".to_vec().into(), None).await, Ok(1));
    assert_eq!(spool.stats(Queue::Inbound).depth, 3);
    assert_eq!(spool.stats(Queue::Inbound).bytes, 3 * (10 + ROW_OVERHEAD));

    spool.replace(Queue::Inbound, 1, b"one".to_vec()).await.unwrap();
    spool.replace_lazily(Queue::Inbound, 2, b"two".to_vec());
    spool.complete(Queue::Inbound, 3);
    let expected = BTreeMap::from([(1, b"one".to_vec()), (2, b"two".to_vec())]);
    assert_eq!(contents(&spool, Queue::Inbound).await, expected);
    assert_eq!(spool.read(Queue::Inbound, 3).await, Ok(None));
    assert_eq!(spool.read(Queue::Inbound, 2).await.unwrap().unwrap().data, "two");

    spool.close().await;
    let spool = open(dir.path());
    assert_eq!(contents(&spool, Queue::Inbound).await, expected);
    assert_eq!(spool.stats(Queue::Inbound).bytes, 2 * (3 + ROW_OVERHEAD));
}

#[tokio::test]
async fn reading_stops_at_the_first_of_both_limits_but_never_before_one_row() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for _ in 0..5 {
        spool.append(Queue::Inbound, vec![0; 100].into(), None).await.unwrap();
    }
    assert_eq!(spool.read_after(Queue::Inbound, 0, 2, usize::MAX).await.unwrap().len(), 2);
    assert_eq!(spool.read_after(Queue::Inbound, 0, 9, 350).await.unwrap().len(), 3);
    assert_eq!(spool.read_after(Queue::Inbound, 1, 9, 1).await.unwrap()[0].seq, 2);
    assert_eq!(spool.read_after(Queue::Inbound, 5, 9, 1).await, Ok(vec![]));
}

#[tokio::test]
async fn numbers_are_never_given_twice_even_when_the_queue_was_emptied() {
    let dir = TempDir::new().unwrap();
    for expected in 1..=3 {
        let spool = open(dir.path());
        assert_eq!(spool.append(Queue::Inbound, vec![1].into(), None).await, Ok(expected));
        spool.complete(Queue::Inbound, expected);
        spool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_producers_share_commits_and_all_of_theirs_survives_a_crash() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let producers: Vec<_> = (0..64_u8)
        .map(|producer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for n in 0..50_u8 {
                    let data = vec![producer, n];
                    answered.push((spool.append(Queue::Inbound, data.clone().into(), None).await.unwrap(), data));
                }
                assert!(answered.is_sorted(), "a producer's rows are in its order");
                answered
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    for producer in producers {
        answered.extend(producer.await.unwrap());
    }
    assert_eq!(answered.len(), 64 * 50);
    assert!(spool.counters().commits_synced < 64 * 50, "commits are shared");
    let copy = crashed(dir.path());
    assert_eq!(contents(&open(copy.path()), Queue::Inbound).await, answered);
}

#[tokio::test]
async fn a_full_queue_refuses_new_rows_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { inbound: 3 * (100 + ROW_OVERHEAD), outbound: 1000, set_aside: 3 * (100 + ROW_OVERHEAD) };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    for _ in 0..3 {
        spool.append(Queue::Inbound, vec![0; 100].into(), None).await.unwrap();
    }
    assert_eq!(spool.append(Queue::Inbound, vec![0; 100].into(), None).await, Err(SpoolError::Full));
    assert!(spool.writable().borrow().as_ref().is_err_and(|not| not.cause.contains("inbound queue is full")));
    spool.append(Queue::Outbound, vec![0; 100].into(), None).await.unwrap();
    spool.replace(Queue::Inbound, 1, vec![1; 200]).await.unwrap();
    assert_eq!(everything(&spool, Queue::Inbound).await.len(), 3);

    // A completion that is still pending makes room.
    spool.complete(Queue::Inbound, 1);
    assert_eq!(spool.append(Queue::Inbound, vec![0; 100].into(), None).await, Ok(4));
    until(|| spool.writable().borrow().is_ok()).await;

    for n in 1..=5_u8 {
        spool.append(Queue::SetAside, vec![n; 100].into(), None).await.unwrap();
    }
    assert_eq!(contents(&spool, Queue::SetAside).await.into_keys().collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(spool.counters().set_aside_dropped, 2);
    assert_eq!(spool.append(Queue::SetAside, vec![0; 1000].into(), None).await, Err(SpoolError::Full));
}

#[tokio::test]
async fn a_queue_that_one_batch_fills_counts_as_full() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { inbound: 3 * (100 + ROW_OVERHEAD), outbound: 1000, set_aside: 1000 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let appends = (0..10).map(|_| spool.append(Queue::Inbound, vec![0; 100].into(), None));
    let refused = futures_util::future::join_all(appends).await.into_iter().filter(Result::is_err).count();
    assert_eq!(refused, 7);
    until(|| spool.writable().borrow().as_ref().is_err_and(|not| not.cause.contains("inbound queue is full"))).await;
    for seq in 1..=3 {
        spool.complete(Queue::Inbound, seq);
    }
    until(|| spool.writable().borrow().is_ok()).await;
}

#[tokio::test]
async fn keys_and_notes_live_as_long_as_they_should() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for n in 1..=3_u8 {
        spool.append(Queue::Inbound, vec![n].into(), None).await.unwrap();
        let key = Key { pkid: u16::from(n), digest: [n; 32], connection: 1 };
        spool.append(Queue::Outbound, vec![n].into(), Some(key)).await.unwrap();
    }
    spool.append(Queue::Outbound, vec![9].into(), Some(Key { pkid: 1, digest: [9; 32], connection: 1 })).await.unwrap();
    spool.put_note("presence/a", b"1".to_vec());
    spool.put_note("presence/b", b"2".to_vec());
    spool.put_note("other", b"3".to_vec());
    spool.remove_note("presence/b");
    let expected_notes = vec![("presence/a".to_owned(), b"1".to_vec())];
    assert_eq!(spool.notes("presence/").await.unwrap(), expected_notes);
    spool.complete(Queue::Inbound, 1);
    spool.close().await;

    let spool = open(dir.path());
    assert_eq!(spool.redeliveries().await.unwrap(), [(1, [9; 32]), (2, [2; 32]), (3, [3; 32])]);
    assert_eq!(spool.notes("presence/").await.unwrap(), expected_notes);
    spool.forget_session(2).await.unwrap();
    assert_eq!(open(crashed(dir.path()).path()).redeliveries().await.unwrap(), []);
}

#[tokio::test]
async fn a_redelivery_key_goes_when_the_broker_needs_it_no_more_and_none_of_a_lost_session_comes_after() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let store = async |pkid, connection| {
        let key = Key { pkid, digest: [1; 32], connection };
        spool.append(Queue::Outbound, vec![1].into(), Some(key)).await.unwrap();
    };
    for pkid in 1..=4 {
        store(pkid, 1).await;
    }
    spool.forget_redeliveries(vec![1, 2, 9]);
    let kept =
        async |spool: &Spool| spool.redeliveries().await.unwrap().into_iter().map(|(pkid, _)| pkid).collect::<Vec<_>>();
    assert_eq!(kept(&spool).await, [3, 4], "seen at once");
    // Used again at once: this one stays.
    store(2, 1).await;
    assert_eq!(kept(&open(crashed(dir.path()).path())).await, [2, 3, 4], "it rode with the next commit");
    spool.forget_redeliveries(vec![4]);
    let lazy = spool.counters().commits_lazy;
    until(|| spool.counters().commits_lazy > lazy).await;
    assert_eq!(kept(&open(crashed(dir.path()).path())).await, [2, 3], "or had one of its own");

    // What was on its way while the session was lost is stored, without a key of that session.
    spool.forget_session(5).await.unwrap();
    store(6, 4).await;
    store(7, 5).await;
    assert_eq!(kept(&spool).await, [7]);
    assert_eq!(everything(&spool, Queue::Outbound).await.len(), 7);
}

#[tokio::test]
async fn lazy_operations_reach_the_disk_by_themselves() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.complete(Queue::Inbound, 1);
    until(|| spool.counters().commits_lazy > 0).await;
    assert_eq!(spool.stats(Queue::Inbound).depth, 0);
    assert!(everything(&open(crashed(dir.path()).path()), Queue::Inbound).await.is_empty());
}

#[tokio::test]
async fn at_rest_the_log_is_empty_and_nothing_is_written() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let log = dir.path().join("spool.db-wal");
    logged(&spool, dir.path()).await;
    until(|| fs::metadata(&log).unwrap().len() == 0).await;
    let before = fs::metadata(dir.path().join("spool.db")).unwrap().modified().unwrap();
    spool.read(Queue::Inbound, 1).await.unwrap();
    assert_eq!(fs::metadata(dir.path().join("spool.db")).unwrap().modified().unwrap(), before);
    assert_eq!(spool.counters().commits_lazy, 0);
}

#[tokio::test]
async fn a_large_file_shrinks_once_it_is_empty() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let mut last = 0;
    for _ in 0..12 {
        last = spool.append(Queue::Inbound, vec![7; 1 << 20].into(), None).await.unwrap();
    }
    for seq in 1..last {
        spool.complete(Queue::Inbound, seq);
    }
    let file = dir.path().join("spool.db");
    until(|| fs::metadata(&file).unwrap().len() > 1 << 20).await;
    until(|| fs::metadata(&file).unwrap().len() < 3 << 20).await;
    assert_eq!(spool.read(Queue::Inbound, last).await.unwrap().unwrap().data.len(), 1 << 20);
    assert_eq!(spool.append(Queue::Inbound, vec![1].into(), None).await, Ok(last + 1));
}

#[tokio::test]
async fn the_files_are_for_our_eyes_only() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    for file in fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
}

#[tokio::test]
async fn after_closing_other_handles_fail_and_no_log_is_left_beside_the_database() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let other = spool.clone();
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.complete(Queue::Inbound, 1);
    spool.close().await;
    assert!(matches!(other.append(Queue::Inbound, vec![1].into(), None).await, Err(SpoolError::Failed(_))));
    assert!(matches!(other.read(Queue::Inbound, 1).await, Err(SpoolError::Failed(_))));
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["spool.db"]);
    assert!(everything(&open(dir.path()), Queue::Inbound).await.is_empty());
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.complete(Queue::Inbound, 1);
    drop(spool);
    assert!(!dir.path().join("spool.db-wal").exists());
    assert_eq!(open(dir.path()).stats(Queue::Inbound).depth, 0);
}

/// Whatever is in the way: a fresh spool works, the obstacle is kept, and somebody is told.
async fn starts_afresh(dir: &Path) -> Recovered {
    let (spool, recovered) = Spool::open(dir, ROOMY).expect("it opens");
    assert!(!recovered.alarms.is_empty());
    let seq = spool.append(Queue::Inbound, b"new".to_vec().into(), None).await.unwrap();
    assert_eq!(spool.read(Queue::Inbound, seq).await.unwrap().unwrap().data, "new");
    spool.close().await;
    let spool = open(dir);
    assert_eq!(spool.read(Queue::Inbound, seq).await.unwrap().unwrap().data, "new");
    recovered
}

#[tokio::test]
async fn a_file_that_is_no_database_is_moved_aside() {
    let dir = TempDir::new().unwrap();
    for n in 1..=2 {
        let text = format!("not a database, {n}").repeat(500);
        fs::write(dir.path().join("spool.db"), &text).unwrap();
        fs::write(dir.path().join("spool.db-wal"), "nor a log").unwrap();
        let moved_to = starts_afresh(dir.path()).await.moved_to.unwrap();
        assert_eq!(moved_to, dir.path().join(format!("spool.db.damaged-{n}")));
        assert_eq!(fs::read_to_string(moved_to).unwrap(), text);
        assert!(dir.path().join(format!("spool.db.damaged-{n}-wal")).exists());
    }
}

#[tokio::test]
async fn an_empty_file_is_used_and_reported() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("spool.db"), "").unwrap();
    assert_eq!(starts_afresh(dir.path()).await.moved_to, None);
}

#[tokio::test]
async fn a_log_without_its_database_is_moved_aside() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let copy = logged(&spool, dir.path()).await;
    fs::remove_file(copy.path().join("spool.db")).unwrap();
    assert!(starts_afresh(copy.path()).await.moved_to.is_some());
    let copy = logged(&spool, dir.path()).await;
    fs::write(copy.path().join("spool.db"), "").unwrap();
    assert!(starts_afresh(copy.path()).await.moved_to.is_some());
}

#[tokio::test]
async fn what_cannot_be_used_is_an_error_and_stays_as_it_is() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("spool.db")).unwrap();
    assert!(matches!(Spool::open(dir.path(), ROOMY), Err(OpenError::File { .. })));
    assert!(dir.path().join("spool.db").is_dir());
    let missing = dir.path().join("missing");
    assert!(matches!(Spool::open(&missing, ROOMY), Err(OpenError::File { .. })));
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Spool::open(&file, ROOMY), Err(OpenError::File { .. })));
}

/// A closed spool with `rows` rows of different sizes, and what they hold.
async fn filled(dir: &Path, rows: u32) -> BTreeMap<u64, Vec<u8>> {
    let spool = open(dir);
    let mut expected = BTreeMap::new();
    for n in 0..rows {
        let data = vec![u8::try_from(n % 251).unwrap(); usize::try_from(n * 37 % 3000).unwrap()];
        expected.insert(spool.append(Queue::Inbound, data.clone().into(), None).await.unwrap(), data);
    }
    spool.close().await;
    expected
}

/// Opens and uses a damaged spool: nothing false is read, and everything works.
async fn usable(dir: &Path, expected: &BTreeMap<u64, Vec<u8>>) -> (usize, bool) {
    let (spool, recovered) = Spool::open(dir, ROOMY).expect("damage does not keep it from opening");
    let left = contents(&spool, Queue::Inbound).await;
    for (seq, data) in &left {
        assert_eq!(expected.get(seq), Some(data), "what is read is what was written");
    }
    let seq = spool.append(Queue::Inbound, b"new".to_vec().into(), None).await.unwrap();
    assert!(!left.contains_key(&seq));
    for seq in left.keys() {
        spool.complete(Queue::Inbound, *seq);
    }
    spool.replace(Queue::Inbound, seq, b"newer".to_vec()).await.unwrap();
    assert_eq!(contents(&spool, Queue::Inbound).await, BTreeMap::from([(seq, b"newer".to_vec())]));
    let reported = !recovered.alarms.is_empty() || spool.counters().damaged_rows > 0;
    spool.close().await;
    (left.len(), reported)
}

#[tokio::test]
async fn flipped_bits_cost_what_they_hit_and_are_reported() {
    let original = TempDir::new().unwrap();
    let expected = filled(original.path(), 60).await;
    let bytes = fs::read(original.path().join("spool.db")).unwrap();
    // A prime stride visits every kind of page, and every offset in one.
    for position in (0..bytes.len() * 8).step_by(6151) {
        let dir = TempDir::new().unwrap();
        let mut flipped = bytes.clone();
        flipped[position / 8] ^= 1 << (position % 8);
        fs::write(dir.path().join("spool.db"), flipped).unwrap();
        let (left, reported) = usable(dir.path(), &expected).await;
        assert!(left == expected.len() || reported, "bit {position}: {left} rows left and nobody told");
        // The first pages describe all others.
        assert!(left + 20 >= expected.len() || position < 16 * 1024 * 8, "bit {position}: only {left} rows left");
    }
}

#[tokio::test]
async fn a_damaged_log_costs_what_comes_after_and_nothing_before() {
    let original = TempDir::new().unwrap();
    let spool = open(original.path());
    let mut expected = BTreeMap::new();
    for n in 0..40_u8 {
        let data = vec![n; usize::from(n) * 50];
        expected.insert(spool.append(Queue::Inbound, data.clone().into(), None).await.unwrap(), data);
    }
    let crashed = crashed(original.path());
    let log = fs::read(crashed.path().join("spool.db-wal")).unwrap();
    for position in (0..log.len() * 8).step_by(90_001) {
        let dir = TempDir::new().unwrap();
        fs::copy(crashed.path().join("spool.db"), dir.path().join("spool.db")).unwrap();
        let mut flipped = log.clone();
        flipped[position / 8] ^= 1 << (position % 8);
        if position % 3 == 0 {
            flipped.truncate(position / 8);
        }
        fs::write(dir.path().join("spool.db-wal"), flipped).unwrap();
        usable(dir.path(), &expected).await;
    }
}

#[tokio::test]
async fn a_truncated_file_keeps_what_is_left_of_it() {
    let original = TempDir::new().unwrap();
    let expected = filled(original.path(), 200).await;
    let bytes = fs::read(original.path().join("spool.db")).unwrap();
    let mut most = 0;
    for eighths in 1..8 {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("spool.db"), &bytes[..bytes.len() * eighths / 8 + 100]).unwrap();
        let (left, reported) = usable(dir.path(), &expected).await;
        assert!(reported);
        most = most.max(left);
    }
    assert!(most > 100, "{most} rows");
}

#[tokio::test]
async fn damage_met_while_running_costs_what_it_hit() {
    let dir = TempDir::new().unwrap();
    // Larger than SQLite's cache, so that the pages hit have to be read again.
    let expected: BTreeMap<_, _> = (1..=200).map(|n| (n, vec![7; 60_000])).collect();
    let spool = open(dir.path());
    for data in expected.values() {
        spool.append(Queue::Inbound, data.clone().into(), None).await.unwrap();
    }
    spool.close().await;
    let spool = open(dir.path());
    let path = dir.path().join("spool.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 1024 * 1024;
    bytes[middle..middle + 2048].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let left = contents(&spool, Queue::Inbound).await;
    assert!(left.len() < expected.len() && left.len() > 190, "{} rows left", left.len());
    assert!(left.iter().all(|(seq, data)| expected.get(seq) == Some(data)));
    let counters = spool.counters();
    assert_eq!(usize::try_from(counters.damaged_rows).unwrap(), expected.len() - left.len());
    assert_eq!(spool.stats(Queue::Inbound).depth, u64::try_from(left.len()).unwrap());
    assert_eq!(spool.append(Queue::Inbound, vec![1].into(), None).await, Ok(201));
    spool.close().await;
    assert_eq!(contents(&open(dir.path()), Queue::Inbound).await.len(), left.len() + 1);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Replace(usize, usize),
    ReplaceLazily(usize, usize),
    Complete(usize),
    Note(u8, Option<u8>),
    Read(usize),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3000_usize).prop_map(Step::Append),
        2 => (any::<usize>(), 0..3000_usize).prop_map(|(row, size)| Step::Replace(row, size)),
        2 => (any::<usize>(), 0..3000_usize).prop_map(|(row, size)| Step::ReplaceLazily(row, size)),
        4 => any::<usize>().prop_map(Step::Complete),
        1 => (0..4_u8, proptest::option::of(any::<u8>())).prop_map(|(key, value)| Step::Note(key, value)),
        2 => any::<usize>().prop_map(Step::Read),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// What the spool must hold. A crash may undo what was lazy, and nothing else.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<u64, Vec<u8>>,
    notes: BTreeMap<String, Vec<u8>>,
    /// Every content each row may have after a crash; `None`: it may be gone.
    after_crash: BTreeMap<u64, BTreeSet<Option<Vec<u8>>>>,
    highest: u64,
}

impl Model {
    fn row(&self, pick: usize) -> Option<u64> {
        let keys: Vec<_> = self.rows.keys().copied().collect();
        keys.get(pick % keys.len().max(1)).copied()
    }

    fn set(&mut self, seq: u64, data: Option<Vec<u8>>, durable: bool) {
        let states = self.after_crash.entry(seq).or_default();
        if durable {
            states.clear();
        }
        states.insert(data.clone());
        match data {
            Some(data) => self.rows.insert(seq, data),
            None => self.rows.remove(&seq),
        };
    }

    /// A durable commit carries everything lazy before it.
    fn settle(&mut self) {
        self.after_crash = self.rows.iter().map(|(seq, data)| (*seq, BTreeSet::from([Some(data.clone())]))).collect();
    }
}

async fn run_model(steps: Vec<Step>) {
    let mut dir = TempDir::new().unwrap();
    let mut spool = open(dir.path());
    let mut model = Model::default();
    for (n, step) in steps.into_iter().enumerate() {
        let data = |size| vec![u8::try_from(n % 256).unwrap(); size];
        match step {
            Step::Append(size) => {
                let seq = spool.append(Queue::Outbound, data(size).into(), None).await.unwrap();
                assert!(seq > model.highest, "numbers only grow");
                model.highest = seq;
                model.set(seq, Some(data(size)), true);
                model.settle();
            }
            Step::Replace(row, size) => {
                let Some(seq) = model.row(row) else { continue };
                spool.replace(Queue::Outbound, seq, data(size)).await.unwrap();
                model.set(seq, Some(data(size)), true);
                model.settle();
            }
            Step::ReplaceLazily(row, size) => {
                let Some(seq) = model.row(row) else { continue };
                spool.replace_lazily(Queue::Outbound, seq, data(size));
                model.set(seq, Some(data(size)), false);
            }
            Step::Complete(row) => {
                let Some(seq) = model.row(row) else { continue };
                spool.complete(Queue::Outbound, seq);
                model.set(seq, None, false);
            }
            Step::Note(key, value) => {
                let key = format!("note/{key}");
                if let Some(value) = value {
                    spool.put_note(&key, vec![value]);
                    model.notes.insert(key, vec![value]);
                } else {
                    spool.remove_note(&key);
                    model.notes.remove(&key);
                }
            }
            Step::Read(after) => {
                let after = u64::try_from(after).unwrap() % (model.highest + 1);
                let rows = spool.read_after(Queue::Outbound, after, 3, 4000).await.unwrap();
                let expected = model.rows.range(after + 1..).take(rows.len().max(1));
                assert!(
                    rows.iter().map(|row| (&row.seq, &row.data[..])).eq(expected.map(|(seq, data)| (seq, &data[..])))
                );
            }
            Step::Reopen => {
                spool.close().await;
                spool = open(dir.path());
                model.settle();
                let bytes = model.rows.values().map(|data| u64::try_from(data.len()).unwrap() + ROW_OVERHEAD).sum();
                let stats = spool.stats(Queue::Outbound);
                assert_eq!((stats.depth, stats.bytes), (u64::try_from(model.rows.len()).unwrap(), bytes));
                let notes = spool.notes("note/").await.unwrap();
                assert_eq!(notes.into_iter().collect::<BTreeMap<_, _>>(), model.notes);
            }
            Step::Crash => {
                let copy = crashed(dir.path());
                drop(spool);
                dir = copy;
                spool = open(dir.path());
                let left = contents(&spool, Queue::Outbound).await;
                for (seq, states) in &model.after_crash {
                    assert!(states.contains(&left.get(seq).cloned()), "row {seq}");
                }
                assert!(left.keys().all(|seq| model.after_crash.contains_key(seq)));
                model.rows = left;
                model.notes = spool.notes("note/").await.unwrap().into_iter().collect();
                model.settle();
            }
        }
    }
    assert_eq!(contents(&spool, Queue::Outbound).await, model.rows);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_spool_is_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        Runtime::new().unwrap().block_on(run_model(steps));
    }
}
