//! What an inbound row of the spool holds, and its bytes.
//!
//! How it becomes bytes is [`codec`]'s.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::delivery::codec;
use crate::os::clock::Stamp;
use crate::protocol::Uid;

/// One durable thing on its way to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A push, byte for byte as iLink sent it.
    Push {
        /// The bridge's id for it, the same in every copy.
        id: [u8; 16],
        /// When it was accepted.
        at: Stamp,
        /// The request body.
        #[serde(with = "codec::whole")]
        body: Bytes,
    },
    /// Who is online, as `ham_user/states` told (manual §5.10). Queued between the pushes, so that neither overtakes the other.
    States {
        /// Each uid, and whether it is online.
        states: Vec<(Uid, bool)>,
    },
}

impl Record {
    /// A push accepted now.
    #[must_use]
    pub fn push(body: Bytes) -> Self {
        Self::Push { id: Ulid::generate().to_bytes(), at: Stamp::now(), body }
    }

    /// The bytes of the row.
    ///
    /// # Errors
    /// Only if serialisation itself fails, which no value of this type makes it do.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        codec::encode(self)
    }

    /// The record in a row's bytes.
    ///
    /// # Errors
    /// If another version of the bridge wrote it, or the bytes are damaged.
    pub fn decode(data: &[u8]) -> Result<Self, postcard::Error> {
        codec::decode(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_as_they_were_written() {
        let push = Record::push(Bytes::from_static(b"{}"));
        assert_eq!(Record::decode(&push.encode().unwrap()).unwrap(), push);
        let states = Record::States { states: vec![("413".parse().unwrap(), true)] };
        assert_eq!(Record::decode(&states.encode().unwrap()).unwrap(), states);
    }

    #[test]
    fn a_body_lies_in_its_row_as_earlier_versions_wrote_it() {
        #[derive(Serialize)]
        enum Earlier {
            Push { id: [u8; 16], at: Stamp, body: Vec<u8> },
        }
        // Variant, id, stamp; then the length and the bytes, as of any sequence of bytes.
        let mut row = Record::push(Bytes::from_static(b"{}")).encode().unwrap();
        assert_eq!(row.split_off(row.len() - 3), b"\x02{}");
        let (id, at) = ([7; 16], Stamp::now());
        let body = vec![0, 128, 255];
        let earlier = codec::encode(&Earlier::Push { id, at, body: body.clone() }).unwrap();
        assert_eq!(Record::decode(&earlier).unwrap(), Record::Push { id, at, body: body.into() });
    }
}
