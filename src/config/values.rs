//! How a value of each type is read and shown, whatever its key.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::{Num, Value};
use tracing::level_filters::LevelFilter;

use crate::protocol::Accepted;

/// What is shown in a secret's place.
pub(super) const MASK: &str = "********";

/// A value as it was written.
pub(super) enum Given<'a> {
    /// In a file, where TOML has types.
    Typed(&'a Value),
    /// In a variable or as a default: the setting's type says what the text means.
    Untyped(&'a str),
}

/// Something a key can be set to.
pub(super) trait Setting: Sized {
    /// Whether the text may hold a password, and so must not be repeated in an error.
    fn may_hold_secret(_: &str) -> bool {
        false
    }

    /// Reads it; the error says what is allowed.
    fn read(given: &Given<'_>) -> Result<Self, String>;

    /// As TOML.
    fn show(&self) -> String;
}

impl<'a> Given<'a> {
    /// A string.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self {
            Self::Typed(value) => value.as_str(),
            Self::Untyped(text) => Some(text),
        }
    }

    /// A string, or an integer's digits.
    pub(super) fn text_or_digits(&self) -> Option<String> {
        self.text().map(str::to_owned).or_else(|| self.integer().map(|number| number.to_string()))
    }

    /// An integer.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Typed(Value::Num(_, Num::F32(_) | Num::F64(_))) => None,
            Self::Typed(value) => value.to_i128(),
            Self::Untyped(text) => text.trim().parse().ok(),
        }
    }

    /// As it was written, more or less, for an error.
    pub(super) fn show(&self) -> String {
        const LONGEST: usize = 80;
        match self {
            Self::Untyped(text) => clip(&quoted(text), LONGEST),
            Self::Typed(Value::String(_, text)) => clip(&quoted(text), LONGEST),
            Self::Typed(Value::Bool(_, yes)) => yes.to_string(),
            Self::Typed(Value::Num(_, number)) => number
                .to_i128()
                .map(|number| number.to_string())
                .or_else(|| number.to_f64().map(|number| number.to_string()))
                .unwrap_or_default(),
            Self::Typed(Value::Array(..)) => "[…]".to_owned(),
            Self::Typed(_) => "{…}".to_owned(),
        }
    }
}

fn clip(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// As a TOML string.
pub(super) fn quoted(text: &str) -> String {
    use std::fmt::Write;

    let mut shown = String::from("\"");
    for character in text.chars() {
        let _ = match character {
            '"' | '\\' => write!(shown, "\\{character}"),
            '\n' => write!(shown, "\\n"),
            control if control.is_control() => write!(shown, "\\u{:04X}", u32::from(control)),
            other => write!(shown, "{other}"),
        };
    }
    shown + "\""
}

/// Settings that are a string which parses, or one of a few words.
macro_rules! textual {
    ($($type:ty: $wanted:literal;)*) => {$(
        impl Setting for $type {
            fn read(given: &Given<'_>) -> Result<Self, String> {
                given.text().and_then(|text| text.parse().ok()).ok_or_else(|| $wanted.to_owned())
            }

            fn show(&self) -> String {
                quoted(&self.to_string().to_ascii_lowercase())
            }
        }
    )*};
}

textual! {
    IpAddr: "it must be an address, such as \"172.30.32.2\"";
    SocketAddr: "it must be an address and a port, such as \"127.0.0.1:8788\" or \"[::]:8787\"";
    Accepted: "it must be \"any\", \"params\", \"plain\" or \"chars\"";
    LevelFilter: "it must be \"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\"";
}

impl Setting for String {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given.text().map(str::to_owned).ok_or_else(|| "it must be a string, in quotes".to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given.text().filter(|path| !path.is_empty()).map(Self::from).ok_or_else(|| "it must be a path".to_owned())
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for bool {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        match given {
            Given::Typed(value) => value.to_bool(),
            Given::Untyped(text) => text.parse().ok(),
        }
        .ok_or_else(|| "it must be true or false".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for i64 {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given
            .integer()
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| "it must be a whole number".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let zero = given.integer() == Some(0);
        let read = if zero { Some(Self::ZERO) } else { given.text().and_then(|t| humantime::parse_duration(t).ok()) };
        read.ok_or_else(|| "it must be a duration, such as \"5s\", \"2m\" or \"1h 30m\"".to_owned())
    }

    fn show(&self) -> String {
        quoted(&humantime::format_duration(*self).to_string())
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl Size {
    /// As a length in memory.
    pub(super) fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Setting for Size {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let bytes = given.integer().and_then(|bytes| u64::try_from(bytes).ok());
        bytes.or_else(|| parse_size(given.text()?)).map(Self).ok_or_else(|| {
            "it must be a size, such as \"512MiB\", \"256KiB\" or \"10MB\", or a number of bytes".to_owned()
        })
    }

    fn show(&self) -> String {
        let unit = UNITS.iter().take(3).find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        quoted(&unit.map_or_else(|| format!("{}B", self.0), |(name, bytes)| format!("{}{name}", self.0 / bytes)))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim_start();
    let (_, bytes) =
        UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit) || (unit.is_empty() && *name == "B"))?;
    digits.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Settings that are one of a few words, which are also their text form.
macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal),+ })*) => {$(
        impl $type {
            /// The word in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl $crate::config::values::Setting for $type {
            fn read(given: &$crate::config::values::Given<'_>) -> Result<Self, String> {
                match given.text() {
                    $(Some($word) => Ok(Self::$variant),)+
                    _ => Err(format!("it must be {}", [$(concat!('"', $word, '"')),+].join(" or "))),
                }
            }

            fn show(&self) -> String {
                $crate::config::values::quoted(self.as_str())
            }
        }
    )*};
}
pub(super) use words;

/// Refuses what is outside a range.
pub(super) fn within<T: Setting + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if range.contains(value) {
            Ok(())
        } else {
            Err(format!("it must be between {} and {}", range.start().show(), range.end().show()))
        }
    }
}

/// Refuses nothing more than the type does.
#[expect(clippy::unnecessary_wraps, reason = "checks have one signature")]
pub(super) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}
