//! The retained state: for each retained topic, the message that the broker should hold, and whether it does.
//!
//! Nothing else publishes our retained state (`bridge/…`, Home Assistant discovery, presence that is restored or cleared). It
//! is set here, and the link sends what the broker does not have, the newest message of each topic only. What was refused is
//! tried again: soon if it was refused for now, about every minute if it was refused for good, so that a corrected ACL needs no
//! restart.
//!
//! A retained message that must keep its place among others (the presence in a push, between its events) goes through
//! [`Publisher::publish`] instead. It is noted here while the link has it: until its outcome, nothing from here is sent to its
//! topic, and nothing older afterwards.
//!
//! Everything is decided in the link's task, in the order of sending. Pure bookkeeping: no I/O, no clock.
//!
//! [`Publisher::publish`]: super::Publisher::publish

mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::config::Timing;
use super::delivery::Delivery;
use super::wire::WINDOW;
use crate::local::Publication;

use wanted::Wanted;
pub(super) use wanted::{Lasts, Outcome};

/// The most jobs under way at once: half of the window, so that a restore of many topics leaves room for messages.
const UNDER_WAY: usize = WINDOW as usize / 2;
/// So many topics that were refused for good are tried again in one round. If there are more, each waits longer.
const RETRIED_AT_ONCE: usize = 64;
/// A connection that ends within this time of a refusal ended because of it.
pub(super) const COSTS_WITHIN: Duration = Duration::from_secs(1);
/// After so many refusals for now in a row, the operator is told.
const TOLD_AFTER: u32 = 6;
/// A message that was in flight when so many connections were lost quickly may be the cause: it waits as if it had been refused
/// for now.
const SUSPECT_AFTER: u32 = 3;

/// The retained state, shared by the daemon and the link's task.
#[derive(Debug)]
pub(super) struct Standing {
    topics: Mutex<Topics>,
    news: Notify,
}

#[derive(Debug)]
struct Topics {
    soon: Duration,
    slowly: Duration,
    /// Increased by each change: tells a message that is under way from the one that replaced it.
    version: u64,
    by_topic: HashMap<String, Topic>,
    /// The topics to send now, in the order in which they were set.
    due: BTreeMap<u64, String>,
    /// The topics to send later, by time.
    later: BTreeMap<(Instant, u64), String>,
    under_way: usize,
    /// How many topics the broker refuses for good.
    refused: usize,
    /// The last refusal for good.
    last_refused: Option<(String, Instant)>,
    all_tried_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Topic {
    wanted: Option<Wanted>,
    /// A message from here is under way.
    under_way: bool,
    /// How many publishes of callers are under way, and the order of the newest one that has ended.
    callers: u32,
    newest: u64,
    /// Its place in `due` or `later`, if it has one.
    queued: Option<Queued>,
}

#[derive(Debug, Clone, Copy)]
enum Queued {
    Due(u64),
    Later(Instant, u64),
}

impl Standing {
    pub(super) fn new(timing: &Timing) -> Self {
        let topics = Topics {
            soon: timing.refused_retry,
            slowly: timing.recheck_every,
            version: 0,
            by_topic: HashMap::new(),
            due: BTreeMap::new(),
            later: BTreeMap::new(),
            under_way: 0,
            refused: 0,
            last_refused: None,
            all_tried_at: None,
        };
        Self { topics: Mutex::new(topics), news: Notify::new() }
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the message that the broker should hold at a topic from now on.
    pub(super) fn set(&self, publication: Publication, lasts: Lasts) {
        self.topics().set(publication, lasts, None);
        self.news.notify_one();
    }

    /// Sets that the broker should hold nothing there. The receiver gets true once the broker has acknowledged that; its sender
    /// is dropped if something newer is set.
    pub(super) fn clear(&self, topic: String) -> oneshot::Receiver<bool> {
        let (cleared, hears) = oneshot::channel();
        let nothing = Publication { topic, retain: true, ..Publication::default() };
        self.topics().set(nothing, Lasts::Session, Some(cleared));
        self.news.notify_one();
        hears
    }

    /// Resolves when something was set or cleared. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    /// A connection was accepted: decides what the broker still holds.
    pub(super) fn connected(&self, session_present: bool) {
        self.topics().connected(session_present);
    }

    /// The next message to send, with its version. None if the broker holds everything, or enough is under way.
    pub(super) fn next(&self, now: Instant) -> Option<(u64, Publication)> {
        self.topics().next(now)
    }

    /// When the next topic has waited long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.topics().later.keys().next().map(|(at, _)| *at)
    }

    /// A message from [`Self::next`] has its outcome. Returns true if refusals for now have lasted so long that the operator
    /// should be told.
    pub(super) fn ended(&self, topic: &str, version: u64, outcome: Outcome, now: Instant) -> bool {
        self.topics().ended(topic, version, outcome, now)
    }

    /// The connection was lost. `suspects`: the topics in flight, if it was lost so soon that one of them may be the cause.
    /// `after_refusal`: a refusal was the cause.
    pub(super) fn lost(&self, suspects: &[String], after_refusal: bool, now: Instant) {
        self.topics().lost(suspects, after_refusal, now);
    }

    /// The link has taken a caller's publish.
    pub(super) fn caller_began(&self, publication: &Publication) {
        if publication.retain {
            self.topics().caller_began(&publication.topic);
        }
    }

    /// A caller's publish has its outcome. `order` is higher for later publishes.
    pub(super) fn caller_ended(&self, publication: &Publication, order: u64, delivery: &Delivery, now: Instant) {
        if publication.retain {
            self.topics().caller_ended(publication, order, delivery, now);
        }
    }
}

impl Topics {
    fn set(&mut self, publication: Publication, lasts: Lasts, cleared: Option<oneshot::Sender<bool>>) {
        self.version += 1;
        let version = self.version;
        let name = publication.topic.clone();
        let topic = self.by_topic.entry(name.clone()).or_default();
        // A broker that refused the last message of a topic most likely refuses the next, too: it waits as long.
        let before = topic.wanted.take();
        let (not_before, refusal, times, losses) =
            before.map(|before| (before.not_before, before.refusal, before.times, before.losses)).unwrap_or_default();
        let wanted = Wanted { version, publication, lasts, held: false, not_before, refusal, times, losses, cleared };
        topic.wanted = Some(wanted);
        self.queue(&name);
    }

    /// Puts a topic into `due` or `later`, or takes it out.
    fn queue(&mut self, name: &str) {
        let Some(topic) = self.by_topic.get_mut(name) else { return };
        match topic.queued.take() {
            Some(Queued::Due(version)) => drop(self.due.remove(&version)),
            Some(Queued::Later(at, version)) => drop(self.later.remove(&(at, version))),
            None => {}
        }
        if topic.under_way || topic.callers > 0 {
            return;
        }
        let Some(wanted) = topic.wanted.as_ref().filter(|wanted| !wanted.held) else { return };
        let version = wanted.version;
        topic.queued = Some(match wanted.not_before {
            None => {
                self.due.insert(version, name.to_owned());
                Queued::Due(version)
            }
            Some(at) => {
                self.later.insert((at, version), name.to_owned());
                Queued::Later(at, version)
            }
        });
    }

    fn connected(&mut self, session_present: bool) {
        self.under_way = 0;
        let names: Vec<String> = self.by_topic.keys().cloned().collect();
        for name in names {
            let Some(topic) = self.by_topic.get_mut(&name) else { continue };
            topic.under_way = false;
            if let Some(wanted) = &mut topic.wanted {
                wanted.held &= session_present && wanted.lasts == Lasts::Session;
                // The broker may not be busy any more. But a message that may have ended the connection goes on waiting.
                if wanted.refusal == Some(Outcome::ForNow) && wanted.losses < SUSPECT_AFTER {
                    (wanted.refusal, wanted.not_before, wanted.times) = (None, None, 0);
                }
            }
            self.queue(&name);
        }
    }

    fn next(&mut self, now: Instant) -> Option<(u64, Publication)> {
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            let name = first.remove();
            if let Some(topic) = self.by_topic.get_mut(&name) {
                topic.queued = None;
                topic.wanted.iter_mut().for_each(|wanted| wanted.not_before = None);
            }
            self.queue(&name);
        }
        if self.under_way >= UNDER_WAY {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        let topic = self.by_topic.get_mut(&name)?;
        topic.queued = None;
        let wanted = topic.wanted.as_ref()?;
        topic.under_way = true;
        self.under_way += 1;
        Some((wanted.version, wanted.publication.clone()))
    }

    fn ended(&mut self, name: &str, version: u64, outcome: Outcome, now: Instant) -> bool {
        let Some(topic) = self.by_topic.get_mut(name) else { return false };
        if std::mem::take(&mut topic.under_way) {
            self.under_way = self.under_way.saturating_sub(1);
        }
        let Some(wanted) = &mut topic.wanted else { return false };
        let was_refused = wanted.refusal == Some(Outcome::ForGood);
        let mut told = false;
        match outcome {
            Outcome::Acked => {
                wanted.held = wanted.version == version;
                (wanted.refusal, wanted.not_before, wanted.times, wanted.losses) = (None, None, 0, 0);
                self.refused -= usize::from(was_refused);
            }
            Outcome::ForNow => {
                told = wanted.times + 1 == TOLD_AFTER;
                wanted.wait_for_now(self.soon, self.slowly, now);
                self.refused -= usize::from(was_refused);
            }
            Outcome::ForGood => {
                if !was_refused {
                    wanted.times = 0;
                    self.refused += 1;
                }
                wanted.refusal = Some(Outcome::ForGood);
                let round = u32::try_from(self.refused.div_ceil(RETRIED_AT_ONCE)).unwrap_or(u32::MAX);
                wanted.not_before = Some(now + wanted.slowly(self.slowly).saturating_mul(round));
                self.last_refused = Some((name.to_owned(), now));
            }
        }
        let cleared = wanted.held && wanted.publication.payload.is_empty();
        if let Some(hears) = wanted.cleared.take_if(|_| cleared) {
            let _ = hears.send(true);
        }
        self.queue(name);
        self.tidy(name);
        if was_refused && outcome == Outcome::Acked {
            self.try_all(now);
        }
        told
    }

    /// The broker took a message that it had refused. Somebody has corrected something, perhaps everything: tries all topics.
    fn try_all(&mut self, now: Instant) {
        if self.all_tried_at.is_some_and(|at| now.duration_since(at) < self.slowly) {
            return;
        }
        self.all_tried_at = Some(now);
        for name in std::mem::take(&mut self.later).into_values() {
            if let Some(topic) = self.by_topic.get_mut(&name) {
                topic.queued = None;
                topic.wanted.iter_mut().for_each(|wanted| wanted.not_before = None);
            }
            self.queue(&name);
        }
    }

    fn lost(&mut self, suspects: &[String], after_refusal: bool, now: Instant) {
        let (soon, slowly) = (self.soon, self.slowly);
        for name in suspects {
            let Some(wanted) = self.by_topic.get_mut(name).and_then(|topic| topic.wanted.as_mut()) else { continue };
            wanted.losses = wanted.losses.saturating_add(1);
            if wanted.losses >= SUSPECT_AFTER && wanted.refusal != Some(Outcome::ForGood) {
                wanted.wait_for_now(soon, slowly, now);
            }
        }
        let by_it = |(_, at): &(String, Instant)| now.duration_since(*at) < COSTS_WITHIN;
        if let Some((name, _)) = self.last_refused.take().filter(by_it).filter(|_| after_refusal) {
            let wanted = self.by_topic.get_mut(&name).and_then(|topic| topic.wanted.as_mut());
            if let Some(wanted) = wanted.filter(|wanted| wanted.refusal == Some(Outcome::ForGood)) {
                wanted.not_before = Some(now + wanted.slowly(slowly));
                wanted.times = wanted.times.saturating_add(1);
            }
            self.queue(&name);
        }
    }

    fn caller_began(&mut self, name: &str) {
        self.by_topic.entry(name.to_owned()).or_default().callers += 1;
        self.queue(name);
    }

    fn caller_ended(&mut self, publication: &Publication, order: u64, delivery: &Delivery, now: Instant) {
        let name = &publication.topic;
        let Some(topic) = self.by_topic.get_mut(name) else { return };
        topic.callers = topic.callers.saturating_sub(1);
        let refused = matches!(delivery, Delivery::Refused(_));
        // After any other outcome the caller sends it again, in its place.
        if (refused || matches!(delivery, Delivery::Acked { .. })) && order >= topic.newest {
            topic.newest = order;
            let was_refused = topic.wanted.as_ref().is_some_and(|wanted| wanted.refusal == Some(Outcome::ForGood));
            self.version += 1;
            self.refused = self.refused + usize::from(refused) - usize::from(was_refused);
            topic.wanted = Some(Wanted {
                version: self.version,
                publication: publication.clone(),
                lasts: Lasts::Session,
                held: !refused,
                not_before: refused.then(|| now + self.slowly),
                refusal: refused.then_some(Outcome::ForGood),
                times: 0,
                losses: 0,
                cleared: None,
            });
        }
        self.queue(name);
        self.tidy(name);
    }

    /// Forgets a topic if the broker should hold nothing there, and does not.
    fn tidy(&mut self, name: &str) {
        let done = |wanted: &Wanted| wanted.held && wanted.publication.payload.is_empty();
        let nothing = |topic: &Topic| {
            !topic.under_way && topic.callers == 0 && topic.queued.is_none() && topic.wanted.as_ref().is_none_or(done)
        };
        if self.by_topic.get(name).is_some_and(nothing) {
            self.by_topic.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
