//! The way into the queue to iLink: a command goes in if the queue has room for another of its client's. What the store refuses
//! for now, and takes again without anybody's help, waits here for as long as the command may; so does what comes before it is
//! counted how much of the queue each client holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::shares::{Client, Shares};
use crate::local::{Base, Reason};
use crate::observe::counters::Counters;
use crate::observe::log::{Seldom, clipped};
use crate::os::clock::{boot_now, nap};
use crate::store::{self, AppendError, Key, Queue, SpoolError, Store, WhyNot};

/// Between two tries of what was refused, at least.
const PAUSE: Duration = Duration::from_millis(100);
/// Why a command waits before its client's share is known.
const STILL_READ: &str = "the bridge was still reading what waited in its queue to iLink";

/// The way in.
#[derive(Debug)]
pub struct Intake {
    /// The base topic.
    pub base: Base,
    /// Where commands go.
    pub spool: Arc<dyn Store>,
    /// How much of the queue each client holds.
    pub shares: Arc<Shares>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// For saying that a client has its share.
    pub told: Seldom,
    /// In which order those who wait go on.
    pub turns: Turns,
}

/// Why a command was not made durable.
pub(super) enum NotStored {
    /// There is no room for it, or not for this client, or it is larger than the spool takes: in words, too.
    Refused(Reason, String),
    /// Its time ran out while it waited here, for this cause.
    Late(String),
    /// The spool failed.
    Failed(SpoolError),
}

impl Intake {
    /// Makes a command durable, if its client has room for it. It may wait until `deadline`, by the boot-time clock.
    pub(super) async fn append(
        &self,
        topic: &str,
        row: Vec<u8>,
        key: Option<Key>,
        deadline: Duration,
    ) -> Result<(u64, Client), NotStored> {
        let client = self.shares.client(&self.base, topic);
        let turn = self.turns.take();
        if !self.shares.are_all_found() {
            turn.hold();
            tokio::select! {
                biased;
                () = self.shares.counted() => {}
                () = reached(deadline) => return Err(NotStored::Late(STILL_READ.to_owned())),
            }
        }
        let Some(place) = self.shares.ask(client, row.len()) else {
            if self.told.may() {
                warn!(
                    command = clipped(topic),
                    "a client fills its share of the outbound queue: its commands are refused until iLink takes what waits; others' are taken"
                );
            }
            let why = "this client's commands fill its share of the bridge's queue to iLink: send it again later";
            return Err(NotStored::Refused(Reason::QueueFull, why.to_owned()));
        };
        let seq = self.append_in_turn(&turn, row.into(), key, deadline).await?;
        place.keep(seq);
        self.counters.commands_stored.add();
        Ok((seq, client))
    }

    /// Hands rows over to the spool in the order of the calls, however often it refuses one of them for now.
    async fn append_in_turn(
        &self,
        turn: &Turn<'_>,
        row: Bytes,
        key: Option<Key>,
        deadline: Duration,
    ) -> Result<u64, NotStored> {
        let mut last = String::new();
        loop {
            tokio::select! {
                biased;
                () = self.may_ask(turn) => {}
                () = reached(deadline) => return Err(NotStored::Late(self.cause().unwrap_or(last))),
            }
            let mut appending = self.spool.append(Queue::Outbound, row.clone(), key);
            let outcome = match poll!(&mut appending) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => {
                    // It is handed over: whoever comes next may follow.
                    turn.pass();
                    appending.await
                }
            };
            match outcome {
                Ok(seq) => return Ok(seq),
                Err(AppendError::Spool(SpoolError::Unwritable(cause))) if self.spool.passes(&cause) => {
                    turn.hold();
                    last = cause;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resolves when nobody who came before waits, and the spool does not refuse what will pass.
    async fn may_ask(&self, turn: &Turn<'_>) {
        let refuses = |not: &store::NotStored| not.why == WhyNot::Refused && self.spool.passes(&not.cause);
        let mut writable = self.spool.writable();
        loop {
            turn.comes().await;
            if !writable.borrow().as_ref().is_err_and(refuses) {
                return;
            }
            turn.hold();
            // Meanwhile one who came before may have been refused: it is its turn again.
            if writable.wait_for(|now| !now.as_ref().is_err_and(refuses)).await.is_err() {
                // The spool has ended: it says so itself.
                return;
            }
        }
    }

    fn cause(&self) -> Option<String> {
        self.spool.stores().err().map(|not| not.cause)
    }
}

impl From<AppendError> for NotStored {
    fn from(error: AppendError) -> Self {
        let (reason, why) = match error {
            AppendError::Spool(failed @ SpoolError::Failed(_)) => return Self::Failed(failed),
            AppendError::Full => {
                (Reason::QueueFull, "the bridge's queue to iLink is full: send it again later".to_owned())
            }
            AppendError::Spool(refused @ SpoolError::Unwritable(_)) => (Reason::QueueFull, refused.to_string()),
            AppendError::Spool(refused @ SpoolError::TooLarge(_)) => (Reason::TooLarge, refused.to_string()),
        };
        Self::Refused(reason, why)
    }
}

/// The order of those who wait, because they are refused for now or what their clients hold is not counted yet: each asks when
/// its turn comes, so that what came first is handed over first.
#[derive(Debug, Default)]
pub struct Turns {
    next: AtomicU64,
    /// The numbers of those who wait.
    waiting: watch::Sender<BTreeSet<u64>>,
}

/// The place of one of them in the order of arrival. Dropped, nobody waits for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    /// The place behind all others.
    pub(super) fn take(&self) -> Turn<'_> {
        Turn { turns: self, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Turn<'_> {
    /// Whoever comes later waits for this one.
    pub(super) fn hold(&self) {
        self.turns.waiting.send_if_modified(|waiting| {
            waiting.insert(self.number);
            false
        });
    }

    /// Nobody waits for this one any more.
    pub(super) fn pass(&self) {
        self.turns.waiting.send_if_modified(|waiting| waiting.remove(&self.number));
    }

    /// Resolves when nobody who came before waits. Until then, whoever comes later waits, too.
    pub(super) async fn comes(&self) {
        let is_first = |waiting: &BTreeSet<u64>| waiting.first().is_none_or(|first| *first >= self.number);
        if is_first(&self.turns.waiting.borrow()) {
            return;
        }
        self.hold();
        let mut waiting = self.turns.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(is_first).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pass();
    }
}

/// Resolves when the boot-time clock has reached this moment.
async fn reached(at: Duration) {
    while boot_now() < at {
        sleep(nap(at, boot_now())).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::etcd::tests::{Server, config, shared};
    use crate::store::etcd::{Etcd, EtcdConfig};

    fn into(spool: &Arc<dyn Store>, shares: Shares) -> Intake {
        Intake {
            base: "ilink".parse().unwrap(),
            spool: Arc::clone(spool),
            shares: Arc::new(shares),
            counters: Arc::default(),
            told: Seldom::default(),
            turns: Turns::default(),
        }
    }

    /// Until so many are to be tried again.
    async fn held(intake: &Intake, many: usize) {
        let begun = boot_now();
        while intake.turns.held() < many {
            assert!(boot_now() < begun + Duration::from_mins(1), "they are refused in time");
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_comes_while_etcd_stands_still_does_not_pass_what_was_refused_meanwhile() {
        let server = Server::start(&[]);
        let patient = EtcdConfig { takeover: Duration::from_mins(1), ..config(&server.url(), "a") };
        let etcd = Etcd::open(&patient).unwrap();
        let leadership = etcd.campaign().await;
        let spool = etcd.lead(&leadership).await.unwrap();
        let intake = into(&spool, Shares::of(100, 10_000));
        intake.shares.all_found();
        let append = async |row: &str| {
            let deadline = boot_now() + Duration::from_mins(2);
            let appended = intake.append("ilink/send/user/1/text", row.into(), None, deadline).await;
            assert!(appended.is_ok(), "{row}");
        };
        append("0").await;
        server.pause();
        let second = async {
            // It is handed over before anybody knows.
            sleep(Duration::from_millis(100)).await;
            append("2").await;
        };
        let third = async {
            let _ = spool.writable().wait_for(Result::is_err).await;
            append("3").await;
        };
        let mend = async {
            // The second waited with the store, and is refused after the third came.
            held(&intake, 2).await;
            server.resume();
        };
        // Of two who may ask at the same time, the third is the quicker.
        tokio::join!(biased; append("1"), third, second, mend);
        let rows = spool.read_after(Queue::Outbound, 0, 10, 1000).await.unwrap();
        assert_eq!(rows.iter().map(|row| &row.data[..]).collect::<Vec<_>>(), [b"0", b"1", b"2", b"3"]);
    }

    #[tokio::test]
    async fn what_comes_before_the_old_rows_are_counted_waits_for_its_share_and_keeps_its_order() {
        let etcd = Etcd::open(&config(shared(), "a")).unwrap();
        let leadership = etcd.campaign().await;
        let spool = etcd.lead(&leadership).await.unwrap();
        let intake = into(&spool, Shares::of(8, 10_000));
        let append = |client: u8, row: u8, ttl| {
            let (topic, deadline) = (format!("ilink/by/{client}/send/user/1/text"), boot_now() + ttl);
            let intake = &intake;
            async move { intake.append(&topic, vec![row], None, deadline).await }
        };
        let long = Duration::from_mins(2);
        let late = append(1, 0, Duration::from_millis(50)).await;
        assert!(matches!(late, Err(NotStored::Late(why)) if why == STILL_READ));
        let first = intake.shares.client(&intake.base, "ilink/by/1/send/user/1/text");
        let count = async {
            held(&intake, 10).await;
            (1..=6).for_each(|seq| intake.shares.found(first, 10, seq));
            intake.shares.all_found();
        };
        let of_others = futures_util::future::join_all((2..=10).map(|client| append(client, client, long)));
        let (of_the_first, of_others, ()) = tokio::join!(append(1, 1, long), of_others, count);
        assert!(
            matches!(of_the_first, Err(NotStored::Refused(Reason::QueueFull, why)) if why.contains("fill its share"))
        );
        assert!(of_others.iter().all(Result::is_ok));
        let rows = spool.read_after(Queue::Outbound, 0, 20, 1000).await.unwrap();
        assert!(rows.iter().map(|row| row.data[0]).eq(2..=10), "{rows:?}");
    }

    #[test]
    fn who_comes_later_waits_for_who_is_held_and_nobody_else_does() {
        let turns = Turns::default();
        let [first, second, third] = [turns.take(), turns.take(), turns.take()];
        assert!(third.comes().now_or_never().is_some(), "nobody waits");
        second.hold();
        assert!(first.comes().now_or_never().is_some());
        assert!(second.comes().now_or_never().is_some());
        let mut comes = Box::pin(third.comes());
        assert!(comes.as_mut().now_or_never().is_none());
        let fourth = turns.take();
        second.pass();
        assert!(fourth.comes().now_or_never().is_none(), "the third is before it");
        assert!(comes.as_mut().now_or_never().is_some());
        drop(comes);
        drop(third);
        assert!(fourth.comes().now_or_never().is_some());
    }
}
