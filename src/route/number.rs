//! Numbers in messages: which texts count as numbers, how they are rounded, and on which side of its limits a value lies.
//!
//! The side depends on the previous side: with a hysteresis, a value must come back further than the limit. The caller stores
//! the sides; nothing is remembered here.

use serde::{Deserialize, Serialize};

use super::template::Template;
use super::values::Values;

/// The most decimal places that are kept.
pub const MOST_PLACES: u8 = 9;

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Side {
    /// Between the limits, or back there.
    #[default]
    Within,
    /// Above the upper limit, and not back yet.
    Above,
    /// Below the lower limit, and not back yet.
    Below,
}

/// The limits of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// It crosses when it is more than this.
    pub above: Option<f64>,
    /// It crosses when it is less than this.
    pub below: Option<f64>,
    /// So far it must come back behind the limit, to cross it again.
    pub hysteresis: f64,
}

impl Limits {
    /// Where a value lies that was on this side before.
    #[must_use]
    pub fn side(&self, before: Side, value: f64) -> Side {
        let beyond_upper = |by: f64| self.above.is_some_and(|above| value > above - by);
        let beyond_lower = |by: f64| self.below.is_some_and(|below| value < below + by);
        if beyond_upper(0.0) {
            Side::Above
        } else if beyond_lower(0.0) {
            Side::Below
        } else if before == Side::Above && beyond_upper(self.hysteresis) {
            Side::Above
        } else if before == Side::Below && beyond_lower(self.hysteresis) {
            Side::Below
        } else {
            Side::Within
        }
    }
}

/// How a rule reads its value.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) value: Template,
    pub(super) round: Option<u8>,
}

impl Reading {
    /// The number, and as it is written in a message; the error says what is missing, without the content.
    pub(super) fn read(&self, values: &Values<'_>) -> Result<(f64, String), String> {
        let bytes = self.value.payload(values)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        let value = number(text).ok_or("the value is not a number")?;
        Ok((value, self.round.map_or_else(|| text.to_owned(), |places| rounded(value, places))))
    }
}

/// The number that a text is: decimal, with a point if it has one, and finite.
fn number(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|value: &f64| is_decimal && value.is_finite())
}

/// With so many decimal places, and no minus before nothing.
fn rounded(value: f64, places: u8) -> String {
    let text = format!("{value:.*}", usize::from(places));
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|byte| matches!(byte, b'0' | b'.')) => rest.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_number() {
        for (text, value) in
            [("21.5", 21.5), ("-3", -3.0), ("+7", 7.0), ("0", 0.0), ("1e3", 1000.0), ("1.5E-2", 0.015), (".5", 0.5)]
        {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in [
            "", " ", "21,5", "NaN", "nan", "inf", "-inf", "Infinity", "1e999", "-1e999", "true", "false", "on", "0x10",
            "1_000", "21.5 °C", "1 2", "--1", "e5", ".", "null", "٣", "１",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_rounded() {
        for (value, places, text) in [
            (21.456, 1, "21.5"),
            (21.0, 1, "21.0"),
            (-0.04, 1, "0.0"),
            (-0.4, 0, "0"),
            (-0.6, 0, "-1"),
            (999.96, 1, "1000.0"),
            (1e15, 0, "1000000000000000"),
        ] {
            assert_eq!(rounded(value, places), text, "{value}");
        }
    }

    const HOT: Limits = Limits { above: Some(30.0), below: None, hysteresis: 2.0 };

    #[test]
    fn a_value_comes_back_by_the_hysteresis() {
        let mut side = Side::Within;
        for (value, now) in [
            (30.0, Side::Within),
            (30.1, Side::Above),
            (29.0, Side::Above),
            (28.1, Side::Above),
            (28.0, Side::Within),
            (29.9, Side::Within),
            (31.0, Side::Above),
        ] {
            side = HOT.side(side, value);
            assert_eq!(side, now, "{value}");
        }
        let band = Limits { above: Some(8.0), below: Some(2.0), hysteresis: 1.0 };
        let mut side = Side::Within;
        for (value, now) in [(9.0, Side::Above), (1.0, Side::Below), (2.9, Side::Below), (3.0, Side::Within)] {
            side = band.side(side, value);
            assert_eq!(side, now, "{value}");
        }
    }

    proptest! {
        // Between two crossings in one direction the value was back by the hysteresis, and what lies beyond a limit counts.
        #[test]
        fn it_crosses_once_until_it_is_back(
            values in proptest::collection::vec(-50.0..50.0f64, 1..60),
            above in -10.0..40.0f64, width in 0.1..40.0f64, hysteresis in 0.0..20.0f64, both: bool,
        ) {
            let below = above - width;
            let limits = Limits { above: Some(above), below: both.then_some(below), hysteresis };
            let (mut side, mut back) = (Side::Within, true);
            for value in values {
                let now = limits.side(side, value);
                prop_assert_eq!(now == Side::Above && value > above, value > above);
                prop_assert_eq!(now == Side::Below && value < below, both && value < below);
                if value <= above - hysteresis {
                    back = true;
                }
                if now == Side::Above && side != Side::Above {
                    prop_assert!(back || side == Side::Below, "crossed twice");
                    back = false;
                }
                side = now;
            }
        }

        #[test]
        fn no_text_is_an_infinite_number(text in "[-+0-9.eE]{0,12}|(?s).{0,8}|1e[0-9]{1,5}") {
            if let Some(value) = number(&text) {
                prop_assert!(value.is_finite());
                prop_assert!(number(&rounded(value, 3)).is_some());
            }
        }
    }
}
