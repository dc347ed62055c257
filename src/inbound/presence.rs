//! Who was last published as what, so that an older push cannot overwrite newer presence.
//!
//! Kept in memory for the order of publishes, and as notes in the spool for the next run: a uid that is no longer configured
//! gets its retained topic cleared, which needs somebody to remember that it had one.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::protocol::Uid;
use crate::spool::{Spool, SpoolError};

const PREFIX: &str = "presence/";

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
    known: HashMap<Uid, Known>,
    configured: HashSet<Uid>,
    /// No longer configured, with nothing noted since.
    dropped: HashSet<Uid>,
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
                Some((uid, postcard::from_bytes(&value).ok()?))
            })
            .collect();
        Ok(Self { spool, known, configured, dropped: HashSet::new() })
    }

    /// Is a push of this `time` older than what was published?
    #[must_use]
    pub fn is_stale(&self, uid: &Uid, time: i64) -> bool {
        self.known.get(uid).and_then(|known| known.time).is_some_and(|published| time < published)
    }

    /// Notes what is being published. `time` is none for a state read by `ham_user/states`, which does not say since when.
    pub fn note(&mut self, uid: &Uid, online: bool, time: Option<i64>) {
        let time = time.or_else(|| self.known.get(uid).and_then(|known| known.time));
        self.dropped.remove(uid);
        let configured = self.configured.contains(uid) || self.known.get(uid).is_some_and(|known| known.configured);
        let known = Known { time, online, configured };
        if self.known.insert(uid.clone(), known) != Some(known)
            && let Ok(value) = postcard::to_stdvec(&known)
        {
            self.spool.put_note(&format!("{PREFIX}{uid}"), value);
        }
    }

    /// Takes over a changed configuration and returns the uids it dropped, whose retained topics are to be cleared.
    pub fn reconfigure(&mut self, configured: HashSet<Uid>) -> Vec<Uid> {
        self.configured = configured;
        let dropped: Vec<Uid> = self.known.keys().filter(|uid| self.is_dropped(uid)).cloned().collect();
        self.dropped = dropped.iter().cloned().collect();
        dropped
    }

    /// Whether `uid` is no longer configured, and its topic is to be cleared for that.
    #[must_use]
    pub fn is_dropped(&self, uid: &Uid) -> bool {
        self.known.get(uid).is_some_and(|known| known.configured) && !self.configured.contains(uid)
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
        self.known.iter().map(|(uid, known)| (uid, known.online))
    }
}
