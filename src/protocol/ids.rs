//! The identifiers of the manual (§1.1, §4, §5): users, groups and topic subjects.
//!
//! All three are opaque, non-empty strings: the manual's own samples hold digits, hyphens and words. `local` decides
//! whether one fits a topic level, and how it is escaped there.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::{Serialize, Serializer};

/// An identifier was the empty string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id must not be empty")]
pub struct EmptyId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The identifier as iLink writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = EmptyId;

            fn try_from(id: String) -> Result<Self, EmptyId> {
                if id.is_empty() { Err(EmptyId) } else { Ok(Self(id)) }
            }
        }

        impl FromStr for $name {
            type Err = EmptyId;

            fn from_str(id: &str) -> Result<Self, EmptyId> {
                Self::try_from(id.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        /// From a string, or in a format that describes itself from an integer too, which becomes its text. A number that
        /// is no 64-bit integer is refused here rather than taken with other digits than were written.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = if deserializer.is_human_readable() {
                    deserializer.deserialize_any(IdText)?
                } else {
                    String::deserialize(deserializer)?
                };
                Self::try_from(text).map_err(D::Error::custom)
            }
        }
    };
}

id! {
    /// A user: a person, a device or the bridge itself ("UID", §1.1).
    Uid
}
id! {
    /// A group of users (§5.4).
    GroupId
}
id! {
    /// The name of a topic that users publish to and subscribe to (§4.4, §5.13).
    Subject
}

impl Subject {
    /// Whether iLink lets anybody publish or subscribe to it: no `#` and no `+` (§5.13), and no NUL, which no MQTT topic
    /// can hold.
    #[must_use]
    pub fn is_publishable(&self) -> bool {
        !self.0.contains(['#', '+', '\0'])
    }
}

/// Reads a string or an integer as the text of an identifier.
struct IdText;

impl Visitor<'_> for IdText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a string or an integer")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_id_does_not_exist() {
        assert_eq!("".parse::<Uid>(), Err(EmptyId));
        assert_eq!(GroupId::try_from(String::new()), Err(EmptyId));
        assert!(serde_json::from_str::<Subject>(r#""""#).is_err());
        assert!(postcard::from_bytes::<Uid>(&[0]).is_err());
    }

    #[test]
    fn a_json_number_is_its_text() {
        assert_eq!(serde_json::from_str::<Uid>("413").unwrap().as_str(), "413");
        assert_eq!(serde_json::from_str::<Uid>("-7").unwrap().as_str(), "-7");
        assert_eq!(serde_json::from_str::<Uid>("18446744073709551615").unwrap().as_str(), "18446744073709551615");
        for refused in ["1.50", "18446744073709551616", "true", "null", "[]"] {
            assert!(serde_json::from_str::<Uid>(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_string_is_kept_as_it_is() {
        let id: Uid = serde_json::from_str(r#"" 0413 ""#).unwrap();
        assert_eq!(id.as_str(), " 0413 ");
        assert_eq!(id.to_string(), " 0413 ");
        assert_eq!(serde_json::to_string(&id).unwrap(), r#"" 0413 ""#);
    }

    #[test]
    fn the_spool_reads_back_what_it_wrote() {
        let id: GroupId = "4cdad356-85b4-008627".parse().unwrap();
        assert_eq!(postcard::from_bytes::<GroupId>(&postcard::to_stdvec(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn subjects_with_wildcards_are_not_publishable() {
        assert!("home/lamp".parse::<Subject>().unwrap().is_publishable());
        for subject in ["home/#", "+/lamp", "a\0b"] {
            assert!(!subject.parse::<Subject>().unwrap().is_publishable(), "{subject:?}");
        }
    }
}
