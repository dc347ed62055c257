//! A row of the inbound queue as the relay sees it, and what is remembered of it should it be sent again.

use std::sync::Arc;

use ulid::Ulid;

use super::record::Record;
use crate::delivery::Part;
use crate::delivery::lanes::Memo;
use crate::delivery::routing::RouteState;
use crate::local::Received;
use crate::observe::activity::Verdict;
use crate::os::clock::{self, Stamp};
use crate::protocol::{Push, Uid};

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
    Push(Box<Accepted>),
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
