//! When each contact's last picture was accepted, so that an older one that was set aside and put back does not replace it.
//!
//! Kept in memory, and as notes in the spool for the next run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::Uid;
use crate::store::{SpoolError, Store};

const PREFIX: &str = "picture/";

/// The book of pictures.
pub(super) struct Pictures {
    spool: Arc<dyn Store>,
    /// In milliseconds since the Unix epoch.
    last: HashMap<Uid, u64>,
}

impl Pictures {
    /// Opens what earlier runs kept in `spool`, but for contacts that are gone.
    pub(super) async fn open(spool: Arc<dyn Store>, contacts: &HashSet<Uid>) -> Result<Self, SpoolError> {
        let mut last = HashMap::new();
        for (key, value) in spool.notes(PREFIX).await? {
            let uid = key.strip_prefix(PREFIX).and_then(|uid| uid.parse().ok());
            match (uid.filter(|uid| contacts.contains(uid)), postcard::from_bytes(&value)) {
                (Some(uid), Ok(at_ms)) => drop(last.insert(uid, at_ms)),
                _ => spool.remove_note(&key),
            }
        }
        Ok(Self { spool, last })
    }

    /// Whether a picture accepted then is to be shown. If it was put back, a newer one stays; what comes in turn is the newest,
    /// whatever the clock says.
    pub(super) fn shows(&mut self, from: &Uid, at_ms: u64, put_back: bool) -> bool {
        let last = self.last.get(from).copied();
        if put_back && last.is_some_and(|last| last > at_ms) {
            return false;
        }
        if last != Some(at_ms)
            && let Ok(value) = postcard::to_stdvec(&at_ms)
        {
            self.last.insert(from.clone(), at_ms);
            self.spool.put_note(&format!("{PREFIX}{from}"), value);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Spool;
    use crate::store::{Append as _, Limits};

    #[tokio::test]
    async fn an_older_picture_that_is_put_back_does_not_replace_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (ann, bob): (Uid, Uid) = ("413".parse().unwrap(), "414".parse().unwrap());
        let contacts = HashSet::from([ann.clone(), bob.clone()]);
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let mut pictures = Pictures::open(spool.clone(), &contacts).await.unwrap();
        assert!(pictures.shows(&ann, 10, true), "nothing newer is known");
        assert!(pictures.shows(&ann, 20, false));
        assert!(!pictures.shows(&ann, 10, true));
        assert!(pictures.shows(&bob, 10, true), "another contact's");
        spool.close().await;

        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let mut pictures = Pictures::open(spool.clone(), &contacts).await.unwrap();
        assert!(!pictures.shows(&ann, 19, true));
        assert!(pictures.shows(&ann, 20, true), "the last itself");
        assert!(pictures.shows(&ann, 5, false), "the clock was set back");
        assert!(pictures.shows(&ann, 6, true));
        drop(Pictures::open(spool.clone(), &HashSet::new()).await.unwrap());
        spool.close().await;
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        assert!(spool.notes(PREFIX).await.unwrap().is_empty(), "nobody's any more");
    }
}
