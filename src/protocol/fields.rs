//! Reads a pushed JSON object leniently, field by field: the manual's samples have keys with stray spaces (§5.10,
//! §5.11), and ids and integers may come as each other's JSON type.
//!
//! Values stay unread until they are asked for, so that no unknown field, however odd, makes a push unreadable. `push`
//! knows what the fields mean.

use std::borrow::Cow;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::content::{self, Content};
use super::lenient::{self, Text};

/// What nests deeper is not passed on as JSON, so that readers of our envelopes do not overflow their stacks.
const MAX_DEPTH: usize = 128;

/// Later than this in seconds (the year 5138), a time is in milliseconds.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// Up to here a floating-point number tells every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The members of the pushed object that are not `null`, in their order, values unread.
pub(super) struct Fields<'a> {
    text: &'a Text<'a>,
    members: Members<'a>,
    decodes_contents: bool,
}

/// A key is copied only if it has escapes.
type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

impl<'a> Fields<'a> {
    /// None unless `text` is one JSON object. However deep it nests: values are skipped without recursion.
    pub(super) fn parse(text: &'a Text<'a>) -> Option<Self> {
        Some(Self { text, members: members(text.as_str())?, decodes_contents: true })
    }

    /// The same, for whoever asks only whether there is a content: it is given as an empty one.
    pub(super) fn without_contents(self) -> Self {
        Self { decodes_contents: false, ..self }
    }

    /// The value under `key`, else under `key` with stray spaces around it; of duplicates the last, as most parsers have it.
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        let newest_first = || self.members.iter().rev();
        newest_first()
            .find(|(name, _)| name == key)
            .or_else(|| newest_first().find(|(name, _)| name.trim() == key))
            .map(|(_, value)| *value)
    }

    /// The bytes of a string. They need not be UTF-8.
    fn string(&self, raw: &RawValue) -> Option<Vec<u8>> {
        lenient::string(self.text.bytes_of(raw.get()))
    }

    /// A string that is text, or a number as it is written.
    fn text(&self, key: &str) -> Option<String> {
        let raw = self.get(key)?;
        match raw.get().as_bytes().first()? {
            b'"' => String::from_utf8(self.string(raw)?).ok(),
            b'-' | b'0'..=b'9' => Some(raw.get().to_owned()),
            _ => None,
        }
    }

    /// Content: base64 in a string. A number or a boolean is no base64, and counts as its JSON text.
    pub(super) fn content(&self, key: &str) -> Option<Content> {
        let raw = self.get(key)?;
        match raw.get().as_bytes().first()? {
            // Without an escape, it is what it says. Only an escape can be wrong.
            b'"' if !raw.get().contains('\\') => {
                if self.decodes_contents {
                    unquoted(self.text.bytes_of(raw.get())).map(content::decode)
                } else {
                    Some(Content::default())
                }
            }
            b'"' => self.string(raw).map(content::decode),
            b'{' | b'[' => None,
            _ => Some(Content { bytes: raw.get().as_bytes().to_vec(), not_base64: true }),
        }
    }

    /// A non-empty id.
    pub(super) fn id<T: TryFrom<String>>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| T::try_from(text).ok())
    }

    /// An integer (`1.0` is one), or a string that holds one.
    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        let text = self.text(key)?;
        let (whole, fraction) = number(text.trim())?;
        (fraction == 0.0).then_some(whole)
    }

    /// A time in seconds since the epoch. A fraction is cut off, and what can only be milliseconds is taken for them.
    pub(super) fn seconds(&self, key: &str) -> Option<i64> {
        let text = self.text(key)?;
        let (time, _) = number(text.trim())?;
        Some(if time > MILLISECONDS_FROM { time / 1000 } else { time })
    }

    /// Whether there is anything but `null` under `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

fn unquoted(json: &[u8]) -> Option<&[u8]> {
    json.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// The whole part of a number and its fraction; none if it is none, or too large for its integers to be told apart.
fn number(text: &str) -> Option<(i64, f64)> {
    if let Ok(whole) = text.parse() {
        return Some((whole, 0.0));
    }
    let number: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and within the range of exact integers")]
    (number.abs() < EXACT).then(|| (number.trunc() as i64, number.fract()))
}

/// The members of the object in `text` that are not `null`, in their order, values unread, however deep they nest.
pub(super) fn members(text: &str) -> Option<Members<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(MembersVisitor).ok()?;
    json.end().ok()?;
    Some(members)
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        // Keys are taken raw too: one that is no Unicode text (a lone surrogate) is unknown, but no reason to lose the push.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let (Some(key), true) = (unescaped(key.get()), value.get() != "null") {
                members.push((key, value));
            }
        }
        Ok(members)
    }
}

/// What a JSON string means, quotes and escapes undone; none if it has an escape that is no Unicode.
fn unescaped(json: &str) -> Option<Cow<'_, str>> {
    match serde_json::from_str(json) {
        Ok(plain) => Some(Cow::Borrowed(plain)),
        Err(_) => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// Whether arrays and objects nest deeper than [`MAX_DEPTH`]; brackets within strings do not count.
pub(super) fn nests_too_deep(text: &str) -> bool {
    // Nearly every push has fewer brackets than that in all.
    if text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MAX_DEPTH {
        return false;
    }
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
