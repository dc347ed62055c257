//! Changes that nobody waits for, in the order in which they were asked for. What supersedes another takes its own place.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// A change of one key: a new value, or none.
pub(super) type Change = Option<Bytes>;

/// The changes that are not yet carried out. Readers look here first.
#[derive(Debug, Default)]
pub(super) struct Lazies {
    changes: HashMap<String, (u64, Change)>,
    order: BTreeMap<u64, String>,
    next: u64,
    /// What is being carried out.
    flying: HashMap<String, (u64, Change)>,
}

impl Lazies {
    pub(super) fn set(&mut self, key: String, change: Change) {
        self.next += 1;
        self.put(self.next, key, change);
    }

    fn put(&mut self, place: u64, key: String, change: Change) {
        self.order.insert(place, key.clone());
        if let Some((before, _)) = self.changes.insert(key, (place, change)) {
            self.order.remove(&before);
        }
    }

    /// It is not to be done any more.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some((place, _)) = self.changes.remove(key) {
            self.order.remove(&place);
        }
    }

    /// What is to become of a key, or is on its way.
    pub(super) fn change(&self, key: &str) -> Option<&Change> {
        self.changes.get(key).or_else(|| self.flying.get(key)).map(|(_, change)| change)
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The oldest, as many as fit; only removals of keys that begin so, if so wanted. They are on their way until
    /// [`Self::landed`] or [`Self::turned_back`].
    pub(super) fn take(&mut self, most: usize, most_bytes: usize, removals: Option<&str>) -> Vec<(String, Change)> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for (place, key) in &self.order {
            let Some((_, change)) = self.changes.get(key) else { continue };
            if removals.is_some_and(|prefix| change.is_some() || !key.starts_with(prefix)) {
                continue;
            }
            bytes += change.as_ref().map_or(0, Bytes::len) + key.len();
            if taken.len() >= most || (bytes > most_bytes && !taken.is_empty()) {
                break;
            }
            taken.push((*place, key.clone(), change.clone()));
        }
        let mut changes = Vec::with_capacity(taken.len());
        for (place, key, change) in taken {
            self.order.remove(&place);
            self.changes.remove(&key);
            self.flying.insert(key.clone(), (place, change.clone()));
            changes.push((key, change));
        }
        changes
    }

    /// What was on its way has been carried out.
    pub(super) fn landed(&mut self) {
        self.flying.clear();
    }

    /// What was on its way has not been carried out, and is still to be, unless there is something newer.
    pub(super) fn turned_back(&mut self) {
        for (key, (place, change)) in std::mem::take(&mut self.flying) {
            if !self.changes.contains_key(&key) {
                self.put(place, key, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lazies: &mut Lazies, most: usize) -> Vec<String> {
        lazies.take(most, 100, None).into_iter().map(|(key, _)| key).collect()
    }

    fn with(keys: &[&str]) -> Lazies {
        let mut lazies = Lazies::default();
        for key in keys {
            lazies.set((*key).to_owned(), Some(Bytes::copy_from_slice(key.as_bytes())));
        }
        lazies
    }

    #[test]
    fn they_go_in_order_and_the_newest_counts() {
        let mut lazies = with(&["c", "a", "b"]);
        lazies.set("c".to_owned(), None);
        assert_eq!(lazies.change("c"), Some(&None));
        assert_eq!(taken(&mut lazies, 2), ["a", "b"]);
        assert_eq!(taken(&mut lazies, 2), ["c"]);
        assert!(lazies.is_empty());
    }

    #[test]
    fn what_is_turned_back_keeps_its_place_unless_it_was_superseded() {
        let mut lazies = with(&["a", "b", "c"]);
        assert_eq!(taken(&mut lazies, 2), ["a", "b"]);
        assert_eq!(lazies.change("a").unwrap().as_deref(), Some(&b"a"[..]), "seen while it is on its way");
        lazies.set("a".to_owned(), None);
        lazies.turned_back();
        assert_eq!(lazies.len(), 3);
        assert_eq!(taken(&mut lazies, 9), ["b", "c", "a"]);
        lazies.landed();
        assert_eq!(lazies.change("b"), None);
    }

    #[test]
    fn one_goes_however_large_it_is_and_removals_go_alone_if_need_be() {
        let mut lazies = with(&["a"]);
        lazies.set("large".to_owned(), Some(vec![0; 1000].into()));
        lazies.set("note/gone".to_owned(), None);
        lazies.set("row/gone".to_owned(), None);
        let removals = lazies.take(9, 100, Some("row/"));
        assert_eq!(removals, [("row/gone".to_owned(), None)]);
        assert_eq!(taken(&mut lazies, 9), ["a"]);
        assert_eq!(taken(&mut lazies, 9), ["large"]);
        assert_eq!(taken(&mut lazies, 9), ["note/gone"]);
    }
}
