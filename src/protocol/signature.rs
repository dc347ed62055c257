//! The signature of the registration handshake (§3.1): an MD5 over our token and what the service sent.
//!
//! The manual's text, its samples and the one public client disagree on what is hashed, so there are three variants. A
//! handshake is accepted in any of them, or only in the configured one, and the caller learns which it was. Answering
//! the handshake is the callback's work.

use std::fmt;
use std::str::FromStr;

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

/// What the MD5 is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Token, timestamp and echostr sorted as strings, then joined: the manual's words.
    Params,
    /// Token, timestamp and echostr joined as they are: the manual's Java and PHP samples.
    Plain,
    /// All characters of the three sorted by UTF-16 code unit, as JavaScript sorts them: the public client.
    Chars,
}

impl Variant {
    /// Every variant, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Params, Self::Plain, Self::Chars];

    /// The name in the configuration and in the status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Params => "params",
            Self::Plain => "plain",
            Self::Chars => "chars",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no variant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signature variant: one of \"params\", \"plain\", \"chars\"")]
pub struct UnknownVariant;

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(name: &str) -> Result<Self, UnknownVariant> {
        Self::ALL.into_iter().find(|variant| variant.as_str() == name).ok_or(UnknownVariant)
    }
}

/// Which variants are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accepted {
    /// Whichever matches.
    #[default]
    Any,
    /// This one alone.
    Only(Variant),
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Only(variant) => variant.as_str(),
        })
    }
}

impl FromStr for Accepted {
    type Err = UnknownVariant;

    fn from_str(name: &str) -> Result<Self, UnknownVariant> {
        if name == "any" { Ok(Self::Any) } else { name.parse().map(Self::Only) }
    }
}

/// The signature in lower-case hexadecimal.
#[must_use]
pub fn sign(variant: Variant, token: &str, timestamp: &str, echostr: &str) -> String {
    let mut parts = [token, timestamp, echostr];
    let signed = match variant {
        Variant::Plain => parts.concat(),
        Variant::Params => {
            parts.sort_unstable();
            parts.concat()
        }
        Variant::Chars => {
            let mut units: Vec<u16> = parts.concat().encode_utf16().collect();
            units.sort_unstable();
            // Sorting tears surrogate pairs apart; JavaScript too writes a lone one as U+FFFD.
            String::from_utf16_lossy(&units)
        }
    };
    hex(&Md5::digest(signed.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The variant by which `signature` is right, if there is one. Compares in constant time and ignores the case of the
/// hexadecimal digits.
#[must_use]
pub fn verify(accepted: Accepted, token: &str, timestamp: &str, echostr: &str, signature: &str) -> Option<Variant> {
    let given = signature.to_ascii_lowercase();
    Variant::ALL
        .into_iter()
        .filter(|variant| match accepted {
            Accepted::Any => true,
            Accepted::Only(only) => only == *variant,
        })
        .find(|variant| sign(*variant, token, timestamp, echostr).as_bytes().ct_eq(given.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "weixin";
    const TIMESTAMP: &str = "1457408202";
    const ECHOSTR: &str = "abc9";

    /// Each `md5sum` of the bytes named beside it.
    const SIGNED: [(Variant, &str, &str); 3] = [
        (Variant::Params, "1457408202abc9weixin", "1b018eaedca2bc003e1bb677326b6344"),
        (Variant::Plain, "weixin1457408202abc9", "382a9bb45f0773eeae8a51a1d91eba5c"),
        (Variant::Chars, "00122445789abceiinwx", "b60e75192fef31edee12cfb332d44209"),
    ];

    #[test]
    fn each_variant_signs_what_its_source_says() {
        for (variant, signed, md5) in SIGNED {
            assert_eq!(sign(variant, TOKEN, TIMESTAMP, ECHOSTR), md5, "{variant}: {signed}");
        }
    }

    #[test]
    fn the_case_of_the_digits_does_not_matter() {
        let upper = SIGNED[1].2.to_uppercase();
        assert_eq!(verify(Accepted::Any, TOKEN, TIMESTAMP, ECHOSTR, &upper), Some(Variant::Plain));
    }

    #[test]
    fn a_pinned_variant_excludes_the_others() {
        for (variant, _, md5) in SIGNED {
            for only in Variant::ALL {
                let found = verify(Accepted::Only(only), TOKEN, TIMESTAMP, ECHOSTR, md5);
                assert_eq!(found, (only == variant).then_some(variant));
            }
        }
    }

    #[test]
    fn anything_else_is_wrong() {
        let right = SIGNED[0].2;
        for wrong in ["", "0", &right[1..], &format!("{right}0"), &format!(" {right}"), "ａ"] {
            assert_eq!(verify(Accepted::Any, TOKEN, TIMESTAMP, ECHOSTR, wrong), None, "{wrong:?}");
        }
        assert_eq!(verify(Accepted::Any, "Weixin", TIMESTAMP, ECHOSTR, right), None);
    }

    /// In JavaScript `[..."b😀😁a"].join("").split("").sort().join("")`, written as UTF-8, is a, b, U+FFFD, 😀 with the second
    /// low surrogate left over as another U+FFFD.
    #[test]
    fn torn_surrogate_pairs_are_written_as_javascript_writes_them() {
        let expected = hex(&Md5::digest("ab\u{fffd}😀\u{fffd}".as_bytes()));
        assert_eq!(sign(Variant::Chars, "b😀", "😁", "a"), expected);
    }

    #[test]
    fn names_are_read_back() {
        for variant in Variant::ALL {
            assert_eq!(variant.to_string().parse(), Ok(variant));
            assert_eq!(variant.as_str().parse(), Ok(Accepted::Only(variant)));
        }
        assert_eq!("any".parse(), Ok(Accepted::Any));
        assert_eq!("Any".parse::<Accepted>(), Err(UnknownVariant));
        assert_eq!(Accepted::default().to_string(), "any");
    }

    proptest! {
        #[test]
        fn what_is_signed_is_accepted(token: String, timestamp: String, echostr: String, which in 0usize..3) {
            let variant = Variant::ALL[which];
            let signature = sign(variant, &token, &timestamp, &echostr);
            prop_assert_eq!(verify(Accepted::Only(variant), &token, &timestamp, &echostr, &signature), Some(variant));
            prop_assert!(verify(Accepted::Any, &token, &timestamp, &echostr, &signature).is_some());
        }

        #[test]
        fn no_signature_panics(token: String, signature: String) {
            let _ = verify(Accepted::Any, &token, "", "", &signature);
        }
    }
}
