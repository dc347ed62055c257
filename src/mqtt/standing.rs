//! What should stand at the retained topics, and what the broker has of it: the one holder of both.
//!
//! Nobody else publishes retained messages by a way of his own. State (`bridge/…`, discovery, presence that is restored or
//! cleared) is set here, and the link brings the broker to it: what differs is sent, the newest only; what was refused is tried
//! again, soon if it was refused for now, about every minute if it was refused for good, so that a mended ACL heals by itself.
//! A retained publish with a place in an order (a push's presence, among its events) goes by [`Publisher::publish`] and is noted
//! here while the link has it: nothing of ours is sent to its topic meanwhile, and nothing older afterwards.
//!
//! All decisions fall in the link's task, in the order of the wire. Pure bookkeeping: no I/O, no clock.
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

/// Under way at once: half of the window, so that much to restore leaves room for messages.
const UNDER_WAY: usize = WINDOW as usize / 2;
/// Refused for good, so many are tried again in each round; of more, each waits longer.
const RETRIED_AT_ONCE: usize = 64;
/// A connection that is lost because of a refusal is lost within this.
pub(super) const COSTS_WITHIN: Duration = Duration::from_secs(1);
/// Refused for now so many times in a row, it is told.
const TOLD_AFTER: u32 = 6;
/// In flight across so many quick losses, it may be what causes them: it waits as if it had been refused for now.
const SUSPECT_AFTER: u32 = 3;

/// The holder.
#[derive(Debug)]
pub(super) struct Standing {
    topics: Mutex<Topics>,
    news: Notify,
}

#[derive(Debug)]
struct Topics {
    soon: Duration,
    slowly: Duration,
    /// Grows with each change, so that one that is under way is told from the one that replaced it.
    version: u64,
    by_topic: HashMap<String, Topic>,
    /// To be sent, in the order in which it was set.
    due: BTreeMap<u64, String>,
    /// The same, later.
    later: BTreeMap<(Instant, u64), String>,
    under_way: usize,
    /// How many the broker refuses for good.
    refused: usize,
    /// The latest refusal for good.
    last_refused: Option<(String, Instant)>,
    all_tried_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Topic {
    wanted: Option<Wanted>,
    /// The link has one of its own under way.
    under_way: bool,
    /// Publishes of callers that the link has, and the order of the newest one that ended.
    callers: u32,
    newest: u64,
    /// Where it is queued, if it is.
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

    /// Says what should stand at a topic from now on.
    pub(super) fn set(&self, publication: Publication, lasts: Lasts) {
        self.topics().set(publication, lasts, None);
        self.news.notify_one();
    }

    /// Says that nothing should stand there. Tells true once the broker has acknowledged that, false if something newer came.
    pub(super) fn clear(&self, topic: String) -> oneshot::Receiver<bool> {
        let (cleared, hears) = oneshot::channel();
        let nothing = Publication { topic, retain: true, ..Publication::default() };
        self.topics().set(nothing, Lasts::Session, Some(cleared));
        self.news.notify_one();
        hears
    }

    /// Resolves when something was set. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    /// A connection was accepted: what the broker has of earlier ones.
    pub(super) fn connected(&self, session_present: bool) {
        self.topics().connected(session_present);
    }

    /// The next to send, with its version; none if nothing differs, or enough is under way.
    pub(super) fn next(&self, now: Instant) -> Option<(u64, Publication)> {
        self.topics().next(now)
    }

    /// When something has waited long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.topics().later.keys().next().map(|(at, _)| *at)
    }

    /// What [`Self::next`] gave has ended. True if a refusal for now has lasted so long that it should be told.
    pub(super) fn ended(&self, topic: &str, version: u64, outcome: Outcome, now: Instant) -> bool {
        self.topics().ended(topic, version, outcome, now)
    }

    /// The connection was lost. `suspects` were in flight, and it went so soon that one of them may have caused it;
    /// `after_refusal`: a refusal did.
    pub(super) fn lost(&self, suspects: &[String], after_refusal: bool, now: Instant) {
        self.topics().lost(suspects, after_refusal, now);
    }

    /// The link took over a caller's publish.
    pub(super) fn caller_began(&self, publication: &Publication) {
        if publication.retain {
            self.topics().caller_began(&publication.topic);
        }
    }

    /// A caller's publish has ended; later ones have a higher `order`.
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
        // Where the broker refuses one value, it most likely refuses the next too: the wait goes on.
        let before = topic.wanted.take();
        let (not_before, refusal, times, losses) =
            before.map(|before| (before.not_before, before.refusal, before.times, before.losses)).unwrap_or_default();
        let wanted = Wanted { version, publication, lasts, held: false, not_before, refusal, times, losses, cleared };
        topic.wanted = Some(wanted);
        self.queue(&name);
    }

    /// Puts a topic where it belongs now.
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
                // A broker that was busy may be another by now; what may have ended the connection goes on waiting.
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

    /// The broker takes what it refused: somebody mended something, and perhaps all of it.
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
        // Anything else comes again, in its place.
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

    /// Forgets a topic of which there is nothing to know: the broker has nothing there, as it should be.
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
