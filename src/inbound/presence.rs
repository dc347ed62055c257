//! The *book of presence*: for each uid, the presence that was last published. By it, an older push cannot overwrite newer
//! presence. The retained presence topics follow the book: they are cleared for uids that are no longer configured, and
//! restored at a broker that has lost them.
//!
//! The book is kept in memory, and as notes in the spool for the next run: to clear the topic of a uid that is no longer
//! configured, that run must know that there was one.
//!
//! Everybody who sends presence gets into the book, so it is bounded: uids that are not configured and were not heard of for
//! long are taken out, the oldest first. Their retained topics are cleared; the next push sets them again.
//!
//! The presence in a push is published by the relay, in its turn. The link keeps the [retained state](Publisher::set_state) of
//! all these topics, so that nothing older overwrites it.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::local::{Base, Publication};
use crate::mqtt::Publisher;
use crate::os::clock;
use crate::protocol::Uid;
use crate::store::{SpoolError, Store};

const PREFIX: &str = "presence/";

/// How far a push's time may be ahead of our clock, in seconds, because a clock or time zone is set wrongly. A time further
/// ahead is useless: all later pushes would be older.
const AHEAD_MOST: i64 = 24 * 60 * 60;

/// The most uids in the book that are not configured. The book is pruned to this number when there are [`SLACK`] more.
const MOST: usize = 10_000;
const SLACK: usize = 500;
/// A uid that is not configured is taken out if it was not heard of for so many seconds.
const LONG: i64 = 90 * 24 * 60 * 60;
/// How often the book is checked for such uids.
const LOOK_EVERY: Duration = Duration::from_hours(24);

/// What is known of one uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// iLink's time of the last published push, in seconds; none if the presence came from `ham_user/states` only.
    pub time: Option<i64>,
    /// What was published.
    pub online: bool,
    /// Whether it was in `ilink.subscribe.presence` then, or at any time since its topic was last cleared.
    pub configured: bool,
}

/// The published presence of every uid.
pub struct PresenceBook {
    spool: Arc<dyn Store>,
    known: HashMap<Uid, (Known, u64)>,
    configured: HashSet<Uid>,
    /// Uids that are no longer configured, or were pruned, and of which nothing was noted since.
    dropped: HashSet<Uid>,
    /// The last row that was stored when a uid was dropped. What rows up to it say of the uid is outdated.
    dropped_after: HashMap<Uid, u64>,
    /// Dropped uids that were never configured.
    pruned: HashSet<Uid>,
    /// When the book is next checked for uids that were not heard of for long.
    look_at: Duration,
}

impl PresenceBook {
    /// Opens the book that earlier runs kept in `spool`.
    ///
    /// # Errors
    /// If the spool cannot be read.
    pub async fn open(spool: Arc<dyn Store>, configured: HashSet<Uid>) -> Result<Self, SpoolError> {
        let notes = spool.notes(PREFIX).await?;
        let known = notes
            .into_iter()
            .filter_map(|(key, value)| {
                let uid = key.strip_prefix(PREFIX)?.parse().ok()?;
                Some((uid, (postcard::from_bytes(&value).ok()?, 0)))
            })
            .collect();
        let (dropped, pruned, dropped_after) = (HashSet::new(), HashSet::new(), HashMap::new());
        Ok(Self { spool, known, configured, dropped, dropped_after, pruned, look_at: Duration::ZERO })
    }

    /// Notes the presence in row `seq`. Returns false if something newer was published already: then it must not be published.
    /// `time` is none for a state from `ham_user/states`, which tells no time. Without a time, or with equal times, the later
    /// row is the newer.
    #[must_use]
    pub fn note(&mut self, uid: &Uid, online: bool, time: Option<i64>, seq: u64) -> bool {
        if self.dropped_after.get(uid).is_some_and(|last| seq <= *last) {
            return false;
        }
        let now = seconds_now();
        let time = time.map(|time| credible(time, now));
        let before = self.known.get(uid).copied();
        if let Some((known, by)) = before {
            // A published time that is too far ahead came from a wrong clock, ours or theirs, and does not count.
            let published = known.time.filter(|time| *time <= now.saturating_add(AHEAD_MOST));
            if seq < by || time.zip(published).is_some_and(|(time, published)| time < published) {
                return false;
            }
        }
        let time = time.or_else(|| before.and_then(|(known, _)| known.time));
        self.dropped.remove(uid);
        self.pruned.remove(uid);
        let configured = self.configured.contains(uid) || before.is_some_and(|(known, _)| known.configured);
        let known = Known { time, online, configured };
        self.known.insert(uid.clone(), (known, seq));
        if before.map(|(known, _)| known) != Some(known)
            && let Ok(value) = postcard::to_stdvec(&known)
        {
            self.spool.put_note(&format!("{PREFIX}{uid}"), value);
        }
        true
    }

    /// Whether this is what was published of `uid` last, for a message that is sent once more.
    #[must_use]
    pub fn says(&self, uid: &Uid, online: bool) -> bool {
        self.known.get(uid).is_some_and(|(known, _)| known.online == online) && !self.dropped.contains(uid)
    }

    /// Applies a changed configuration. Returns the uids that it dropped, whose retained topics are to be cleared. `last` is
    /// the last row that was stored before the change.
    pub fn reconfigure(&mut self, configured: HashSet<Uid>, last: u64) -> Vec<Uid> {
        for uid in self.configured.difference(&configured) {
            self.dropped_after.insert(uid.clone(), last);
        }
        self.configured = configured;
        self.dropped_after.retain(|uid, _| !self.configured.contains(uid));
        let dropped: Vec<Uid> = self.known.keys().filter(|uid| self.is_dropped(uid)).cloned().collect();
        for uid in &dropped {
            self.dropped_after.entry(uid.clone()).or_insert(last);
        }
        self.dropped = dropped.iter().cloned().collect();
        self.pruned.retain(|uid| self.dropped.contains(uid));
        dropped
    }

    /// Whether the topic of `uid` is to be cleared, because it is no longer configured, or was pruned.
    #[must_use]
    fn is_dropped(&self, uid: &Uid) -> bool {
        let known = self.known.get(uid).is_some_and(|(known, _)| known.configured || self.pruned.contains(uid));
        known && !self.configured.contains(uid)
    }

    /// The uids to take out, if it is time to check: their retained topics are to be cleared, and then they are forgotten.
    pub fn prune(&mut self, now: Duration) -> Vec<Uid> {
        let strangers = self.known.len().saturating_sub(self.configured.len() + self.dropped.len());
        if strangers <= MOST + SLACK && now < self.look_at {
            return Vec::new();
        }
        self.look_at = now + LOOK_EVERY;
        let strange = |uid: &&Uid| !self.configured.contains(*uid) && !self.dropped.contains(*uid);
        let heard_of = |uid: &Uid| self.known.get(uid).and_then(|(known, _)| known.time).unwrap_or(i64::MIN);
        let mut uids: Vec<(i64, Uid)> =
            self.known.keys().filter(strange).map(|uid| (heard_of(uid), uid.clone())).collect();
        uids.sort_unstable();
        let too_many = uids.len().saturating_sub(MOST);
        let long_ago = seconds_now().saturating_sub(LONG);
        let old = uids.partition_point(|(time, _)| *time < long_ago);
        uids.truncate(too_many.max(old));
        let pruned: Vec<Uid> = uids.into_iter().map(|(_, uid)| uid).collect();
        self.pruned.extend(pruned.iter().cloned());
        self.dropped.extend(pruned.iter().cloned());
        pruned
    }

    /// The retained topic of a dropped uid was cleared: forgets the uid. Returns false, and forgets nothing, if it was
    /// configured or published again meanwhile.
    fn forget_dropped(&mut self, uid: &Uid) -> bool {
        let forget = self.dropped.remove(uid) && self.is_dropped(uid);
        if forget {
            self.pruned.remove(uid);
            self.known.remove(uid);
            self.spool.remove_note(&format!("{PREFIX}{uid}"));
        }
        forget
    }

    /// The presence of every uid in the book, also of those whose topics are to be cleared: to restore it at a broker that has
    /// lost it.
    pub fn all(&self) -> impl Iterator<Item = (&Uid, bool)> {
        self.known.iter().map(|(uid, (known, _))| (uid, known.online))
    }
}

/// A time that is too far ahead counts as now.
fn credible(time: i64, now: i64) -> i64 {
    if time > now.saturating_add(AHEAD_MOST) { now } else { time }
}

fn seconds_now() -> i64 {
    i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX)
}

/// Keeps the retained presence topics in step with the book.
pub(super) struct Retained {
    /// The book.
    pub(super) book: PresenceBook,
    base: Base,
    publisher: Publisher,
    /// The topics that are being cleared; each resolves to its uid, and to whether the broker has acknowledged that.
    clearing: FuturesUnordered<BoxFuture<'static, (Uid, bool)>>,
    being_cleared: HashSet<Uid>,
}

impl Retained {
    /// Restores everything that earlier runs published.
    pub(super) fn new(book: PresenceBook, base: Base, publisher: Publisher) -> Self {
        for (uid, online) in book.all() {
            publisher.restore(Self::publication(&base, uid, online));
        }
        Self { book, base, publisher, clearing: FuturesUnordered::new(), being_cleared: HashSet::new() }
    }

    /// The retained message of a uid.
    pub(super) fn publication(base: &Base, uid: &Uid, online: bool) -> Publication {
        Publication::raw(base.presence(uid), if online { "online" } else { "offline" }).retained()
    }

    /// Clears the topics of uids that are no longer configured. `last` is the last row that was stored before the change.
    pub(super) fn configure(&mut self, configured: HashSet<Uid>, last: u64) {
        for uid in self.book.reconfigure(configured, last) {
            self.clear(uid);
        }
        // Uids that are configured again before their topics were cleared keep what was published, until their presence is read
        // again.
        for (uid, online) in self.book.all().filter(|(uid, _)| self.being_cleared.contains(*uid)) {
            if !self.book.is_dropped(uid) {
                self.publisher.restore(Self::publication(&self.base, uid, online));
            }
        }
    }

    /// Clears the topics of uids that are not configured and were not heard of for long, if it is time to check.
    pub(super) fn prune(&mut self) {
        let pruned = self.book.prune(clock::boot_now());
        if !pruned.is_empty() {
            let count = pruned.len();
            info!(count, "cleared the presence topics of contacts not configured and not heard of for long");
        }
        for uid in pruned {
            self.clear(uid);
        }
    }

    fn clear(&mut self, uid: Uid) {
        if self.being_cleared.insert(uid.clone()) {
            let cleared = self.publisher.clear(self.base.presence(&uid));
            self.clearing.push(cleared.map(|cleared| (uid, cleared)).boxed());
        }
    }

    /// Notes the next topic that the broker has cleared; waits while there is none. If the process ends before that, the next
    /// run clears it again.
    ///
    /// Cancel-safe.
    pub(super) async fn cleared(&mut self) {
        let Some((uid, cleared)) = self.clearing.next().await else { return pending().await };
        self.being_cleared.remove(&uid);
        let forgotten = cleared && self.book.forget_dropped(&uid);
        // A push from before it was dropped was published in between.
        if !forgotten && self.book.is_dropped(&uid) {
            self.book.dropped.insert(uid.clone());
            self.clear(uid);
        }
    }
}

#[cfg(test)]
mod tests;
