//! Who was last published as what, so that an older push cannot overwrite newer presence.
//!
//! Kept in memory for the order of publishes, and as notes in the spool for the next run: a uid that is no longer configured
//! gets its retained topic cleared, which needs somebody to remember that it had one.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::protocol::Uid;
use crate::spool::{Spool, SpoolError};

const PREFIX: &str = "presence/";

/// A push's time may be so far ahead of our clock, in seconds: clocks and time zones are set wrongly. What is further ahead
/// tells nothing, and would make everything that follows older than itself.
const AHEAD_MOST: i64 = 24 * 60 * 60;

/// What is known of one uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// iLink's time of the last published push, in seconds; none if only `ham_user/states` told of it.
    pub time: Option<i64>,
    /// What was published.
    pub online: bool,
    /// Whether it was one of `ilink.subscribe.presence` then, or since its topic was last cleared.
    pub configured: bool,
}

/// The published presence of every uid.
pub struct PresenceBook {
    spool: Spool,
    known: HashMap<Uid, (Known, u64)>,
    configured: HashSet<Uid>,
    /// No longer configured, with nothing noted since.
    dropped: HashSet<Uid>,
    /// The last row that was stored when a uid was dropped: what such rows say of it is as outdated as what is cleared.
    dropped_after: HashMap<Uid, u64>,
}

impl PresenceBook {
    /// Opens the book that earlier runs kept in `spool`.
    ///
    /// # Errors
    /// If the spool cannot be read.
    pub async fn open(spool: Spool, configured: HashSet<Uid>) -> Result<Self, SpoolError> {
        let notes = spool.notes(PREFIX).await?;
        let known = notes
            .into_iter()
            .filter_map(|(key, value)| {
                let uid = key.strip_prefix(PREFIX)?.parse().ok()?;
                Some((uid, (postcard::from_bytes(&value).ok()?, 0)))
            })
            .collect();
        Ok(Self { spool, known, configured, dropped: HashSet::new(), dropped_after: HashMap::new() })
    }

    /// Notes what row `seq` publishes, unless something newer was published before: false then. `time` is none for a state read
    /// by `ham_user/states`, which does not say since when; then, and between rows of one time, the later row is newer.
    #[must_use]
    pub fn note(&mut self, uid: &Uid, online: bool, time: Option<i64>, seq: u64) -> bool {
        if self.dropped_after.get(uid).is_some_and(|last| seq <= *last) {
            return false;
        }
        let now = i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX);
        let time = time.map(|time| credible(time, now));
        let before = self.known.get(uid).copied();
        if let Some((known, by)) = before {
            // One that a clock set wrongly, here or there, has put ahead of all that comes says nothing.
            let published = known.time.filter(|time| *time <= now.saturating_add(AHEAD_MOST));
            if seq < by || time.zip(published).is_some_and(|(time, published)| time < published) {
                return false;
            }
        }
        let time = time.or_else(|| before.and_then(|(known, _)| known.time));
        self.dropped.remove(uid);
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

    /// Takes over a changed configuration and returns the uids it dropped, whose retained topics are to be cleared; `last` is the
    /// last row that was stored before.
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
        dropped
    }

    /// Whether `uid` is no longer configured, and its topic is to be cleared for that.
    #[must_use]
    pub fn is_dropped(&self, uid: &Uid) -> bool {
        self.known.get(uid).is_some_and(|(known, _)| known.configured) && !self.configured.contains(uid)
    }

    /// The topic of `uid` is to be cleared once more.
    pub fn drop_again(&mut self, uid: &Uid) {
        self.dropped.insert(uid.clone());
    }

    /// The retained topic of `uid` has been cleared, because it was dropped. False, and nothing is forgotten, if it is configured
    /// or published again since.
    pub fn forget_dropped(&mut self, uid: &Uid) -> bool {
        let forget = self.dropped.remove(uid) && self.is_dropped(uid);
        if forget {
            self.known.remove(uid);
            self.spool.remove_note(&format!("{PREFIX}{uid}"));
        }
        forget
    }

    /// Everything published and not cleared, to publish it again to a broker that lost it.
    pub fn all(&self) -> impl Iterator<Item = (&Uid, bool)> {
        self.known.iter().map(|(uid, (known, _))| (uid, known.online))
    }
}

/// A time that is further ahead than a clock may be wrong counts as now.
fn credible(time: i64, now: i64) -> i64 {
    if time > now.saturating_add(AHEAD_MOST) { now } else { time }
}
