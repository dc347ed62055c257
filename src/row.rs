//! The bytes of a spool row: a version of the layout, then the value in postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// The bytes of a row.
///
/// # Errors
/// Only if serialisation itself fails, which no value of the rows' types makes it do.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(value, vec![VERSION])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_an_error_not_a_guess() {
        let mut bytes = encode(&"value").unwrap();
        assert_eq!(decode::<String>(&bytes).unwrap(), "value");
        bytes[0] = VERSION + 1;
        assert!(decode::<String>(&bytes).is_err());
        assert!(decode::<String>(&[]).is_err());
    }
}
