//! Carries out transactions one after the other, each at most once, whatever becomes of the answers.
//!
//! A transaction whose answer was lost may have been carried out, or may be later: a member of etcd that stood still for a
//! minute goes on with what it had. So each one changes a key of its writer's, on the condition that this key is as the one
//! before left it. Whatever is tried twice is carried out once; what the key says afterwards tells whether it was; and what
//! comes late changes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use ulid::Ulid;

use super::client::Client;
use super::election::Leadership;
use super::error::EtcdError;
use super::rows::number;
use super::tokens::{TokenChange, TokenLease, Verdict};
use super::wire::{Carried, Compare, KeyValue, Range, Step, Transaction};
use crate::store::types::{PerQueue, Queue};

/// The first pause between two tries of what may have been carried out, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// What the last transaction of a writer was, and which rows were its last. It stands in the writer's key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    transaction: String,
    /// The highest number of each queue before it.
    before: [u64; 3],
    /// The last place of each queue in it.
    here: [Option<u8>; 3],
}

impl Mark {
    /// The highest number of each queue that the writer has given.
    pub(super) fn highest(kv: &KeyValue) -> PerQueue<u64> {
        let mark: Self = serde_json::from_slice(&kv.value.0).unwrap_or_default();
        let mut highest = PerQueue::default();
        for ((queue, before), here) in Queue::ALL.into_iter().zip(mark.before).zip(mark.here) {
            *highest.get_mut(queue) = here.map_or(before, |place| number(kv.mod_revision.0, place));
        }
        highest
    }
}

/// A part of what is to be carried out.
#[derive(Debug)]
pub(super) enum Part {
    Step(Step),
    Token(TokenChange),
}

/// Something to carry out.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) transaction: Ulid,
    pub(super) parts: Vec<Part>,
    /// The last place of each queue to which it adds.
    pub(super) last: PerQueue<Option<u8>>,
}

impl Work {
    fn tokens(&self) -> impl Iterator<Item = &TokenChange> {
        self.parts.iter().filter_map(|part| match part {
            Part::Token(token) => Some(token),
            Part::Step(_) => None,
        })
    }

    fn steps(&self, lease: u64) -> impl Iterator<Item = Step> {
        self.parts.iter().map(move |part| match part {
            Part::Step(step) => step.clone(),
            Part::Token(token) => token.step(lease),
        })
    }

    #[cfg(test)]
    fn adds(&self) -> bool {
        Queue::ALL.into_iter().any(|queue| self.last.get(queue).is_some())
    }
}

/// What has been carried out.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// In which it was.
    pub(super) revision: u64,
    /// On each token in it.
    pub(super) verdicts: VecDeque<Verdict>,
}

impl Done {
    fn of(carried: Carried) -> Self {
        let revision = carried.header.revision.0;
        let verdict = |inner: Carried| {
            if inner.succeeded { Ok(()) } else { Err(inner.found().flatten().next()) }
        };
        Self { revision, verdicts: carried.inner().map(verdict).collect() }
    }
}

/// Why it was not carried out, for certain.
#[derive(Debug)]
pub(super) enum NotDone {
    /// It may be tried again.
    Refused(EtcdError),
    /// Another member leads.
    Deposed,
    /// What etcd holds is not known any more.
    Fatal(String),
}

/// One writer.
#[derive(Debug)]
pub(super) struct Committer {
    client: Arc<Client>,
    key: String,
    leadership: Option<Leadership>,
    /// In which the writer's key was changed last; 0: not known, or it is not there.
    revision: u64,
    highest: PerQueue<u64>,
    lease: TokenLease,
    /// What is in the way of a transaction that is tried again.
    trouble: watch::Sender<Option<EtcdError>>,
    #[cfg(test)]
    pub(super) faults: Arc<Faults>,
}

/// Trouble made by tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The next transaction gets this answer.
    pub(super) next: std::sync::Mutex<Option<EtcdError>>,
    /// Rows are refused.
    pub(super) full: std::sync::atomic::AtomicBool,
    /// The next read fails.
    pub(super) read: std::sync::atomic::AtomicBool,
}

impl Committer {
    pub(super) fn new(client: Arc<Client>, key: String, leadership: Option<Leadership>) -> Self {
        let trouble = watch::Sender::new(None);
        Self {
            client,
            key,
            leadership,
            revision: 0,
            highest: PerQueue::default(),
            lease: TokenLease::default(),
            trouble,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    pub(super) fn trouble(&self) -> watch::Receiver<Option<EtcdError>> {
        self.trouble.subscribe()
    }

    /// Carries it out. Does not return before it is certain whether it was.
    pub(super) async fn commit(&mut self, work: &Work) -> Result<Done, NotDone> {
        #[cfg(test)]
        self.fail(work.adds())?;
        if self.revision == 0 {
            self.begin().await?;
        }
        let mark = self.mark(work);
        let lease = match work.tokens().next() {
            Some(_) => self.lease.get(&self.client).await.map_err(NotDone::Refused)?,
            None => 0,
        };
        let carried_out = self.carry_out(work, &mark, lease).await;
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        if let Err(NotDone::Refused(EtcdError::Refused(_))) = carried_out {
            // The lease may have ended.
            self.lease = TokenLease::default();
        }
        let done = carried_out?;
        let revision = done.revision;
        for queue in Queue::ALL {
            if let Some(place) = work.last.get(queue) {
                *self.highest.get_mut(queue) = number(revision, *place);
            }
        }
        self.revision = revision;
        Ok(done)
    }

    /// Removes keys. Nothing is lost if that comes late or twice, so it needs no mark; and etcd does it when it is out of space.
    pub(super) async fn remove(&mut self, steps: Vec<Step>) -> Result<(), NotDone> {
        let transaction = Transaction { compare: self.fence(), success: steps, failure: self.look() };
        let carried = self.client.transact(&transaction).await.map_err(|failed| NotDone::Refused(failed.error))?;
        if carried.succeeded { Ok(()) } else { Err(self.deposed()) }
    }

    /// Carries out nothing: whether it could.
    pub(super) async fn probe(&mut self) -> Result<(), NotDone> {
        #[cfg(test)]
        self.fail(true)?;
        let work = Work { transaction: Ulid::generate(), parts: Vec::new(), last: PerQueue::default() };
        self.commit(&work).await.map(|_| ())
    }

    /// The writer's key is read, or made.
    async fn begin(&mut self) -> Result<(), NotDone> {
        let mut key = self.find().await.map_err(NotDone::Refused)?;
        if key.is_none() {
            let mark = serde_json::to_vec(&self.mark_of("", [None; 3])).unwrap_or_default();
            let mut compare = self.fence();
            compare.push(Compare::changed(self.key.clone(), 0));
            let success = vec![Step::put(self.key.clone(), mark)];
            // Whether it was made, and by which try, is looked at next.
            let made = Transaction { compare, success, failure: Vec::new() };
            self.client.transact(&made).await.map_err(|failed| NotDone::Refused(failed.error))?;
            key = self.find().await.map_err(NotDone::Refused)?;
        }
        let Some(key) = key else { return Err(self.deposed()) };
        let highest = Mark::highest(&key);
        for queue in Queue::ALL {
            let known = self.highest.get_mut(queue);
            *known = (*known).max(*highest.get(queue));
        }
        self.revision = key.mod_revision.0;
        Ok(())
    }

    async fn find(&self) -> Result<Option<KeyValue>, EtcdError> {
        let found = self.client.range(&Range { key: self.key.clone().into(), ..Range::default() }).await?;
        Ok(found.kvs.into_iter().next())
    }

    fn mark(&self, work: &Work) -> Bytes {
        let here = Queue::ALL.map(|queue| *work.last.get(queue));
        serde_json::to_vec(&self.mark_of(&work.transaction.to_string(), here)).unwrap_or_default().into()
    }

    fn mark_of(&self, transaction: &str, here: [Option<u8>; 3]) -> Mark {
        let before = Queue::ALL.map(|queue| *self.highest.get(queue));
        Mark { transaction: transaction.to_owned(), before, here }
    }

    async fn carry_out(&mut self, work: &Work, mark: &Bytes, lease: u64) -> Result<Done, NotDone> {
        let mut pause = PAUSE;
        let mut unknown = false;
        loop {
            let mut compare = self.fence();
            compare.push(Compare::changed(self.key.clone(), self.revision));
            let mut success = vec![Step::put(self.key.clone(), mark.clone())];
            success.extend(work.steps(lease));
            let transaction = Transaction { compare, success, failure: self.look() };
            let error = match self.client.transact(&transaction).await {
                Ok(carried) if carried.succeeded => return Ok(Done::of(carried)),
                Ok(carried) => match self.judge(carried.found(), mark)? {
                    Some(revision) => return Ok(self.look_back(work, revision).await),
                    None => continue,
                },
                Err(failed) => {
                    unknown |= failed.unknown;
                    failed.error
                }
            };
            if let EtcdError::Corrupt(_) = error {
                return Err(NotDone::Fatal(error.to_string()));
            }
            if !unknown {
                return Err(NotDone::Refused(error));
            }
            if !error.is_unknown() {
                // An earlier try may still be carried out: not after this.
                if let Some(revision) = self.cancel(mark).await? {
                    return Ok(self.look_back(work, revision).await);
                }
                if self.revision == 0 {
                    return Err(NotDone::Refused(error));
                }
            }
            self.trouble.send_replace(Some(error));
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// What was carried out in a revision, though its answer is not known: the conditions of tokens held if they held right
    /// before. If etcd does not know that any more, they count as not held: then a push is stored once more, and none is lost.
    async fn look_back(&self, work: &Work, revision: u64) -> Done {
        let questions: Vec<_> = work.tokens().map(|token| token.question(revision.saturating_sub(1))).collect();
        let look = Transaction { success: questions, ..Transaction::default() };
        while !look.success.is_empty() {
            match self.client.transact(&look).await {
                Ok(carried) => {
                    let there = carried.found().map(|found| found.into_iter().next());
                    let verdicts = work.tokens().zip(there).map(|(token, there)| token.judge(there)).collect();
                    return Done { revision, verdicts };
                }
                Err(failed) if matches!(failed.error, EtcdError::Compacted | EtcdError::Refused(_)) => break,
                Err(failed) => self.trouble.send_replace(Some(failed.error)),
            };
            sleep(PAUSE_MOST).await;
        }
        Done { revision, verdicts: work.tokens().map(|_| Err(None)).collect() }
    }

    /// Removes the writer's key: what depends on it is never carried out then. The revision, if it was carried out before.
    async fn cancel(&mut self, mark: &Bytes) -> Result<Option<u64>, NotDone> {
        let mut compare = self.fence();
        compare.push(Compare::changed(self.key.clone(), self.revision));
        let transaction = Transaction { compare, success: vec![Step::delete(self.key.clone())], failure: self.look() };
        match self.client.transact(&transaction).await {
            Ok(carried) if carried.succeeded => {
                self.revision = 0;
                Ok(None)
            }
            Ok(carried) => self.judge(carried.found(), mark),
            Err(_) => Ok(None),
        }
    }

    /// The conditions did not hold. The revision, if that is because it was carried out already; else it may be tried again.
    fn judge(&mut self, mut found: impl Iterator<Item = Vec<KeyValue>>, mark: &Bytes) -> Result<Option<u64>, NotDone> {
        let key = found.next().unwrap_or_default().into_iter().next();
        if let Some(key) = &key
            && key.value.0 == *mark
        {
            return Ok(Some(key.mod_revision.0));
        }
        if let Some(leadership) = &self.leadership
            && !leadership.is_of(found.next().unwrap_or_default().first())
        {
            return Err(self.deposed());
        }
        // Somebody of the same name, or a try of the run before that came late.
        self.revision = key.map_or(0, |key| key.mod_revision.0);
        Ok(None)
    }

    fn deposed(&self) -> NotDone {
        if let Some(leadership) = &self.leadership {
            leadership.depose("another member leads");
        }
        NotDone::Deposed
    }

    fn fence(&self) -> Vec<Compare> {
        self.leadership.iter().map(Leadership::fence).collect()
    }

    /// What is looked at when the conditions do not hold.
    fn look(&self) -> Vec<Step> {
        let mut look = vec![Step::get(self.key.clone())];
        look.extend(self.leadership.iter().map(|leadership| Step::Range(leadership.question())));
        look
    }

    #[cfg(test)]
    fn fail(&self, adds: bool) -> Result<(), NotDone> {
        let next = self.faults.next.lock().unwrap().take();
        match next {
            Some(error @ EtcdError::Corrupt(_)) => Err(NotDone::Fatal(error.to_string())),
            Some(error) => Err(NotDone::Refused(error)),
            None if adds && self.faults.full.load(std::sync::atomic::Ordering::Relaxed) => {
                Err(NotDone::Refused(EtcdError::NoSpace))
            }
            None => Ok(()),
        }
    }
}
