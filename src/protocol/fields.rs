//! A pushed JSON object read liberally, field by field: the manual's samples have keys with stray spaces (§5.10, §5.11),
//! and ids and integers may come as each other's JSON type.
//!
//! Values stay unread until they are asked for, so that no unknown field, however odd, can make a push unreadable. What the
//! fields mean is `push`'s.

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deeper nesting than any push has reason for; the limit keeps readers of our envelopes from overflowing their stacks.
const MAX_DEPTH: usize = 128;

/// The members of the pushed object that are not `null`, in their order, values unread.
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// None unless `text` is one JSON object of at most [`MAX_DEPTH`] levels.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if nests_too_deep(text) {
            return None;
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(FieldsVisitor).ok()?;
        json.end().ok()?;
        Some(fields)
    }

    /// The value under `key`, else under `key` with stray spaces around it; of duplicates the last, as most parsers have it.
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        let newest_first = || self.0.iter().rev();
        newest_first()
            .find(|(name, _)| name == key)
            .or_else(|| newest_first().find(|(name, _)| name.trim() == key))
            .map(|(_, value)| *value)
    }

    /// A string, or a number as it is written.
    fn text(&self, key: &str) -> Option<String> {
        let raw = self.get(key)?.get();
        match raw.as_bytes().first()? {
            b'"' => serde_json::from_str(raw).ok(),
            b'-' | b'0'..=b'9' => Some(raw.to_owned()),
            _ => None,
        }
    }

    /// A string, and nothing else.
    pub(super) fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// A non-empty id.
    pub(super) fn id<T: TryFrom<String>>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| T::try_from(text).ok())
    }

    /// An integer, or a string that holds one.
    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        self.text(key)?.trim().parse().ok()
    }

    /// Whether there is anything but `null` under `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        // Keys are taken raw too: one that is no Unicode text (a lone surrogate) is unknown, but no reason to lose the push.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let (Ok(key), true) = (serde_json::from_str(key.get()), value.get() != "null") {
                fields.push((key, value));
            }
        }
        Ok(Fields(fields))
    }
}

/// Whether arrays and objects nest deeper than [`MAX_DEPTH`]; brackets within strings do not count. Raw values are not
/// limited by the parser itself.
fn nests_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}
