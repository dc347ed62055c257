//! JSON as it really arrives, from iLink and from whatever stands between. Pushes and replies are read through this.
//!
//! Around the object there may be a byte order mark, white space and NULs. The body may be gzipped. A string may
//! contain bytes that are not UTF-8 (a name in GBK, say). None of this may lose a message, or make a call that was
//! executed look as if it was not. The fields are then read by `fields` and [`reply`](super::reply).

use std::borrow::Cow;
use std::io::Read as _;

use flate2::bufread::GzDecoder;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const GZIP: &[u8] = b"\x1f\x8b";
/// Stands for one byte that is not UTF-8: JSON allows it in strings and nowhere else.
const STAND_IN: char = '\u{7f}';

/// What a gzipped `body` holds; none if it is not gzipped, is damaged, or holds more than `max` bytes.
///
/// The first two bytes decide, not `Content-Encoding`: they begin no JSON, and proxies forget the header or leave it on.
#[must_use]
pub fn gunzip(body: &[u8], max: usize) -> Option<Vec<u8>> {
    if !body.starts_with(GZIP) {
        return None;
    }
    let (mut rest, mut unpacked) = (body, Vec::new());
    // There may be several members (RFC 1952 §2.2).
    while rest.starts_with(GZIP) {
        let more_than_allowed = u64::try_from(max - unpacked.len()).unwrap_or(u64::MAX).saturating_add(1);
        let mut member = GzDecoder::new(rest).take(more_than_allowed);
        member.read_to_end(&mut unpacked).ok()?;
        if unpacked.len() > max {
            return None;
        }
        rest = member.into_inner().into_inner();
    }
    Some(unpacked)
}

/// The JSON text in `body`, where U+FFFD stands for what is not UTF-8.
#[must_use]
pub fn text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(trimmed(body))
}

/// `body` without the byte order mark, white space and NULs around it.
#[must_use]
pub fn trimmed(body: &[u8]) -> &[u8] {
    let is_void = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0 | b'\x0b');
    let mut rest = body;
    loop {
        let start = rest.iter().position(|byte| !is_void(byte)).unwrap_or(rest.len());
        let end = rest.iter().rposition(|byte| !is_void(byte)).map_or(start, |last| last + 1);
        let inner = rest.get(start..end).unwrap_or_default();
        let inner = inner.strip_prefix(BYTE_ORDER_MARK).unwrap_or(inner);
        let inner = inner.strip_suffix(BYTE_ORDER_MARK).unwrap_or(inner);
        if inner.len() == rest.len() {
            return inner;
        }
        rest = inner;
    }
}

/// A JSON text that knows the bytes behind each part of it, also where they are not UTF-8.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    /// As long as `bytes`, so that a part of it lies where its bytes lie.
    text: Cow<'a, str>,
}

impl<'a> Text<'a> {
    /// The JSON text in `body`.
    pub(super) fn of(body: &'a [u8]) -> Self {
        let bytes = trimmed(body);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(stood_in(bytes)),
        };
        Self { bytes, text }
    }

    /// To be parsed.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether some of its bytes are not UTF-8.
    pub(super) fn is_spoilt(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }

    /// The bytes of `part`, which is a part of [`Self::as_str`].
    pub(super) fn bytes_of(&self, part: &str) -> &'a [u8] {
        let start = part.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        self.bytes.get(start..).and_then(|rest| rest.get(..part.len())).unwrap_or_default()
    }
}

fn stood_in(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| STAND_IN));
    }
    text
}

/// The bytes that a JSON string means, quotes and escapes undone; what is not UTF-8 in it means itself. None if it is no
/// string, or has an escape that is no Unicode.
pub(super) fn string(json: &[u8]) -> Option<Vec<u8>> {
    if let Ok(text) = std::str::from_utf8(json) {
        return serde_json::from_str(text).ok().map(String::into_bytes);
    }
    let inner = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut bytes = Vec::with_capacity(inner.len());
    // No escape is cut in two: all of its bytes are ASCII, and a text that has other bytes within one is no JSON.
    for chunk in inner.utf8_chunks() {
        let valid: String = serde_json::from_str(&format!("\"{}\"", chunk.valid())).ok()?;
        bytes.extend_from_slice(valid.as_bytes());
        bytes.extend_from_slice(chunk.invalid());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn what_stands_around_the_object_is_skipped() {
        for around in [
            "{}",
            "\u{feff}{}",
            "{}\0",
            "\0\0{}\0\r\n\0",
            " \u{feff}\n{}\n",
            "\u{feff}\u{feff}{}",
            "\n\u{b}\u{c}{}\t",
            "{}\u{feff}",
            "\0\u{feff}\0{}",
        ] {
            assert_eq!(text(around.as_bytes()), "{}", "{around:?}");
        }
        for nothing in ["", " ", "\0", "\u{feff}", "\u{feff}\0\n\u{feff}"] {
            assert_eq!(text(nothing.as_bytes()), "", "{nothing:?}");
        }
        assert_eq!(text("{\"a\":\"\u{feff} \0\"}".as_bytes()), "{\"a\":\"\u{feff} \0\"}", "within, all of it counts");
        assert_eq!(text(b"\xef\xbb{}\xbf"), "\u{fffd}{}\u{fffd}", "half a mark is none");
    }

    #[test]
    fn gzip_is_undone() {
        assert_eq!(gunzip(&gzipped(b"{\"a\":1}"), 7).as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(gunzip(&gzipped(b""), 0), Some(vec![]));
        let two = [gzipped(b"{\"a\":"), gzipped(b"1}")].concat();
        assert_eq!(gunzip(&two, 7).as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(gunzip(&two, 6), None);
        let longer = [gzipped(b"{}"), b"\0\0".to_vec()].concat();
        assert_eq!(gunzip(&longer, 10).as_deref(), Some(&b"{}"[..]), "what comes after it is skipped");
    }

    #[test]
    fn what_is_no_gzip_is_not_unpacked() {
        let packed = gzipped(b"{\"a\":1}");
        let mut damaged = packed.clone();
        damaged[packed.len() - 8] ^= 1;
        for body in [b"".as_slice(), b"{}", b"\x1f", b"\x1f\x8b", &packed[..packed.len() - 1], &packed[..12], &damaged]
        {
            assert_eq!(gunzip(body, 1000), None);
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = gzipped(&vec![b' '; 50 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(gunzip(&bomb, 1 << 20), None);
        assert_eq!(gunzip(&gzipped(b"{\"a\":1}"), 6), None);
    }

    #[test]
    fn strings_mean_their_bytes() {
        for (json, meant) in [
            (&b"\"\""[..], Some(&b""[..])),
            (b"\"a\\n\\u00e9\\\"\"", Some(b"a\n\xc3\xa9\"")),
            (b"\"\xb5\xe7\xb5\xc6\"", Some(b"\xb5\xe7\xb5\xc6")),
            (b"\"a\\t\xffb\\ud83d\\ude00\"", Some(b"a\t\xffb\xf0\x9f\x98\x80")),
            (b"\"\\ud83d\xff\\ude00\"", None),
            (b"\"\\\xff\"", None),
            (b"1", None),
            (b"\"", None),
        ] {
            assert_eq!(string(json).as_deref(), meant, "{json:?}");
        }
    }

    #[test]
    fn a_part_knows_its_bytes() {
        let body = b"\xef\xbb\xbf {\"\xd0\":\"\xb5\xe7\",\"b\":7}\0";
        let text = Text::of(body);
        assert!(text.is_spoilt() && !Text::of(b"{}").is_spoilt());
        let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(text.as_str()).unwrap();
        assert_eq!(text.bytes_of(fields["\u{7f}"].get()), b"\"\xb5\xe7\"");
        assert_eq!(text.bytes_of(fields["b"].get()), b"7");
        assert_eq!(text.bytes_of("elsewhere"), b"");
    }

    proptest! {
        #[test]
        fn any_string_is_read_as_by_other_parsers(string: String) {
            let json = serde_json::to_string(&string).unwrap();
            prop_assert_eq!(super::string(json.as_bytes()), Some(string.into_bytes()));
        }

        #[test]
        fn a_stand_in_is_as_long_as_what_it_stands_for(body: Vec<u8>) {
            let text = Text::of(&body);
            prop_assert_eq!(text.as_str().len(), trimmed(&body).len());
            prop_assert_eq!(text.bytes_of(text.as_str()), trimmed(&body));
        }

        #[test]
        fn bytes_in_a_string_spoil_nothing_but_the_string(spoilt: Vec<u8>) {
            let plain: Vec<u8> = spoilt.into_iter().filter(|byte| *byte >= 0x80).collect();
            let body = [b"{\"a\":\"", &plain[..], b"\",\"b\":1}"].concat();
            let value: serde_json::Value = serde_json::from_str(&text(&body)).unwrap();
            prop_assert_eq!(&value["b"], 1);
            prop_assert_eq!(value["a"].as_str().unwrap(), String::from_utf8_lossy(&plain));
        }

        #[test]
        fn no_gzip_panics(mut body: Vec<u8>) {
            body.splice(0..0, [0x1f, 0x8b, 8]);
            let _ = gunzip(&body, 1000);
        }
    }
}
