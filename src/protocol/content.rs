//! Message content: arbitrary bytes, base64 on the wire (§4.1, §5.2).
//!
//! Encoding is the standard alphabet with padding. Decoding is lenient, because not every client of the service follows
//! the manual, and it loses nothing: what is not base64 at all is passed on as it is, and marked.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// Padding may be missing, and the bits that a decoder drops need not be zero.
const LIBERAL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The content of a message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The decoded bytes, or those of the string itself if it is not base64.
    pub bytes: Vec<u8>,
    /// The string was not base64.
    pub not_base64: bool,
}

/// Shows the length only: content appears in no log.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("len", &self.bytes.len()).field("not_base64", &self.not_base64).finish()
    }
}

/// Decodes a `content` string, which need not be UTF-8: the standard or the URL-safe alphabet, with or without padding, ASCII
/// white space anywhere.
#[must_use]
pub fn decode(text: impl AsRef<[u8]>) -> Content {
    let text = text.as_ref();
    // Nearly every one is as the manual has it.
    if let Ok(bytes) = LIBERAL.decode(text) {
        return Content { bytes, not_base64: false };
    }
    let cleaned: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    match LIBERAL.decode(cleaned) {
        Ok(bytes) => Content { bytes, not_base64: false },
        Err(_) => Content { bytes: text.to_vec(), not_base64: true },
    }
}

/// Encodes bytes as a `content` string.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_manuals_hello() {
        assert_eq!(encode(b"hello"), "aGVsbG8=");
        assert_eq!(decode("aGVsbG8=").bytes, b"hello");
    }

    #[test]
    fn liberal_forms_of_base64_are_base64() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("aGVsbG8", b"hello"),
            ("aGVs\r\nbG8=\n", b"hello"),
            (" a G V s\tbG8 = ", b"hello"),
            // The last character's two low bits are dropped by every decoder.
            ("aGVsbG9=", b"hello"),
            ("-_-_", b"\xfb\xff\xbf"),
            ("+/+/", b"\xfb\xff\xbf"),
            ("-/+_", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(decode(text), Content { bytes: bytes.to_vec(), not_base64: false }, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_base64_is_kept_whole() {
        for text in ["a", "aGVsb", "hello, world", "=", "aGVs=bG8", "aGVs bG8!", "开灯", "a\u{b}GVs"] {
            assert_eq!(decode(text), Content { bytes: text.as_bytes().to_vec(), not_base64: true }, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_no_base64() {
        assert_eq!(decode(b"\xb5\xe7"), Content { bytes: b"\xb5\xe7".to_vec(), not_base64: true });
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!("{:?}", decode("c2VjcmV0"));
        assert_eq!(shown, "Content { len: 6, not_base64: false }");
    }

    proptest! {
        #[test]
        fn encoded_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(encode(&bytes)), Content { bytes, not_base64: false });
        }

        #[test]
        fn padding_alphabet_and_line_breaks_do_not_matter(bytes: Vec<u8>, width in 1usize..80) {
            let bare = encode(&bytes).trim_end_matches('=').replace('+', "-").replace('/', "_");
            let chars: Vec<char> = bare.chars().collect();
            let wrapped: Vec<String> = chars.chunks(width).map(|line| line.iter().collect()).collect();
            prop_assert_eq!(decode(wrapped.join("\r\n")), Content { bytes, not_base64: false });
        }

        #[test]
        fn no_text_panics_or_is_lost(text: String) {
            let content = decode(&text);
            prop_assert!(!content.not_base64 || content.bytes == text.as_bytes());
        }
    }
}
