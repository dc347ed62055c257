//! What happened lately, for `GET /sim/state`: calls, handshakes and pushes, each log bounded in entries and bytes.

use std::collections::VecDeque;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};
use serde_json::{Map, Value, json};

use super::records::{Handshake, Path, PushRecord};

/// Entries one log keeps.
const MAX_ENTRIES: usize = 1000;
/// Bytes one log keeps, roughly: bodies may be large.
const MAX_BYTES: usize = 8 << 20;

/// The three logs.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) calls: Log<CallRecord>,
    pub(super) handshakes: Log<Handshake>,
    pub(super) pushes: Log<PushRecord>,
}

/// A call that was made.
#[derive(Serialize)]
pub(super) struct CallRecord {
    pub(super) at: String,
    pub(super) path: Path,
    /// With secrets masked.
    pub(super) body: Value,
    /// Whether it came with an access token in its query.
    pub(super) with_token: bool,
    /// The result code it was answered with; none while, or because, it was not answered so.
    pub(super) code: Option<i64>,
    /// The mode of the fault that it met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<&'static str>,
}

/// The newest entries of one kind; entries are numbered from 0 for ever.
pub(super) struct Log<T> {
    entries: VecDeque<(usize, T)>,
    bytes: usize,
    dropped: u64,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, dropped: 0 }
    }
}

impl<T> Log<T> {
    /// Adds an entry of about that many bytes and says its number; the newest is always kept.
    pub(super) fn note(&mut self, entry: T, bytes: usize) -> u64 {
        let number = self.total();
        self.entries.push_back((bytes, entry));
        self.bytes += bytes;
        while self.entries.len() > 1 && (self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES) {
            if let Some((bytes, _)) = self.entries.pop_front() {
                self.bytes -= bytes;
                self.dropped += 1;
            }
        }
        number
    }

    /// An entry that may still be amended; none if it was dropped meanwhile.
    pub(super) fn entry(&mut self, number: u64) -> Option<&mut T> {
        let index = usize::try_from(number.checked_sub(self.dropped)?).ok()?;
        self.entries.get_mut(index).map(|(_, entry)| entry)
    }

    /// The number of the next entry, and so how many there ever were.
    pub(super) fn total(&self) -> u64 {
        self.dropped + u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }
}

impl<T: Serialize> Serialize for Log<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.entries.len()))?;
        for (_, entry) in &self.entries {
            list.serialize_element(entry)?;
        }
        list.end()
    }
}

/// The body of a call without its secrets. What is not an object is shown by its size only: it may hold anything.
pub(super) fn masked(body: Option<&Map<String, Value>>, size: usize) -> Value {
    let Some(body) = body else { return json!({"not_an_object_of_bytes": size}) };
    let mask = |(key, value): (&String, &Value)| {
        let name = key.to_ascii_lowercase();
        let secret = name.contains("secret") || name.contains("token");
        (key.clone(), if secret { json!("********") } else { value.clone() })
    };
    Value::Object(body.iter().map(mask).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_numbers_stay() {
        let mut log = Log::default();
        for n in 0..MAX_ENTRIES + 5 {
            assert_eq!(log.note(n, 1), n as u64);
        }
        assert_eq!(log.entries.len(), MAX_ENTRIES);
        assert!(log.entry(4).is_none());
        assert_eq!(log.entry(5), Some(&mut 5));
        assert_eq!(log.total(), MAX_ENTRIES as u64 + 5);
        let big = log.note(7, MAX_BYTES + 1);
        assert_eq!((log.entries.len(), log.entry(big)), (1, Some(&mut 7)));
    }

    #[test]
    fn secrets_are_masked_under_any_spelling() {
        let body = json!({"secretkey": "s", "SecretKey ": "s", "token": "t", "access_token": "t", "uid": "1"});
        let shown = masked(body.as_object(), 0).to_string();
        assert!(!shown.contains("\"s\"") && !shown.contains("\"t\"") && shown.contains("\"uid\":\"1\""), "{shown}");
    }
}
