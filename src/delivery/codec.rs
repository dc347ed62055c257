//! The format of a spool row: one byte for its version, then the value in postcard.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// The bytes of a row.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    encode_with_room(value, 0)
}

/// The same. `room` is how many bytes it will probably be: a row that grows is copied.
pub fn encode_with_room<T: Serialize>(value: &T, room: usize) -> Vec<u8> {
    let mut row = Vec::with_capacity(room);
    row.push(VERSION);
    // No value of the rows' types fails to serialise. An empty row would count as damaged.
    postcard::serialize_with_flavor(value, Grown(row)).unwrap_or_default()
}

/// What is serialised goes to its end. postcard's own would append byte by byte.
struct Grown(Vec<u8>);

impl Flavor for Grown {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The value in a row's bytes.
///
/// # Errors
/// If another version of the bridge wrote it, or the bytes are damaged.
pub fn decode<T: DeserializeOwned>(data: &[u8]) -> Result<T, postcard::Error> {
    match data.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// For a field of bytes: `#[serde(with = "codec::whole")]` reads and writes it as one piece, where serde takes a `Vec<u8>` byte
/// by byte. The row's bytes are the same.
pub mod whole {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
        }
        deserializer.deserialize_bytes(Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_an_error_not_a_guess() {
        let mut bytes = encode(&"value");
        assert_eq!(decode::<String>(&bytes).unwrap(), "value");
        bytes[0] = VERSION + 1;
        assert!(decode::<String>(&bytes).is_err());
        assert!(decode::<String>(&[]).is_err());
    }
}
