//! The *route book*: what each route last sent for each device. `on_change` and `min_interval` are decided by it, and, with
//! `crossings`, `above` and `below`.
//!
//! It is kept in memory, and as notes in the spool for the next run. A note is written after its message is durable: after a
//! crash a message may be sent once more, but no message is left out because of one that was never stored. A message that could
//! not be delivered counts as not sent: the same state is sent when the device publishes it the next time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::crossings::{Crossed, Crossings};
use crate::os::clock::Stamp;
use crate::os::lock;
use crate::protocol::Call;
use crate::route::{Routes, ToRule};
use crate::store::{SpoolError, Store};

const PREFIX: &str = "route/";
/// The most devices in the book, for all routes together. Devices may invent any number of topics, but memory and disk are
/// limited.
const KNOWN_MOST: usize = 10_000;

/// The last message of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// The digest of its call; none if it could not be delivered.
    digest: Option<[u8; 16]>,
    at: Stamp,
}

/// A message that is being sent: passed to [`RouteBook::stored`] once it is durable.
#[derive(Debug, Clone)]
pub struct Remembered {
    sent: Option<(String, Known)>,
    crossed: Option<Crossed>,
}

/// Why a message is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// `on_change`: it says the same as the last one.
    Unchanged,
    /// `min_interval`: the last one was sent too short a time ago.
    TooSoon,
}

/// The book. Clones share it.
#[derive(Debug, Clone)]
pub struct RouteBook {
    spool: Arc<dyn Store>,
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// On which side of its limits each value lies.
    pub(super) crossings: Crossings,
}

impl RouteBook {
    /// Opens the book that earlier runs kept in `spool`.
    ///
    /// # Errors
    /// If the spool cannot be read.
    pub async fn open(spool: Arc<dyn Store>, routes: &Routes) -> Result<Self, SpoolError> {
        let notes = spool.notes(PREFIX).await?;
        let known = notes.into_iter().filter_map(|(key, value)| {
            Some((key.strip_prefix(PREFIX)?.to_owned(), postcard::from_bytes(&value).ok()?))
        });
        let known = Arc::new(Mutex::new(known.collect()));
        let crossings = Crossings::open(Arc::clone(&spool)).await?;
        let book = Self { spool, known, crossings };
        book.reconfigure(routes);
        Ok(book)
    }

    /// Forgets what no route needs any more.
    pub fn reconfigure(&self, routes: &Routes) {
        let remember = |key: &str| {
            let name = key.split('/').next();
            routes.to_routes().iter().any(|route| Some(route.name()) == name && remembers(route.rule()))
        };
        self.forget_where(|key, _| !remember(key));
        self.crossings.reconfigure(routes);
    }

    /// Checks whether `rule` allows this call for a message on `topic`.
    ///
    /// # Errors
    /// If it is to be left out; the error says why.
    pub fn check(&self, rule: &ToRule, topic: &str, call: &Call) -> Result<(), LeftOut> {
        let known = lock(&self.known).get(&key(rule, topic)).copied();
        let Some(Known { digest: last, at }) = known else { return Ok(()) };
        if rule.on_change && last == Some(digest(call)) {
            return Err(LeftOut::Unchanged);
        }
        if rule.min_interval.is_some_and(|least| at.age() < least) { Err(LeftOut::TooSoon) } else { Ok(()) }
    }

    /// Notes that a message is being sent; later ones are compared with it, if the rule asks for that.
    pub(super) fn note(
        &self,
        rule: &ToRule,
        topic: &str,
        call: &Call,
        at: Stamp,
        crossed: Option<Crossed>,
    ) -> Remembered {
        Remembered { sent: remembers(rule).then(|| self.note_sent(rule, topic, call, at)), crossed }
    }

    fn note_sent(&self, rule: &ToRule, topic: &str, call: &Call, at: Stamp) -> (String, Known) {
        let (key, known) = (key(rule, topic), Known { digest: Some(digest(call)), at });
        let mut all = lock(&self.known);
        all.insert(key.clone(), known);
        let full = all.len() > KNOWN_MOST;
        drop(all);
        if full {
            self.make_room();
        }
        (key, known)
    }

    /// The message is durable.
    pub fn stored(&self, remembered: &Remembered) {
        if let Some((key, known)) = &remembered.sent {
            self.write(key, *known);
        }
        if let Some(crossed) = &remembered.crossed {
            self.crossings.stored(crossed);
        }
    }

    /// The message could not be stored.
    pub fn not_stored(&self, remembered: &Remembered) {
        if let Some((key, known)) = &remembered.sent {
            let mut all = lock(&self.known);
            if all.get(key) == Some(known) {
                all.remove(key);
            }
        }
        if let Some(crossed) = &remembered.crossed {
            self.crossings.not_told(crossed);
        }
    }

    /// The message that the route `name` made of one on `topic` could not be delivered.
    pub fn not_delivered(&self, name: &str, topic: &str, call: &Call) {
        self.crossings.not_delivered(name, topic);
        let (key, digest) = (format!("{name}/{topic}"), Some(digest(call)));
        let mut all = lock(&self.known);
        if let Some(known) = all.get_mut(&key).filter(|known| known.digest == digest) {
            known.digest = None;
            let known = *known;
            drop(all);
            self.write(&key, known);
        }
    }

    fn write(&self, key: &str, known: Known) {
        if let Ok(value) = postcard::to_stdvec(&known) {
            self.spool.put_note(&format!("{PREFIX}{key}"), value);
        }
    }

    /// Forgets the tenth of the devices whose last message is oldest.
    fn make_room(&self) {
        let mut ages: Vec<_> = {
            let all = lock(&self.known);
            all.values().map(|known| known.at.age()).collect()
        };
        ages.sort_unstable();
        if let Some(oldest) = ages.get(KNOWN_MOST / 10 * 9).copied() {
            self.forget_where(|_, known| known.at.age() >= oldest);
        }
    }

    fn forget_where(&self, forget: impl Fn(&str, &Known) -> bool) {
        let mut all = lock(&self.known);
        all.retain(|key, known| {
            let forget = forget(key, known);
            if forget {
                self.spool.remove_note(&format!("{PREFIX}{key}"));
            }
            !forget
        });
    }
}

fn remembers(rule: &ToRule) -> bool {
    rule.on_change || rule.min_interval.is_some()
}

/// A name has no slash.
fn key(rule: &ToRule, topic: &str) -> String {
    format!("{}/{topic}", rule.name)
}

fn digest(call: &Call) -> [u8; 16] {
    let bytes: [u8; 32] = Sha256::digest(postcard::to_stdvec(call).unwrap_or_default()).into();
    std::array::from_fn(|n| bytes.get(n).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::route::{Keep, Maps, Rate, RuleSet};
    use crate::store::sqlite::Spool;
    use crate::store::{Append as _, Limits};

    fn rule() -> ToRule {
        ToRule {
            name: "r".to_owned(),
            subscribe: "stat/+".to_owned(),
            pattern: None,
            map: Maps::new(),
            to: "user/413/text".to_owned(),
            payload: "${payload}".to_owned(),
            value: None,
            above: None,
            below: None,
            hysteresis: None,
            hold: None,
            round: None,
            on_change: true,
            keep: Keep::All,
            ttl: None,
            min_interval: None,
            retained: false,
            max_rate: Rate::default(),
        }
    }

    fn call(text: &str) -> Call {
        Call::SendText { to: "413".parse().unwrap(), content: text.into() }
    }

    fn routes(rules: Vec<ToRule>) -> Routes {
        let rules = RuleSet { to: rules, ..RuleSet::default() };
        Routes::compile(rules, &"ilink".parse().unwrap(), &Arc::default()).unwrap()
    }

    struct Place(tempfile::TempDir);

    impl Place {
        async fn open(&self, rules: Vec<ToRule>) -> (Arc<Spool>, RouteBook) {
            let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
            let (spool, _) = Spool::open(self.0.path(), limits).unwrap();
            let book = RouteBook::open(spool.clone(), &routes(rules)).await.unwrap();
            (spool, book)
        }
    }

    #[tokio::test]
    async fn a_change_is_told_also_after_a_restart() {
        let place = Place(tempfile::tempdir().unwrap());
        let (spool, book) = place.open(vec![rule()]).await;
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Ok(()));
        let remembered = book.note(&rule(), "stat/a", &call("ON"), Stamp::now(), None);
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Err(LeftOut::Unchanged));
        assert_eq!(book.check(&rule(), "stat/a", &call("OFF")), Ok(()));
        assert_eq!(book.check(&rule(), "stat/b", &call("ON")), Ok(()));
        book.stored(&remembered);
        spool.close().await;

        let (spool, book) = place.open(vec![rule()]).await;
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Err(LeftOut::Unchanged));
        // What iLink never got was not told.
        book.not_delivered("r", "stat/a", &call("OFF"));
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Err(LeftOut::Unchanged));
        book.not_delivered("r", "stat/a", &call("ON"));
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Ok(()));
        spool.close().await;
        let (spool, book) = place.open(vec![rule()]).await;
        assert_eq!(book.check(&rule(), "stat/a", &call("ON")), Ok(()));
        book.reconfigure(&routes(vec![]));
        spool.close().await;
        let (spool, _) = place.open(vec![]).await;
        assert!(spool.notes(PREFIX).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_interval_is_kept_and_what_was_not_stored_does_not_count() {
        let place = Place(tempfile::tempdir().unwrap());
        let rule = ToRule { on_change: false, min_interval: Some(Duration::from_hours(1)), ..rule() };
        let (spool, book) = place.open(vec![rule.clone()]).await;
        let remembered = book.note(&rule, "stat/a", &call("1"), Stamp::now(), None);
        book.not_stored(&remembered);
        assert_eq!(book.check(&rule, "stat/a", &call("2")), Ok(()));
        let remembered = book.note(&rule, "stat/a", &call("2"), Stamp::now(), None);
        book.stored(&remembered);
        spool.close().await;
        let (_spool, book) = place.open(vec![rule.clone()]).await;
        assert_eq!(book.check(&rule, "stat/a", &call("3")), Err(LeftOut::TooSoon));
        assert_eq!(book.check(&rule, "stat/b", &call("3")), Ok(()));
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let place = Place(tempfile::tempdir().unwrap());
        let (_spool, book) = place.open(vec![rule()]).await;
        for n in 0..=KNOWN_MOST {
            book.note(&rule(), &format!("stat/{n}"), &call("ON"), Stamp::now(), None);
        }
        let known = book.known.lock().unwrap().len();
        assert!(known <= KNOWN_MOST, "{known}");
    }
}
