//! A process that uses the spool while it is recorded, and says what it was promised when.
//!
//! What it says are lines of `marks`, a file in the recorded directory, so that each stands in the history where it belongs.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ilink2mqtt::os::clock::wall_now_ms;
use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, Key, Limits, Queue, Store as _};
use serde::{Deserialize, Serialize};

use super::platter::Dice;
use super::recording;
use crate::support::{eventually, within};

pub(crate) const LIMITS: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 40_000 };

/// A value that the spool was asked to keep under a name, or to forget.
pub(crate) type Setting = (String, Option<String>);

/// A line of the file `marks`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Mark {
    /// What follows is of this kind.
    Phase(String),
    /// The spool is asked to do this. Durable: its answer will be a promise.
    Begin { n: u64, at_ms: u64, sets: Vec<Setting> },
    /// It answered: this, and everything asked before it, is durable.
    Done { n: u64 },
}

const PART: &str = "DISK_CHILD_PART";
const DIR: &str = "DISK_CHILD_DIR";
const SEED: &str = "DISK_CHILD_SEED";

/// Runs one part of the load in a process of its own, recorded, and returns once it has ended.
pub(crate) async fn run(part: &str, dir: &Path, log: &Path) {
    run_on(part, 0, dir, log, None).await;
}

/// The same with a seed, on a disk that fails as `fault` says.
pub(crate) async fn run_on(part: &str, seed: u64, dir: &Path, log: &Path, fault: Option<&Path>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["disk::child::child", "--exact", "--ignored", "--nocapture"])
        .envs(recording::environment(dir, Some(log), fault))
        .env(PART, part)
        .env(SEED, seed.to_string())
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("this test runs again");
    // It bounds itself: every wait of its own has a deadline.
    let ended = within(Duration::from_mins(5), part, async || child.try_wait().expect("a child of ours")).await;
    // One part ends by aborting.
    assert!(ended.success() || part == "first", "{part}: {ended}");
}

#[tokio::test]
#[ignore = "a process of the power-cut tests, not a test"]
async fn child() {
    let (Ok(part), Ok(dir)) = (std::env::var(PART), std::env::var(DIR)) else { return };
    let mut load = Load::open(PathBuf::from(dir), &part);
    load.dice =
        std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).filter(|seed| *seed > 0).map_or(load.dice, Dice);
    if part == "failing" {
        return load.until_a_sync_fails().await;
    }
    load.reopen();
    match part.as_str() {
        "first" => load.first().await,
        "second" => load.second().await,
        "quick" => load.quick().await,
        "afterwards" => load.afterwards().await,
        other => panic!("{other}"),
    }
}

pub(super) struct Load {
    pub(super) dir: PathBuf,
    pub(super) spool: Option<Arc<Spool>>,
    marks: File,
    pub(super) dice: Dice,
    n: u64,
    /// Rows that are there: queue, number, tag.
    pub(super) rows: Vec<(Queue, u64, u64)>,
    pub(super) next_tag: u64,
    version: u32,
}

impl Load {
    fn open(dir: PathBuf, part: &str) -> Self {
        let marks = OpenOptions::new().create(true).append(true).open(dir.join("marks")).unwrap();
        // Numbers go on where an earlier part may have ended.
        let first = if matches!(part, "second" | "afterwards") { 1_000_000 } else { 1 };
        let dice = Dice(first);
        let rows = Vec::new();
        let mut load = Self { dir, spool: None, marks, dice, n: first, rows, next_tag: first, version: 0 };
        load.phase(&format!("{part}: opening"));
        load
    }

    async fn first(&mut self) {
        self.phase("first");
        self.steps(250).await;
        self.large_then_empty().await;
        self.phase("emptied");
        self.steps(60).await;
        self.damage_and_rebuild().await;
        self.steps(60).await;
        self.phase("dying");
        self.steps(20).await;
        std::process::abort();
    }

    async fn second(&mut self) {
        self.phase("second");
        self.steps(150).await;
        self.close().await;
        self.phase("reopening");
        self.reopen();
        self.steps(40).await;
        self.close().await;
    }

    async fn quick(&mut self) {
        self.phase("quick");
        self.steps(60).await;
        self.close().await;
    }

    pub(super) fn phase(&mut self, name: &str) {
        self.mark(&Mark::Phase(name.to_owned()));
    }

    pub(super) fn mark(&mut self, mark: &Mark) {
        let mut line = serde_json::to_vec(mark).unwrap();
        line.push(b'\n');
        self.marks.write_all(&line).unwrap();
    }

    pub(super) fn begin(&mut self, sets: Vec<Setting>) -> u64 {
        self.n += 1;
        self.mark(&Mark::Begin { n: self.n, at_ms: wall_now_ms(), sets });
        self.n
    }

    pub(super) fn spool(&self) -> Arc<Spool> {
        self.spool.clone().expect("it is open")
    }

    fn reopen(&mut self) {
        self.spool = Some(Spool::open(&self.dir, LIMITS).expect("it opens").0);
    }

    async fn close(&mut self) {
        let n = self.begin(Vec::new());
        self.spool.take().expect("it is open").close().await;
        self.mark(&Mark::Done { n });
    }

    async fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            self.lazily();
            match self.dice.below(12) {
                0..=7 => self.append_some().await,
                8 => self.replace().await,
                9 => self.set_aside().await,
                10 if self.dice.below(4) == 0 => self.forget_session().await,
                _ => self.lazily(),
            }
        }
    }

    /// Several at once, so that they share a commit.
    async fn append_some(&mut self) {
        let spool = self.spool();
        let mut asked = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let queue = if self.dice.coin() { Queue::Inbound } else { Queue::Outbound };
            let tag = self.next_tag;
            self.next_tag += 1;
            let data = row(tag, 0, self.dice.below(6000));
            let mut sets = vec![(register(queue, tag), Some(value(&data)))];
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&tag.to_le_bytes());
            let key = match (queue, self.dice.below(3)) {
                (_, 0) | (Queue::Inbound, _) => None,
                _ => {
                    let pkid = u16::try_from(self.dice.below(40)).unwrap();
                    sets.push((format!("redelivery/{pkid}"), Some(tag.to_string())));
                    Some(Key { pkid, digest, connection: 0 })
                }
            };
            let n = self.begin(sets);
            asked.push((n, queue, tag, data, key));
        }
        let answers = asked.iter().map(|(n, queue, tag, data, key)| {
            let append = spool.append(*queue, data.clone().into(), *key);
            async move { (*n, *queue, append.await.expect("there is room"), *tag) }
        });
        for (n, queue, seq, tag) in join_all(answers).await {
            self.mark(&Mark::Done { n });
            self.rows.push((queue, seq, tag));
        }
    }

    async fn replace(&mut self) {
        let Some((queue, seq, tag)) = self.pick(false) else { return };
        let data = self.next_version(tag);
        let n = self.begin(vec![(register(queue, tag), Some(value(&data)))]);
        self.spool().replace(queue, seq, data).await.expect("it is replaced");
        self.mark(&Mark::Done { n });
    }

    async fn set_aside(&mut self) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let data = row(tag, 0, self.dice.below(9000));
        let n = self.begin(vec![(register(Queue::SetAside, tag), Some(value(&data)))]);
        self.spool().append(Queue::SetAside, data.into(), None).await.expect("there is room");
        self.mark(&Mark::Done { n });
    }

    async fn forget_session(&mut self) {
        let n = self.begin((0..40).map(|pkid| (format!("redelivery/{pkid}"), None)).collect());
        self.spool().forget_session(0).await.expect("it is forgotten");
        self.mark(&Mark::Done { n });
    }

    pub(super) fn lazily(&mut self) {
        for _ in 0..self.dice.below(5) {
            match self.dice.below(6) {
                0..=2 => self.complete(),
                3 => {
                    let Some((queue, seq, tag)) = self.pick(false) else { continue };
                    let data = self.next_version(tag);
                    self.begin(vec![(register(queue, tag), Some(value(&data)))]);
                    self.spool().replace_lazily(queue, seq, data);
                }
                4 => {
                    let key = format!("note/{}", self.dice.below(5));
                    if self.dice.coin() {
                        let text = self.dice.roll().to_string();
                        self.begin(vec![(key.clone(), Some(text.clone()))]);
                        self.spool().put_note(&key, text.into_bytes());
                    } else {
                        self.begin(vec![(key.clone(), None)]);
                        self.spool().remove_note(&key);
                    }
                }
                _ => {
                    let pkid = u16::try_from(self.dice.below(40)).unwrap();
                    self.begin(vec![(format!("redelivery/{pkid}"), None)]);
                    self.spool().forget_redeliveries(vec![pkid]);
                }
            }
        }
    }

    fn complete(&mut self) {
        let Some((queue, seq, tag)) = self.pick(true) else { return };
        self.begin(vec![(register(queue, tag), None)]);
        self.spool().complete(queue, seq);
    }

    fn pick(&mut self, taken: bool) -> Option<(Queue, u64, u64)> {
        if self.rows.is_empty() {
            return None;
        }
        let at = self.dice.below(self.rows.len());
        Some(if taken { self.rows.swap_remove(at) } else { self.rows[at] })
    }

    fn next_version(&mut self, tag: u64) -> Vec<u8> {
        self.version += 1;
        row(tag, self.version, self.dice.below(6000))
    }

    /// Makes the file large, then empties it and waits until it was shrunk.
    async fn large_then_empty(&mut self) {
        self.phase("filling");
        let mut large = Vec::new();
        for _ in 0..10 {
            let tag = self.next_tag;
            self.next_tag += 1;
            let data = row(tag, 0, 1 << 20);
            let n = self.begin(vec![(register(Queue::Inbound, tag), Some(value(&data)))]);
            large.push((self.spool().append(Queue::Inbound, data.into(), None).await.expect("there is room"), tag));
            self.mark(&Mark::Done { n });
        }
        self.phase("shrinking");
        for (seq, tag) in large {
            self.begin(vec![(register(Queue::Inbound, tag), None)]);
            self.spool().complete(Queue::Inbound, seq);
        }
        let file = self.dir.join("spool.db");
        within(Duration::from_mins(1), "the file to shrink", async || {
            (fs::metadata(&file).unwrap().len() < 4 << 20).then_some(())
        })
        .await;
        let log = self.dir.join("spool.db-wal");
        eventually("the log to be emptied", async || (fs::metadata(&log).unwrap().len() == 0).then_some(())).await;
    }

    /// Damage that SQLite finds and that costs no row: the header's count of free pages. Opening rebuilds the file.
    async fn damage_and_rebuild(&mut self) {
        self.close().await;
        self.phase("rebuilding");
        let mut file = OpenOptions::new().write(true).open(self.dir.join("spool.db")).unwrap();
        file.seek(SeekFrom::Start(36)).unwrap();
        file.write_all(&[0, 0, 0x77, 0x77]).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let (spool, recovered) = Spool::open(&self.dir, LIMITS).expect("it opens");
        assert!(recovered.moved_to.is_some() && recovered.damaged_rows == 0, "{recovered:?}");
        self.spool = Some(spool);
        self.phase("rebuilt");
    }
}

pub(crate) fn register(queue: Queue, tag: u64) -> String {
    format!("{}/{tag}", queue.as_str())
}

/// The content of a row: which one it is, and which of its versions.
pub(crate) fn row(tag: u64, version: u32, size: usize) -> Vec<u8> {
    let mut data = [&tag.to_le_bytes()[..], &version.to_le_bytes()].concat();
    data.resize(12 + size, u8::try_from((tag + u64::from(version)) % 251).unwrap());
    data
}

pub(crate) fn value(data: &[u8]) -> String {
    format!("{:08x} {}", crc32fast::hash(data), data.len())
}

pub(crate) fn tag(data: &[u8]) -> u64 {
    u64::from_le_bytes(data[..8].try_into().unwrap())
}
