//! Ids and subjects as topic levels, and back.
//!
//! An id becomes one level; a subject may become several. What a level cannot contain is percent-encoded as UTF-8 with
//! upper-case hex digits. The encoding is reversible, so no two ids share a topic. Decoding reads command topics, and accepts
//! escapes that were not needed. Where ids stand in a topic is defined in [`topics`](super::topics).
//!
//! A leading `@` is encoded too: there it marks a name ([`names`](super::names)).
//!
//! Besides `% / + #` and control characters, Unicode's noncharacters (U+FFFE, U+FDD0, …) are encoded: Mosquitto disconnects a
//! client that sends one, in a topic or in a user property.

use std::borrow::Cow;

/// Why a command topic names nothing that can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// A `%` is not followed by two hex digits.
    #[error("a % in an id must be followed by two hex digits (a % itself is %25)")]
    Escape,
    /// The decoded bytes are not text.
    #[error("an id in the topic is not UTF-8 after percent-decoding")]
    NotUtf8,
    /// The decoded text has a NUL.
    #[error("an id in the topic holds a NUL")]
    Nul,
    /// Nothing is left to call by.
    #[error("an id in the topic is empty")]
    Empty,
    /// A subject has `#` or `+` after decoding: iLink lets nobody publish there.
    #[error("a subject must not hold # or +")]
    Wildcard,
    /// An id spans several levels.
    #[error("an id is one topic level (a / in it is %2F)")]
    Levels,
}

/// `id` as one topic level.
#[must_use]
pub fn escape_id(id: &str) -> String {
    // As most ids are.
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut level = String::with_capacity(id.len());
    for character in id.chars() {
        let first = level.is_empty();
        push_escaped(
            &mut level,
            character,
            character == '/' || is_reserved(character) || is_name_mark(first, character),
        );
    }
    level
}

/// `subject` as one or more topic levels, none of them empty: `/` stays, but in a run of slashes every one after the first,
/// and a leading or trailing one, is encoded.
#[must_use]
pub fn escape_subject(subject: &str) -> String {
    let mut levels = String::with_capacity(subject.len());
    let mut characters = subject.chars().peekable();
    // A leading slash is like one after a slash.
    let mut after_slash = true;
    while let Some(character) = characters.next() {
        let slash = character == '/';
        let encode = if slash {
            after_slash || characters.peek().is_none()
        } else {
            is_reserved(character) || is_name_mark(levels.is_empty(), character)
        };
        push_escaped(&mut levels, character, encode);
        after_slash = slash;
    }
    levels
}

/// The id that one topic level stands for.
///
/// # Errors
///
/// [`BadTopic`], but never [`BadTopic::Wildcard`].
pub fn unescape_id(level: &str) -> Result<String, BadTopic> {
    if level.contains('/') { Err(BadTopic::Levels) } else { unescape(level) }
}

/// The subject that topic levels stand for; empty levels are slashes as they stand.
///
/// # Errors
///
/// [`BadTopic`], but never [`BadTopic::Levels`].
pub fn unescape_subject(levels: &str) -> Result<String, BadTopic> {
    let subject = unescape(levels)?;
    if subject.contains(['#', '+']) { Err(BadTopic::Wildcard) } else { Ok(subject) }
}

/// `value` as the value of an MQTT 5 user property: verbatim, unless it holds a character that would cost the connection;
/// then it is escaped as in topics.
#[must_use]
pub fn escape_property(value: &str) -> Cow<'_, str> {
    if has_unsendable(value) { Cow::Owned(escape_id(value)) } else { Cow::Borrowed(value) }
}

/// One level of a command topic as a level of its result's topic: verbatim, escapes included, but for the characters that would
/// cost the connection.
#[must_use]
pub(super) fn escape_unsendable(level: &str) -> Cow<'_, str> {
    let unsendable = |c: char| matches!(c, '+' | '#') || is_unsendable(c);
    if !level.contains(unsendable) {
        return Cow::Borrowed(level);
    }
    let mut escaped = String::with_capacity(level.len());
    for character in level.chars() {
        push_escaped(&mut escaped, character, unsendable(character));
    }
    Cow::Owned(escaped)
}

/// Whether brokers may refuse the character in any MQTT string.
#[must_use]
pub fn is_unsendable(character: char) -> bool {
    let code = u32::from(character);
    character.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// Whether brokers may refuse a string because of a character in it.
#[must_use]
pub fn has_unsendable(text: &str) -> bool {
    // Byte by byte is quicker, and ids are plain ASCII.
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.contains(is_unsendable)
}

fn is_reserved(character: char) -> bool {
    matches!(character, '%' | '+' | '#') || is_unsendable(character)
}

/// The first character of what stands for a name.
fn is_name_mark(first: bool, character: char) -> bool {
    first && character == '@'
}

fn push_escaped(out: &mut String, character: char, encode: bool) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    if !encode {
        out.push(character);
        return;
    }
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        out.push('%');
        for nibble in [byte >> 4, byte & 0x0F] {
            out.extend(HEX.get(usize::from(nibble)));
        }
    }
}

fn unescape(text: &str) -> Result<String, BadTopic> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex_digit(bytes.next())? << 4 | hex_digit(bytes.next())? } else { byte });
    }
    let decoded = String::from_utf8(decoded).map_err(|_| BadTopic::NotUtf8)?;
    match decoded.as_str() {
        "" => Err(BadTopic::Empty),
        text if text.contains('\0') => Err(BadTopic::Nul),
        _ => Ok(decoded),
    }
}

fn hex_digit(byte: Option<u8>) -> Result<u8, BadTopic> {
    byte.and_then(|byte| char::from(byte).to_digit(16))
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or(BadTopic::Escape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_level_cannot_hold_is_encoded() {
        for (id, level) in [
            ("413", "413"),
            ("4cdad356-85b4-008627", "4cdad356-85b4-008627"),
            ("a/b", "a%2Fb"),
            ("+", "%2B"),
            ("#1", "%231"),
            ("100%", "100%25"),
            ("a\0b", "a%00b"),
            ("\u{1f}\u{7f}", "%1F%7F"),
            ("\u{85}", "%C2%85"),
            ("\u{fffe}", "%EF%BF%BE"),
            ("$x y", "$x y"),
            ("@ann", "%40ann"),
            ("@@", "%40@"),
            ("a@b", "a@b"),
            ("张三", "张三"),
        ] {
            assert_eq!(escape_id(id), level);
        }
    }

    #[test]
    fn slashes_of_a_subject_stay_where_they_separate() {
        for (subject, levels) in [
            ("home/lamp", "home/lamp"),
            ("a//b", "a/%2Fb"),
            ("a///b", "a/%2F%2Fb"),
            ("a/", "a%2F"),
            ("a//", "a/%2F"),
            ("/a", "%2Fa"),
            ("//a", "%2F%2Fa"),
            ("/", "%2F"),
            ("//", "%2F%2F"),
            ("/a//b/", "%2Fa/%2Fb%2F"),
            ("a/+/#", "a/%2B/%23"),
            ("a%2Fb", "a%252Fb"),
            ("@home/@lamp", "%40home/@lamp"),
            ("/@lamp", "%2F@lamp"),
        ] {
            assert_eq!(escape_subject(subject), levels);
        }
    }

    #[test]
    fn the_inverse_is_lenient() {
        assert_eq!(unescape_id("a%2fb").unwrap(), "a/b");
        assert_eq!(unescape_id("%34%31%33").unwrap(), "413");
        assert_eq!(unescape_id("%e5%BC%a0").unwrap(), "张");
        assert_eq!(unescape_id("%2B%23").unwrap(), "+#");
        for (levels, subject) in [("a//b", "a//b"), ("a/%2fb", "a//b"), ("a/", "a/"), ("/a", "/a"), ("/", "/")] {
            assert_eq!(unescape_subject(levels).unwrap(), subject);
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for level in ["%", "a%", "%2", "%2G", "%%41", "%+1", "% 1", "%é0"] {
            assert_eq!(unescape_id(level), Err(BadTopic::Escape), "{level}");
        }
        for level in ["%ff", "%C2", "%ED%A0%80", "%C0%80", "a%80"] {
            assert_eq!(unescape_id(level), Err(BadTopic::NotUtf8), "{level}");
        }
        assert_eq!(unescape_id("a%00"), Err(BadTopic::Nul));
        assert_eq!(unescape_id(""), Err(BadTopic::Empty));
        assert_eq!(unescape_id("a/b"), Err(BadTopic::Levels));
        assert_eq!(unescape_subject(""), Err(BadTopic::Empty));
        assert_eq!(unescape_subject("a/%23"), Err(BadTopic::Wildcard));
        assert_eq!(unescape_subject("%2b"), Err(BadTopic::Wildcard));
    }

    #[test]
    fn properties_are_verbatim_where_they_can_be() {
        assert_eq!(escape_property("a/b%+#"), "a/b%+#");
        assert_eq!(escape_property("a/b\n"), "a%2Fb%0A");
    }

    proptest! {
        // Percent-decoding undoes the escape, hence no two ids and no two subjects share a topic.
        #[test]
        fn percent_decoding_gives_back_what_was_escaped(id in "[^\0]+|[/+#%a]{1,9}") {
            prop_assert_eq!(unescape(&escape_id(&id)), Ok(id.clone()));
            prop_assert_eq!(unescape_id(&escape_id(&id)), Ok(id.clone()));
            prop_assert_eq!(unescape(&escape_subject(&id)), Ok(id.clone()));
            let subject = id.replace(['+', '#'], "/");
            prop_assert_eq!(unescape_subject(&escape_subject(&subject)), Ok(subject));
        }

        #[test]
        fn levels_are_publishable(id in "(?s).+|[/+#%a\0\n]{1,9}") {
            let level = escape_id(&id);
            prop_assert!(!level.is_empty() && !level.contains(['/', '+', '#']) && !level.contains(is_unsendable));
            let levels = escape_subject(&id);
            prop_assert!(levels.split('/').all(|level| !level.is_empty()), "{}", levels);
            prop_assert!(!levels.contains(['+', '#']) && !levels.contains(is_unsendable));
        }

        #[test]
        fn any_topic_can_be_tried(text in "(?s).*|[%0-9a-fA-F/+#]{0,12}") {
            let _ = unescape_id(&text);
            if let Ok(subject) = unescape_subject(&text) {
                prop_assert_eq!(unescape_subject(&escape_subject(&subject)), Ok(subject));
            }
        }
    }
}
