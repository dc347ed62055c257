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
    /// Whether it was one of `ilink.subscribe.presence` then.
    pub configured: bool,
}

/// The published presence of every uid.
pub struct PresenceBook {
    spool: Spool,
    known: HashMap<Uid, Known>,
    configured: HashSet<Uid>,
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
        Ok(Self { spool, known, configured })
    }

    /// Is a push of this `time` older than what was published?
    #[must_use]
    pub fn is_stale(&self, uid: &Uid, time: i64) -> bool {
        self.known.get(uid).and_then(|known| known.time).is_some_and(|published| time < published)
    }

    /// Notes what is being published. `time` is none for a state read by `ham_user/states`, which does not say since when.
    pub fn note(&mut self, uid: &Uid, online: bool, time: Option<i64>) {
        let time = time.or_else(|| self.known.get(uid).and_then(|known| known.time));
        let known = Known { time, online, configured: self.configured.contains(uid) };
        if self.known.insert(uid.clone(), known) != Some(known)
            && let Ok(value) = postcard::to_stdvec(&known)
        {
            self.spool.put_note(&format!("{PREFIX}{uid}"), value);
        }
    }

    /// Takes over a changed configuration and returns the uids it dropped, whose retained topics are to be cleared.
    pub fn reconfigure(&mut self, configured: HashSet<Uid>) -> Vec<Uid> {
        self.configured = configured;
        let dropped =
            |(uid, known): (&Uid, &Known)| (known.configured && !self.configured.contains(uid)).then(|| uid.clone());
        self.known.iter().filter_map(dropped).collect()
    }

    /// The retained topic of `uid` has been cleared, because it was dropped; nothing, if it is published again since.
    pub fn forget_dropped(&mut self, uid: &Uid) {
        if self.known.get(uid).is_some_and(|known| known.configured) && !self.configured.contains(uid) {
            self.known.remove(uid);
            self.spool.remove_note(&format!("{PREFIX}{uid}"));
        }
    }

    /// Everything published and not cleared, to publish it again to a broker that lost it.
    pub fn all(&self) -> impl Iterator<Item = (&Uid, bool)> {
        self.known.iter().map(|(uid, known)| (uid, known.online))
    }
}
