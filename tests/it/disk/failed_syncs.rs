//! Syncs that fail, once, at any place: whatever the spool has answered is on the disk all the same, and after the failure it
//! answers nothing. The disk is one that tells of a failure once and then says that all is well, as Linux does.

use std::fs;
use std::time::Duration;

use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, AppendError, Key, Queue, SpoolError};
use tempfile::TempDir;

use super::assert_complete;
use super::child::{self, LIMITS, Load, Mark, register, row, value};
use super::platter::Dice;
use super::recording::{self, Event};
use super::small_disk::in_own_process;
use super::spool_cuts::replay;

/// Whose syncs may fail: the log, the database, the directory itself, and what is made only now and then.
const FILES: [&str; 7] =
    ["spool.db-wal", "spool.db-wal", "spool.db$", "spool.db$", "spool.db.new", "spool.ballast", "/state$"];

impl Load {
    /// Works until a sync fails, if one does. Then nothing is answered any more.
    pub(super) async fn until_a_sync_fails(&mut self) {
        for step in 0..90 {
            if self.spool.is_none() {
                let Ok((spool, _)) = Spool::open(&self.dir, LIMITS) else { return self.phase("not opened") };
                self.spool = Some(spool);
                self.phase("failing");
            }
            let goes_on = match self.dice.below(16) {
                // Lazy commits leave the log unsynced; with large rows it is soon long enough to be moved.
                0..=5 => {
                    self.lazily();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    true
                }
                6..=8 => self.store(300_000).await,
                9 if step > 20 => self.closes().await,
                _ => self.store(4000).await,
            };
            if !goes_on {
                return self.nothing_is_answered().await;
            }
        }
        self.closes().await;
    }

    /// Whether it was stored.
    async fn store(&mut self, most: usize) -> bool {
        let tag = self.next_tag;
        self.next_tag += 1;
        let data = row(tag, 0, self.dice.below(most));
        let n = self.begin(vec![(register(Queue::Inbound, tag), Some(value(&data)))]);
        match self.spool().append(Queue::Inbound, data.into(), None::<Key>).await {
            Ok(seq) => {
                self.mark(&Mark::Done { n });
                self.rows.push((Queue::Inbound, seq, tag));
                true
            }
            Err(error) => {
                assert!(matches!(error, AppendError::Spool(SpoolError::Failed(_))), "{error}");
                false
            }
        }
    }

    /// Whether it closed in good order. It is opened again by the next step.
    async fn closes(&mut self) -> bool {
        let n = self.begin(Vec::new());
        let spool = self.spool.take().expect("it is open");
        let watched = spool.clone();
        spool.close().await;
        if tokio::time::timeout(Duration::ZERO, watched.failed()).await.is_ok() {
            self.spool = Some(watched);
            return false;
        }
        self.mark(&Mark::Done { n });
        true
    }

    async fn nothing_is_answered(&mut self) {
        self.phase("failed");
        let cause = self.spool().failed().await;
        assert!(cause.contains("failed to sync"), "{cause}");
        for _ in 0..3 {
            assert!(!self.store(4000).await, "it answers after a failed sync");
        }
    }

    /// The next run: what it is promised holds, too.
    pub(super) async fn afterwards(&mut self) {
        self.phase("afterwards");
        for _ in 0..12 {
            assert!(self.store(4000).await);
        }
    }
}

#[test]
fn whichever_sync_fails_nothing_promised_is_lost_and_nothing_is_answered_after_it() {
    in_own_process(
        "disk::failed_syncs::whichever_sync_fails_nothing_promised_is_lost_and_nothing_is_answered_after_it",
        every_sync(),
    );
}

async fn every_sync() {
    let rounds = std::env::var("DISK_SYNC_ROUNDS").map_or(14, |text| text.parse().expect("a number"));
    let mut failures = 0;
    for round in 0..rounds {
        let mut dice = Dice(round + 1);
        let file = FILES[usize::try_from(round).unwrap() % FILES.len()];
        let rare = !file.starts_with("spool.db-wal");
        let number = 1 + dice.below(if rare { 4 } else { 60 });
        failures += usize::from(one_sync(round + 1, number, file).await);
    }
    println!("{failures} syncs failed in {rounds} rounds");
    assert!(failures * 2 >= usize::try_from(rounds).unwrap(), "too few syncs failed: {failures} of {rounds}");
}

/// Whether it came to pass.
async fn one_sync(seed: u64, number: usize, file: &str) -> bool {
    let what = format!("seed {seed}: sync {number} of {file}");
    let (parent, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let dir = parent.path().join("state");
    fs::create_dir(&dir).unwrap();
    let (log, fault) = (logs.path().join("log"), logs.path().join("fault"));
    fs::write(&fault, format!("sync#{number} 5 {file}\n")).unwrap();
    child::run_on("failing", seed, &dir, &log, Some(&fault)).await;
    child::run_on("afterwards", seed, &dir, &log, None).await;
    let events = recording::read(&log, &dir);
    let failed = events.iter().position(|event| matches!(event, Event::SyncFailed { .. }));
    if let Some(failed) = failed {
        nothing_done_after(&events[failed..], &what);
    }
    let (replayed, platter) = replay(&events, 16, false).await;
    assert_complete(&platter, &dir);
    assert!(!replayed.findings.any(), "{what}: {:?}", replayed.findings);
    failed.is_some()
}

/// In what follows the failure, nothing that was asked after it is answered, up to the next run.
fn nothing_done_after(events: &[Event], what: &str) {
    let lines = events.iter().filter_map(|event| match event {
        Event::Written { data, .. } => serde_json::from_slice::<Mark>(data.strip_suffix(b"\n")?).ok(),
        _ => None,
    });
    let mut asked = Vec::new();
    for mark in lines {
        match mark {
            Mark::Phase(name) if name.starts_with("afterwards") => break,
            Mark::Phase(_) => {}
            Mark::Begin { n, .. } => asked.push(n),
            Mark::Done { n } => assert!(!asked.contains(&n), "{what}: {n} was answered after it"),
        }
    }
}
