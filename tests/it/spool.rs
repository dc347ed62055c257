//! The spool's files from outside: what was answered is there, whatever happened to them. What any store must do is tested
//! in `src/store/conformance/`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ilink2mqtt::store::sqlite::{OpenError, Recovered, Spool};
use ilink2mqtt::store::{Append as _, AppendError, Limits, Queue, Row, SpoolError, Store as _};
use tempfile::TempDir;

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
    assert!(matches!(
        other.append(Queue::Inbound, vec![1].into(), None).await,
        Err(AppendError::Spool(SpoolError::Failed(_)))
    ));
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
