//! A row of the inbound queue: its bytes (by [`codec`]), and how the relay sees it once it is decoded, with what is remembered
//! of it should it be sent again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::delivery::lanes::Memo;
use crate::delivery::routing::RouteState;
use crate::delivery::{Part, codec};
use crate::local::Received;
use crate::observe::activity::Verdict;
use crate::os::clock::{self, Stamp};
use crate::protocol::{Push, Uid};

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

/// A push decoded from its row.
pub struct Accepted {
    pub(super) push: Push,
    pub(super) received: Received,
    pub(super) at: Stamp,
    pub(super) fate: Fate,
}

/// What was published of a push, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Late,
    NotAllowed,
    Stale,
    SetAside,
}

impl Fate {
    pub(super) const fn describe(self) -> (Verdict, &'static str) {
        match self {
            Self::Delivered => (Verdict::Good, "delivered"),
            Self::Late => (Verdict::Odd, "too late: only as an event"),
            Self::NotAllowed => (Verdict::Odd, "not in inbound.allow_from: only as an event"),
            Self::Stale => (Verdict::Odd, "older than the last one: only as an event"),
            Self::SetAside => (Verdict::Bad, "refused by the broker: set aside"),
        }
    }
}

/// What a row of the queue says.
pub enum Row {
    /// A push.
    Push(Box<Accepted>),
    /// Who is online, as iLink told.
    States(Vec<(Uid, bool)>),
}

impl Row {
    pub(super) fn decode(row: &[u8]) -> Result<Self, String> {
        match Record::decode(row).map_err(|error| error.to_string())? {
            Record::States { states } => Ok(Self::States(states)),
            Record::Push { id, at, body } => {
                let push = Push::decode(&body).unwrap_or_else(|_| Push::unreadable(&body));
                let received = Received { id: Ulid::from_bytes(id), received_at: clock::rfc3339(at.wall_ms()) };
                Ok(Self::Push(Box::new(Accepted { push, received, at, fate: Fate::Delivered })))
            }
        }
    }

    /// Whose lane it goes by. What has no sender shares one.
    pub(super) fn sender(&self) -> Option<&Uid> {
        match self {
            Self::Push(accepted) => accepted.push.message.from_uid(),
            Self::States(_) => None,
        }
    }
}

/// What is remembered of a row that was sent.
#[derive(Debug, Default)]
pub struct Seen {
    /// As what it was sent, and counted, last; none if it never was.
    pub(super) sent: Option<SentAs>,
    /// Its raw message's time has passed.
    pub(super) too_late: bool,
    pub(super) more: Option<Box<More>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentAs {
    pub(super) late: bool,
    pub(super) stale: bool,
}

#[derive(Debug, Default)]
pub(super) struct More {
    /// The routes that it fired.
    pub(super) fired: Vec<Arc<RouteState>>,
    /// Of these, whose publishes are settled.
    pub(super) settled_routes: Vec<Arc<RouteState>>,
    /// The topics of its own publishes that are.
    pub(super) settled: Vec<String>,
}

impl Memo for Seen {
    fn settle(&mut self, taken: Vec<Part>, late: bool) {
        self.too_late |= late;
        if taken.is_empty() {
            return;
        }
        let more = self.more.get_or_insert_default();
        for Part { publication, route } in taken {
            match route {
                Some(route) => more.settled_routes.push(route),
                None => more.settled.push(publication.topic),
            }
        }
    }

    fn unsettle(&mut self) {
        if let Some(more) = &mut self.more {
            more.settled.clear();
            more.settled_routes.clear();
        }
    }
}

impl Seen {
    pub(super) fn is_settled(&self, Part { publication, route }: &Part) -> bool {
        self.more.as_ref().is_some_and(|more| match route {
            Some(route) => more.settled_routes.iter().any(|settled| Arc::ptr_eq(settled, route)),
            None => more.settled.contains(&publication.topic),
        })
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
