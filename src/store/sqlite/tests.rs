//! What cannot be caused from outside: a disk that fills up, a sync that fails, a rebuild cut off by a crash.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ffi};
use tempfile::TempDir;

use super::files::Files;
use super::recovery;
use super::writer::Inject;
use super::*;
use crate::store::ROW_OVERHEAD;

const ROOMY: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 20 };

fn open(dir: &Path) -> Arc<Spool> {
    let (spool, recovered) = Spool::open(dir, ROOMY).unwrap();
    assert_eq!(recovered, Recovered::default());
    spool
}

async fn depth(spool: &Spool) -> usize {
    spool.read_after(Queue::Inbound, 0, usize::MAX, usize::MAX).await.unwrap().len()
}

async fn writable_again(spool: &Spool) {
    let mut writable = spool.writable();
    let again = writable.wait_for(Result::is_ok);
    tokio::time::timeout(Duration::from_mins(2), again).await.expect("in time").expect("while it is open");
}

#[tokio::test]
async fn numbers_go_up_one_by_one() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { inbound: 3 * (10 + ROW_OVERHEAD), ..ROOMY };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    for n in 1..=3 {
        assert_eq!(spool.append(Queue::Inbound, vec![0; 10].into(), None).await, Ok(n));
    }
    assert_eq!(spool.append(Queue::Outbound, "other".into(), None).await, Ok(1));
    assert_eq!(spool.append(Queue::Inbound, vec![0; 10].into(), None).await, Err(AppendError::Full));
    spool.complete(Queue::Inbound, 3);
    spool.close().await;
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    assert_eq!(spool.append(Queue::Inbound, vec![0; 10].into(), None).await, Ok(4));
}

#[tokio::test]
async fn who_hands_rows_over_has_time_for_their_senders_before_others_are_woken() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let appended = spool.appended(Queue::Inbound);
    let (answered, answer) = oneshot::channel();
    let then = Box::new(|outcome| answered.send(outcome).unwrap());
    assert!(spool.hand_over(Queue::Inbound, vec![1].into(), None, then).is_ok());
    assert_eq!(answer.await.unwrap(), Ok(1));
    // The commit is over once this has its answer.
    assert!(spool.read(Queue::Inbound, 1).await.unwrap().is_some());
    assert!(!appended.has_changed().unwrap());
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_new_rows_until_there_is_room_again() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.append(Queue::Inbound, vec![2].into(), None).await.unwrap();
    spool.inject(Inject::Free(1000));
    let refused = spool.append(Queue::Inbound, vec![3].into(), None).await;
    assert!(matches!(refused, Err(AppendError::Spool(SpoolError::Unwritable(cause))) if cause.contains("nearly full")));
    let told = spool.stores().unwrap_err();
    assert!(told.cause.contains("nearly full") && told.why == WhyNot::Refused, "{told:?}");
    spool.replace(Queue::Inbound, 1, b"result".to_vec()).await.unwrap();
    spool.complete(Queue::Inbound, 2);
    assert_eq!(depth(&spool).await, 1);
    assert!(spool.writable().borrow().is_err(), "completing is not appending");
    spool.inject(Inject::Free(1 << 40));
    writable_again(&spool).await;
    assert_eq!(spool.append(Queue::Inbound, vec![3].into(), None).await, Ok(3));
}

#[tokio::test]
async fn a_disk_that_the_spool_itself_has_filled_takes_rows_again_once_it_is_emptied() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for _ in 0..6 {
        spool.append(Queue::Inbound, vec![1; 1 << 20].into(), None).await.unwrap();
    }
    spool.inject(Inject::Free(1 << 20));
    assert!(spool.append(Queue::Inbound, vec![2].into(), None).await.is_err());
    for seq in 1..=6 {
        spool.complete(Queue::Inbound, seq);
    }
    writable_again(&spool).await;
    assert_eq!(spool.append(Queue::Inbound, vec![2].into(), None).await, Ok(7));
}

#[tokio::test]
async fn what_is_set_aside_uses_the_room_that_a_nearly_full_disk_has_left() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.inject(Inject::Free(1000));
    assert!(spool.append(Queue::Inbound, vec![1].into(), None).await.is_err());
    spool.append(Queue::SetAside, vec![2].into(), None).await.unwrap();
    assert!(spool.writable().borrow().is_err(), "new rows are refused as before");
    assert!(spool.append(Queue::Inbound, vec![1].into(), None).await.is_err());
}

#[tokio::test]
async fn what_a_full_disk_refuses_is_set_aside_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.inject(Inject::MaxPages(1));
    let (refused, told) = tokio::sync::mpsc::unbounded_channel();
    let setting_aside = tokio::spawn({
        let spool = spool.clone();
        async move {
            let append = || spool.append(Queue::SetAside, vec![1; 4000].into(), None);
            spool.patience().retry(append, |error| drop(refused.send(error.clone()))).await
        }
    });
    let mut told = told;
    for _ in 0..2 {
        assert!(matches!(told.recv().await, Some(AppendError::Spool(SpoolError::Unwritable(_)))));
    }
    spool.inject(Inject::MaxPages(u32::MAX));
    assert_eq!(setting_aside.await.unwrap(), Ok(1));
    assert_eq!(spool.stats(Queue::SetAside).depth, 1);

    // It does not keep the bridge from stopping.
    spool.inject(Inject::MaxPages(1));
    spool.patience().end();
    let append = || spool.append(Queue::SetAside, vec![1; 4000].into(), None);
    let given_up = spool.patience().retry(append, |_| {}).await;
    assert!(matches!(given_up, Err(AppendError::Spool(SpoolError::Unwritable(_)))));
}

#[tokio::test]
async fn what_cannot_be_read_for_a_moment_is_read_then() {
    for code in [ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM, ffi::SQLITE_IOERR_READ, ffi::SQLITE_CANTOPEN] {
        let dir = TempDir::new().unwrap();
        let spool = open(dir.path());
        spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
        spool
            .append(Queue::Outbound, vec![1].into(), Some(Key { pkid: 1, digest: [1; 32], connection: 1 }))
            .await
            .unwrap();
        // What was just stored would be read from memory.
        depth(&spool).await;
        spool.put_note("note", vec![1]);
        let mut writable = spool.writable();
        spool.inject(Inject::FailReads(2, code));
        let (found, told) = tokio::join!(depth(&spool), async {
            writable.wait_for(Result::is_err).await.unwrap().clone().unwrap_err()
        });
        assert_eq!(found, 1, "{code}");
        assert!(told.cause.contains("spool.db") && told.why == WhyNot::Refused, "{told:?}");
        assert!(spool.writable().borrow().is_ok(), "{code}");
        for _ in 0..3 {
            spool.inject(Inject::FailReads(1, code));
            assert_eq!(spool.read(Queue::Inbound, 1).await.unwrap().unwrap().data, vec![1]);
            spool.inject(Inject::FailReads(1, code));
            assert_eq!(spool.redeliveries().await.unwrap().len(), 1);
            spool.inject(Inject::FailReads(1, code));
            assert_eq!(spool.notes("").await.unwrap().len(), 1);
        }
        assert_eq!(spool.counters().rebuilds, 0);
        // Who only looks does not wait, and nobody does who is to stop.
        spool.inject(Inject::FailReads(1, code));
        assert!(spool.oldest(Queue::Inbound).await.is_err());
        spool.patience().end();
        spool.inject(Inject::FailReads(1, code));
        assert!(matches!(spool.read(Queue::Inbound, 1).await, Err(SpoolError::Unwritable(_))));
    }
}

#[tokio::test]
async fn what_the_disk_still_does_not_give_back_after_a_while_is_damage() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    // What was just stored would be read from memory.
    depth(&spool).await;
    spool.inject(Inject::FailReads(u32::MAX, ffi::SQLITE_IOERR_READ));
    assert_eq!(depth(&spool).await, 1);
    assert_eq!(spool.counters().rebuilds, 1);
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for _ in 0..4 {
        spool.append(Queue::Inbound, vec![1; 4000].into(), None).await.unwrap();
    }
    spool.inject(Inject::MaxPages(1));
    let key = Key { pkid: 7, digest: [7; 32], connection: 1 };
    let refused = spool.append(Queue::Outbound, vec![2; 4000].into(), Some(key)).await;
    assert!(
        matches!(refused, Err(AppendError::Spool(SpoolError::Unwritable(cause))) if cause.contains("the disk is full"))
    );
    assert!(spool.writable().borrow().as_ref().is_err_and(|told| told.cause.contains("full")));
    assert_eq!(spool.redeliveries().await.unwrap(), [], "the key goes the way of its row");

    // What is there is read, replaced and completed all the same, also in one commit with a row that does not fit.
    assert_eq!(depth(&spool).await, 4);
    let (row, result) = tokio::join!(
        spool.append(Queue::Inbound, vec![2; 4000].into(), None),
        spool.replace(Queue::Inbound, 1, b"result".to_vec())
    );
    assert!(matches!(row, Err(AppendError::Spool(SpoolError::Unwritable(_)))));
    result.unwrap();
    spool.complete(Queue::Inbound, 2);
    assert_eq!(depth(&spool).await, 3);

    spool.inject(Inject::MaxPages(u32::MAX));
    writable_again(&spool).await;
    assert_eq!(spool.append(Queue::Inbound, vec![3].into(), None).await, Ok(5), "a number nobody was given is free");
    spool.close().await;
    assert_eq!(depth(&open(dir.path())).await, 4);
}

#[tokio::test]
async fn a_damaged_commit_is_repeated_after_rebuilding() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.append(Queue::Outbound, vec![1].into(), Some(Key { pkid: 1, digest: [1; 32], connection: 1 })).await.unwrap();
    spool.put_note("note", vec![1]);
    spool.inject(Inject::FailCommit(ffi::SQLITE_CORRUPT));
    assert_eq!(spool.append(Queue::Inbound, vec![2].into(), None).await, Ok(2));
    assert_eq!(spool.counters().rebuilds, 1);
    assert_eq!(spool.counters().damaged_rows, 0);
    assert_eq!(depth(&spool).await, 2);
    spool.close().await;
    assert!(dir.path().join("spool.db.damaged-1").exists());
    let spool = open(dir.path());
    assert_eq!(spool.append(Queue::Inbound, vec![3].into(), None).await, Ok(3));
    assert_eq!(spool.redeliveries().await, Ok(vec![(1, [1; 32])]));
    assert_eq!(spool.notes("").await, Ok(vec![("note".to_owned(), vec![1])]));
}

#[tokio::test]
async fn a_database_damaged_without_end_is_given_up() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for n in 0..9_u8 {
        spool.inject(Inject::FailCommit(ffi::SQLITE_CORRUPT));
        let appended = spool.append(Queue::Inbound, vec![n].into(), None).await;
        assert_eq!(appended.is_ok(), n < 8, "{n}: {appended:?}");
    }
    assert!(spool.failed().await.contains("again and again"));
}

/// A spool with three rows, opened anew after this statement.
async fn changed(statement: &str) -> (TempDir, Arc<Spool>) {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for n in 1..=3 {
        spool.append(Queue::Inbound, vec![n; 10].into(), None).await.unwrap();
    }
    spool.close().await;
    Connection::open(dir.path().join("spool.db")).unwrap().execute(statement, []).unwrap();
    let spool = open(dir.path());
    (dir, spool)
}

#[tokio::test]
async fn a_row_whose_checksum_fails_is_left_out_counted_and_kept_for_the_operator() {
    let (dir, spool) = changed("UPDATE inbound SET data = x'00' WHERE seq = 2").await;
    assert_eq!(depth(&spool).await, 2);
    assert_eq!(spool.counters().damaged_rows, 1);
    assert_eq!(depth(&spool).await, 2);
    assert_eq!(spool.counters().damaged_rows, 1, "counted once");
    assert_eq!(spool.stats(Queue::Inbound).depth, 2);
    spool.close().await;
    let conn = Connection::open(dir.path().join("spool.db")).unwrap();
    let kept: Vec<u8> = conn.query_row("SELECT data FROM damaged WHERE seq = 2", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, [0]);
}

#[tokio::test]
async fn a_rebuild_at_opening_is_counted_also_if_it_costs_no_row() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    assert_eq!(spool.counters().rebuilds, 0);
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.close().await;
    // The header's count of free pages.
    let path = dir.path().join("spool.db");
    let mut file = fs::read(&path).unwrap();
    file[36..40].copy_from_slice(&[0, 0, 0x77, 0x77]);
    fs::write(&path, file).unwrap();
    let (spool, recovered) = Spool::open(dir.path(), ROOMY).unwrap();
    assert!(recovered.moved_to.is_some(), "{recovered:?}");
    assert_eq!((spool.counters().rebuilds, spool.counters().damaged_rows), (1, 0));
    assert_eq!(depth(&spool).await, 1);
}

#[tokio::test]
async fn lost_counts_are_counted_again_and_numbers_jump() {
    let (_dir, spool) = changed("UPDATE state SET next = 2").await;
    assert_eq!(spool.stats(Queue::Inbound), QueueStats { depth: 3, bytes: 3 * (10 + ROW_OVERHEAD) });
    assert!(spool.append(Queue::Inbound, vec![4].into(), None).await.unwrap() > 1 << 20);
}

#[tokio::test]
async fn another_programs_database_is_moved_aside_untouched() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("spool.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (42)").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    let (spool, recovered) = Spool::open(dir.path(), ROOMY).unwrap();
    assert!(recovered.alarms[0].contains("not a spool"), "{recovered:?}");
    assert_eq!(fs::read(recovered.moved_to.unwrap()).unwrap(), before);
    assert!(spool.append(Queue::Inbound, vec![1].into(), None).await.is_ok());
}

#[tokio::test]
async fn a_database_that_becomes_unreadable_while_running_is_replaced_and_numbers_go_on() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    for n in 1..=3 {
        spool.append(Queue::Inbound, vec![n; 10].into(), None).await.unwrap();
    }
    // Once at rest, everything is in the file and nothing in its log.
    let log = Files::new(dir.path());
    tokio::time::timeout(Duration::from_mins(2), async {
        while log.log_size() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let length = fs::metadata(dir.path().join("spool.db")).unwrap().len();
    fs::write(dir.path().join("spool.db"), vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    spool.inject(Inject::FailCommit(ffi::SQLITE_CORRUPT));
    assert_eq!(spool.append(Queue::Inbound, vec![4].into(), None).await, Ok(4));
    assert_eq!(spool.counters().damaged_rows, 3);
    assert_eq!(spool.stats(Queue::Inbound).depth, 1);
}

#[tokio::test]
async fn a_locked_database_refuses_until_it_is_released() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    let other = Connection::open(dir.path().join("spool.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = spool.append(Queue::Inbound, vec![1].into(), None).await;
    assert!(matches!(refused, Err(AppendError::Spool(SpoolError::Unwritable(cause))) if cause.contains("locked")));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(spool.append(Queue::Inbound, vec![1].into(), None).await, Ok(1));
    assert!(spool.writable().borrow().is_ok());
}

#[tokio::test]
async fn a_rebuild_cut_off_at_any_point_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let spool = open(dir.path());
    spool.append(Queue::Inbound, vec![1].into(), None).await.unwrap();
    spool.close().await;
    let path = |name: &str| dir.path().join(name);

    // While the fresh one was in the making: the old one counts.
    fs::write(path("spool.db.new"), "half a database").unwrap();
    let spool = open(dir.path());
    assert_eq!(depth(&spool).await, 1);
    spool.close().await;
    assert!(!path("spool.db.new").exists());

    // Before, while and after the old one was moved: the rebuilt one counts, and no foreign log comes near it.
    for old in [&["spool.db", "spool.db-wal"][..], &["spool.db"], &[]] {
        let spool = Spool::open(dir.path(), ROOMY).unwrap().0;
        spool.append(Queue::Inbound, vec![2].into(), None).await.unwrap();
        let expected = depth(&spool).await;
        spool.close().await;
        fs::rename(path("spool.db"), path("spool.db.rebuilt")).unwrap();
        for name in old {
            fs::write(path(name), "old").unwrap();
        }
        let (spool, recovered) = Spool::open(dir.path(), ROOMY).unwrap();
        assert!(recovered.alarms[0].contains("rebuilt"));
        assert_eq!(spool.counters().rebuilds, 1);
        assert_eq!(depth(&spool).await, expected);
        spool.close().await;
    }
}

#[test]
fn files_are_moved_aside_under_names_not_used_yet() {
    let dir = TempDir::new().unwrap();
    let files = Files::new(dir.path());
    fs::write(dir.path().join("spool.db.damaged-1-wal"), "older").unwrap();
    fs::write(&files.main, "damaged").unwrap();
    assert_eq!(files.move_aside().unwrap(), dir.path().join("spool.db.damaged-2"));
    for n in 3..=5 {
        fs::write(&files.main, "damaged").unwrap();
        assert_eq!(files.move_aside().unwrap(), dir.path().join(format!("spool.db.damaged-{n}")));
    }
    for (n, kept) in [("1-wal", false), ("2", false), ("3", true), ("4", true), ("5", true)] {
        assert_eq!(dir.path().join(format!("spool.db.damaged-{n}")).exists(), kept, "{n}");
    }
    let (db, ..) = recovery::open(dir.path()).unwrap();
    assert_eq!(db.counts.inbound.next, 1);
}
