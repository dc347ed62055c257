//! Carries out transactions one after the other, each at most once, whatever becomes of the answers.
//!
//! A transaction whose answer was lost may have been carried out, or may be later: a member of etcd that stood still for a
//! minute goes on with what it had. So each one changes a key of its writer's, on the condition that this key is as the one
//! before left it. Whatever is tried twice is carried out once; what the key says afterwards tells whether it was; and what
//! comes late changes nothing.
//!
//! Some work must not be carried out after a certain moment. Then it is not tried again, but cancelled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use ulid::Ulid;

use super::client::{Client, EACH};
use super::election::Leadership;
use super::error::EtcdError;
use super::rows::{Mark, number};
use super::session::{Session, Standing};
use super::tokens::{TokenChange, TokenLease, Verdict};
use super::wire::{Carried, Compare, KeyValue, Range, Step, Transaction};
use crate::os::clock::boot_now;
use crate::store::types::{PerQueue, Queue};

/// The first pause between two tries of what may have been carried out, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// Something to carry out.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) transaction: Ulid,
    pub(super) steps: Vec<Step>,
    pub(super) tokens: Vec<TokenChange>,
    /// The last place of each queue to which it adds.
    pub(super) last: PerQueue<Option<u8>>,
    /// The moment of the boot-time clock after which it must not be carried out.
    pub(super) until: Duration,
}

impl Work {
    fn steps(&self, lease: u64) -> impl Iterator<Item = Step> {
        let of_tokens = self.tokens.iter().filter_map(move |token| token.step(lease));
        self.steps.iter().cloned().chain(of_tokens)
    }

    #[cfg(test)]
    fn adds(&self) -> bool {
        Queue::ALL.into_iter().any(|queue| self.last.get(queue).is_some())
    }
}

/// Why it was not carried out, for certain.
#[derive(Debug)]
pub(super) enum NotDone {
    /// It may be tried again.
    Refused(EtcdError),
    /// Some tokens are not as they were thought to be: the verdict on each.
    Tokens(Vec<Verdict>),
    /// Its time is over.
    Late,
    /// Another member leads.
    Deposed,
    /// What etcd holds is not known any more.
    Fatal(String),
}

/// It never will be carried out.
struct Cancelled;

/// One writer.
#[derive(Debug)]
pub(super) struct Committer {
    client: Arc<Client>,
    key: String,
    leadership: Option<Leadership>,
    /// Of a member: a push that it sent must not be stored once its lease has run out; another member may have stored and
    /// answered it by then.
    session: Option<Arc<Session>>,
    /// In which the writer's key was changed last; 0: not known, or it is not there.
    revision: u64,
    highest: PerQueue<u64>,
    lease: TokenLease,
    /// What is in the way of a transaction that is tried again.
    trouble: watch::Sender<Option<EtcdError>>,
    #[cfg(test)]
    pub(super) faults: Arc<Faults>,
}

/// How long an answer takes that a test wants: others come meanwhile.
#[cfg(test)]
const FAULT_TAKES: Duration = Duration::from_millis(200);

/// Trouble made by tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The next transaction gets this answer, after a while.
    pub(super) next: std::sync::Mutex<Option<EtcdError>>,
    /// Rows are refused.
    pub(super) full: std::sync::atomic::AtomicBool,
    /// The next read fails.
    pub(super) read: std::sync::atomic::AtomicBool,
}

impl Committer {
    /// Of a leader, by its leadership, or of a member, whoever leads, by its session.
    pub(super) fn new(
        client: Arc<Client>,
        key: String,
        leadership: Option<Leadership>,
        session: Option<Arc<Session>>,
    ) -> Self {
        let trouble = watch::Sender::new(None);
        Self {
            client,
            key,
            leadership,
            session,
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

    /// Carries it out, and tells in which revision. Does not return before it is certain whether it was.
    pub(super) async fn commit(&mut self, work: &Work) -> Result<u64, NotDone> {
        #[cfg(test)]
        self.fail(work.adds()).await?;
        if self.revision == 0 {
            self.begin().await?;
        }
        let mark = self.mark(work);
        let lease = if work.tokens.iter().any(|token| token.value.is_some()) {
            self.lease.get(&self.client).await.map_err(NotDone::Refused)?
        } else {
            0
        };
        let standing = match &self.session {
            Some(session) if !work.tokens.is_empty() => session.standing().map_err(NotDone::Refused)?,
            _ => None,
        };
        let carried_out = self.carry_out(work, &mark, lease, standing.as_ref()).await;
        if let (Err(NotDone::Refused(EtcdError::LeaseOver)), Some(session)) = (&carried_out, &self.session) {
            session.doubt();
        }
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        if let Err(NotDone::Refused(EtcdError::Refused(_))) = carried_out {
            // The lease may have ended.
            self.lease = TokenLease::default();
        }
        let revision = carried_out?;
        for queue in Queue::ALL {
            if let Some(place) = work.last.get(queue) {
                *self.highest.get_mut(queue) = number(revision, *place);
            }
        }
        self.revision = revision;
        Ok(revision)
    }

    /// Removes keys. Nothing is lost if that comes late or twice, so it needs no mark; and etcd does it when it is out of space.
    pub(super) async fn remove(&mut self, steps: Vec<Step>) -> Result<(), NotDone> {
        let transaction = Transaction { compare: self.fence(), success: steps, failure: self.look() };
        let carried = self.client.transact(&transaction).await.map_err(NotDone::Refused)?;
        if carried.succeeded { Ok(()) } else { Err(self.deposed()) }
    }

    /// Carries out nothing: whether it could.
    pub(super) async fn probe(&mut self) -> Result<(), NotDone> {
        #[cfg(test)]
        self.fail(true).await?;
        let (transaction, last, until) = (Ulid::generate(), PerQueue::default(), Duration::MAX);
        let work = Work { transaction, steps: Vec::new(), tokens: Vec::new(), last, until };
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
            self.client.transact(&made).await.map_err(NotDone::Refused)?;
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

    async fn carry_out(
        &mut self,
        work: &Work,
        mark: &Bytes,
        lease: u64,
        standing: Option<&Standing>,
    ) -> Result<u64, NotDone> {
        let mut pause = PAUSE;
        let mut unknown = false;
        loop {
            let transaction = self.transaction(work, mark, lease, standing);
            let (answer, may_come_late) = self.attempt(&transaction, work.until).await;
            unknown |= may_come_late;
            let why = match answer {
                None => NotDone::Late,
                Some(Ok(carried)) if carried.succeeded => return Ok(carried.header.revision.0),
                Some(Ok(carried)) => {
                    let mut found = carried.found();
                    if let Some(revision) = self.judge(&mut found, mark)? {
                        return Ok(revision);
                    }
                    let mut there = found.map(|found| found.into_iter().next());
                    if let Some(standing) = standing
                        && there.next().flatten().is_none_or(|name| name.lease.0 != standing.lease)
                    {
                        // Nor will an earlier try be: a lease that has gone does not come back.
                        return Err(NotDone::Refused(EtcdError::LeaseOver));
                    }
                    let verdicts: Vec<_> =
                        work.tokens.iter().zip(there).map(|(token, there)| token.judge(there)).collect();
                    if verdicts.iter().all(Result::is_ok) {
                        continue;
                    }
                    NotDone::Tokens(verdicts)
                }
                Some(Err(error @ EtcdError::Corrupt(_))) => return Err(NotDone::Fatal(error.to_string())),
                Some(Err(EtcdError::NoSpace)) => {
                    // It may have been carried out, and will not be any more.
                    match self.find().await {
                        Ok(Some(key)) if key.value.0 == *mark => return Ok(key.mod_revision.0),
                        Ok(_) => {}
                        Err(_) => unknown = true,
                    }
                    NotDone::Refused(EtcdError::NoSpace)
                }
                Some(Err(error)) => NotDone::Refused(error),
            };
            if !unknown {
                return Err(why);
            }
            if !matches!(&why, NotDone::Refused(error) if error.is_unknown()) {
                // An earlier try may still be carried out: not after this.
                let is_refused = |trouble: &EtcdError| !trouble.is_unknown();
                let removes =
                    matches!(why, NotDone::Refused(_)) || self.trouble.borrow().as_ref().is_some_and(is_refused);
                match self.cancel(mark, removes).await? {
                    Some(Ok(revision)) => return Ok(revision),
                    Some(Err(Cancelled)) => return Err(why),
                    None => {}
                }
            }
            if let NotDone::Refused(error) = why {
                self.trouble.send_replace(Some(error));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// One try. No answer: its time was over before there was one. And whether it may be carried out after this.
    async fn attempt(&self, transaction: &Transaction, until: Duration) -> (Option<Result<Carried, EtcdError>>, bool) {
        let left = until.saturating_sub(boot_now());
        if left.is_zero() {
            return (None, false);
        }
        match timeout(left, self.client.try_within(transaction, EACH)).await {
            Ok((answer, may_come_late)) => (Some(answer), may_come_late),
            Err(_) => (None, true),
        }
    }

    fn transaction(&self, work: &Work, mark: &Bytes, lease: u64, standing: Option<&Standing>) -> Transaction {
        let mut compare = self.fence();
        compare.push(Compare::changed(self.key.clone(), self.revision));
        compare.extend(standing.map(|standing| Compare::under(standing.key.clone(), standing.lease)));
        compare.extend(work.tokens.iter().map(TokenChange::condition));
        let mut success = vec![Step::put(self.key.clone(), mark.clone())];
        success.extend(work.steps(lease));
        let mut failure = self.look();
        failure.extend(standing.map(|standing| Step::get(standing.key.clone())));
        failure.extend(work.tokens.iter().map(TokenChange::question));
        Transaction { compare, success, failure }
    }

    /// Changes the writer's key, or removes it where etcd may refuse whatever is put: what depends on it is never carried out
    /// then. The revision, if it was carried out before; none if that is still not known.
    async fn cancel(&mut self, mark: &Bytes, removes: bool) -> Result<Option<Result<u64, Cancelled>>, NotDone> {
        let mut compare = self.fence();
        compare.push(Compare::changed(self.key.clone(), self.revision));
        let step = if removes {
            Step::delete(self.key.clone())
        } else {
            Step::put(self.key.clone(), serde_json::to_vec(&self.mark_of("", [None; 3])).unwrap_or_default())
        };
        let transaction = Transaction { compare, success: vec![step], failure: self.look() };
        match self.client.transact(&transaction).await {
            Ok(carried) if carried.succeeded => {
                self.revision = if removes { 0 } else { carried.header.revision.0 };
                Ok(Some(Err(Cancelled)))
            }
            Ok(carried) => Ok(self.judge(carried.found(), mark)?.map(Ok)),
            Err(error) => {
                self.trouble.send_replace(Some(error));
                Ok(None)
            }
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
    async fn fail(&self, adds: bool) -> Result<(), NotDone> {
        let next = self.faults.next.lock().unwrap().take();
        if next.is_some() {
            sleep(FAULT_TAKES).await;
        }
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
