//! A row of the inbound queue: its stored form (in [`codec`]'s format), its decoded form for the relay, and what the relay
//! remembers of it in case that it must be sent again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::delivery::lanes::Memo;
use crate::delivery::routing::RouteState;
use crate::delivery::{Part, Reply, codec};
use crate::local::{Publication, Received, publication};
use crate::observe::activity::Verdict;
use crate::os::clock::{self, Stamp};
use crate::protocol::{Push, Uid};

/// What a row holds.
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
    /// Who is online, from `ham_user/states` (manual §5.10). It is queued among the pushes, so that neither overtakes the
    /// other.
    States {
        /// Each uid, and whether it is online.
        states: Vec<(Uid, bool)>,
    },
    /// A push that was set aside and is sent once more: what the broker refused of it.
    PushAgain {
        /// As before.
        id: [u8; 16],
        /// As before: by this it is late or not.
        at: Stamp,
        /// As before.
        #[serde(with = "codec::whole")]
        body: Bytes,
        /// What to send.
        refused: Refused,
    },
    /// The same of states: what is still true of them is published.
    StatesAgain {
        /// Each uid, and whether it was online.
        states: Vec<(Uid, bool)>,
    },
}

/// Which publishes of a push were refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The raw message, or the retained presence.
    pub raw: bool,
    /// The envelope.
    pub event: bool,
    /// The sender's last picture.
    pub picture: bool,
    /// Those of the routes of these names.
    pub routes: Vec<String>,
}

impl Refused {
    fn of(parts: &[&Part]) -> Self {
        let mut refused = Self::default();
        for Part { publication, route, .. } in parts {
            match route {
                Some(route) => refused.routes.push(route.name.clone()),
                None => match Form::of(publication) {
                    Form::Raw => refused.raw = true,
                    Form::Event => refused.event = true,
                    Form::Picture => refused.picture = true,
                },
            }
        }
        refused
    }

    /// Keeps what was refused. If there is no such publish any more (it is too late for the raw one, `mqtt.output` has
    /// changed), what there is instead stands for it.
    pub(super) fn retain_in(&self, parts: &mut Vec<Part>) {
        let wanted = |part: &Part| match Form::of(&part.publication) {
            Form::Raw => self.raw,
            Form::Event => self.event,
            Form::Picture => self.picture,
        };
        let is_picture = |part: &Part| Form::of(&part.publication) == Form::Picture;
        let gone = (self.raw || self.event) && !parts.iter().any(|part| wanted(part) && !is_picture(part));
        parts.retain(|part| wanted(part) || (gone && !is_picture(part)));
    }
}

/// In what form a push is published by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Event,
    Picture,
}

impl Form {
    /// Told by its type.
    fn of(publication: &Publication) -> Self {
        match publication.content_type {
            Some(publication::JSON) => Self::Event,
            Some(media) if media.starts_with("image/") => Self::Picture,
            _ => Self::Raw,
        }
    }
}

impl Record {
    /// A push accepted now.
    #[must_use]
    pub fn push(body: Bytes) -> Self {
        Self::Push { id: Ulid::generate().to_bytes(), at: Stamp::now(), body }
    }

    /// A push as a copy of the one that was accepted under this id, at this time.
    #[must_use]
    pub(super) fn copy_of(self, id: [u8; 16], at: Stamp) -> Self {
        match self {
            Self::Push { body, .. } => Self::Push { id, at, body },
            other => other,
        }
    }

    /// The row by which a row comes back, of which these parts were refused for good.
    #[must_use]
    pub fn again(self, refused: &[&Part]) -> Self {
        match self {
            Self::Push { id, at, body } | Self::PushAgain { id, at, body, .. } => {
                Self::PushAgain { id, at, body, refused: Refused::of(refused) }
            }
            Self::States { states } | Self::StatesAgain { states } => Self::StatesAgain { states },
        }
    }

    /// The bytes of the row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        /// At most: the variant, the id, the stamp, and the lengths.
        const BESIDE_THE_BODY: usize = 64;
        let body = if let Self::Push { body, .. } = self { body.len() } else { 0 };
        codec::encode_with_room(self, body + BESIDE_THE_BODY)
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
    /// What of it is sent, if it is sent once more.
    pub(super) again: Option<Refused>,
    /// What is answered when it is done with: because it fired no route, or by routes whose publishes were taken before.
    pub(super) replies: Vec<Reply>,
}

/// What became of a push, for the list of recent messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Late,
    NotAllowed,
    Stale,
    SetAside,
    Unsent,
}

impl Fate {
    pub(super) const fn describe(self) -> (Verdict, &'static str) {
        match self {
            Self::Delivered => (Verdict::Good, "delivered"),
            Self::Late => (Verdict::Odd, "too late: only as an event"),
            Self::NotAllowed => (Verdict::Odd, "not in inbound.allow_from: only as an event"),
            Self::Stale => (Verdict::Odd, "older than the last one: only as an event"),
            Self::SetAside => (Verdict::Bad, "refused by the broker: set aside"),
            Self::Unsent => (Verdict::Odd, "too old for its route: not sent"),
        }
    }
}

/// A decoded row.
pub enum Row {
    /// A push.
    Push(Box<Accepted>),
    /// Who is online.
    States(Vec<(Uid, bool)>),
    /// As it told earlier.
    StatesAgain(Vec<(Uid, bool)>),
}

impl Row {
    pub(super) fn decode(row: &[u8]) -> Result<Self, String> {
        match Record::decode(row).map_err(|error| error.to_string())? {
            Record::States { states } => Ok(Self::States(states)),
            Record::StatesAgain { states } => Ok(Self::StatesAgain(states)),
            Record::Push { id, at, body } => Ok(Self::push(id, at, &body, None)),
            Record::PushAgain { id, at, body, refused } => Ok(Self::push(id, at, &body, Some(refused))),
        }
    }

    fn push(id: [u8; 16], at: Stamp, body: &[u8], again: Option<Refused>) -> Self {
        let push = Push::decode(body).unwrap_or_else(|_| Push::unreadable(body));
        let received = Received { id: Ulid::from_bytes(id), received_at: clock::rfc3339(at.wall_ms()) };
        Self::Push(Box::new(Accepted { push, received, at, fate: Fate::Delivered, again, replies: Vec::new() }))
    }

    /// The sender, by whom lanes are made. Rows without a sender share one lane.
    pub(super) fn sender(&self) -> Option<&Uid> {
        match self {
            Self::Push(accepted) => accepted.push.message.from_uid(),
            Self::States(_) | Self::StatesAgain(_) => None,
        }
    }
}

/// What is remembered of a row until it is sent again.
#[derive(Debug, Default)]
pub struct Seen {
    /// In what form it was last sent and counted; none if it was not sent yet.
    pub(super) sent: Option<SentAs>,
    /// Its raw message is too old.
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
    /// Those of them whose publishes the broker has.
    pub(super) settled_routes: Vec<Arc<RouteState>>,
    /// Their answers.
    pub(super) replies: Vec<Reply>,
    /// The topics of its own publishes that the broker has.
    pub(super) settled: Vec<String>,
}

impl Memo for Seen {
    fn settle(&mut self, taken: Vec<Part>, late: bool) {
        self.too_late |= late;
        if taken.is_empty() {
            return;
        }
        let more = self.more.get_or_insert_default();
        for Part { publication, route, reply } in taken {
            more.replies.extend(reply.map(|reply| *reply));
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
            more.replies.clear();
        }
    }
}

impl Seen {
    pub(super) fn is_settled(&self, Part { publication, route, .. }: &Part) -> bool {
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
        assert_eq!(Record::decode(&push.encode()).unwrap(), push);
        let states = Record::States { states: vec![("413".parse().unwrap(), true)] };
        assert_eq!(Record::decode(&states.encode()).unwrap(), states);
    }

    fn part(topic: &str, json: bool) -> Part {
        let publication = Publication::raw(topic.to_owned(), "x");
        let publication = if json { Publication::json(topic.to_owned(), b"{}".to_vec()) } else { publication };
        let content_type = if topic.contains("picture") { Some("image/png") } else { publication.content_type };
        Part::plain(Publication { content_type, ..publication })
    }

    #[test]
    fn what_was_refused_is_sent_again_and_nothing_else() {
        let picture = || part("ilink/picture/1", false);
        let both = || vec![part("ilink/recv/user/1/text", false), part("ilink/event/text", true), picture()];
        let late = || vec![part("ilink/event/text", true), picture()];
        let left = |refused: &[usize], mut parts: Vec<Part>| {
            let all = both();
            let refused: Vec<_> = refused.iter().map(|n| &all[*n]).collect();
            Refused::of(&refused).retain_in(&mut parts);
            parts.into_iter().map(|part| part.publication.topic).collect::<Vec<_>>()
        };
        assert_eq!(left(&[0], both()), ["ilink/recv/user/1/text"]);
        assert_eq!(left(&[1], both()), ["ilink/event/text"]);
        assert_eq!(left(&[0, 1], both()).len(), 2);
        assert_eq!(left(&[0], late()), ["ilink/event/text"], "too late for the raw one: it is told as an event");
        assert_eq!(left(&[2], both()), ["ilink/picture/1"]);
        assert_eq!(left(&[0, 2], late()).len(), 2);
        assert_eq!(left(&[], both()), [""; 0], "only a route's was refused");
    }

    #[test]
    fn a_row_comes_back_as_what_it_was() {
        let push = Record::push(Bytes::from_static(b"{}"));
        let Record::Push { id, at, body } = push.clone() else { panic!() };
        let (raw, event) = (part("ilink/recv/user/1/text", false), part("ilink/event/text", true));
        let again = push.again(&[&raw, &event]);
        let refused = Refused { raw: true, event: true, ..Refused::default() };
        assert_eq!(again, Record::PushAgain { id, at, body: body.clone(), refused });
        assert_eq!(Record::decode(&again.encode()).unwrap(), again);
        // Refused once more, it is what was refused this time.
        let refused = Refused { event: true, ..Refused::default() };
        assert_eq!(again.again(&[&event]), Record::PushAgain { id, at, body, refused });
        let states = vec![("413".parse().unwrap(), true)];
        let again = Record::States { states: states.clone() }.again(&[&raw]);
        assert_eq!(again, Record::StatesAgain { states });
        assert_eq!(again.clone().again(&[&raw]), again);
    }

    #[test]
    fn a_body_lies_in_its_row_as_any_sequence_of_bytes_does() {
        #[derive(serde::Serialize)]
        enum Plain {
            Push { id: [u8; 16], at: Stamp, body: Vec<u8> },
        }
        // Variant, id, stamp; then the length and the bytes.
        let mut row = Record::push(Bytes::from_static(b"{}")).encode();
        assert_eq!(row.split_off(row.len() - 3), b"\x02{}");
        let (id, at) = ([7; 16], Stamp::now());
        let body = vec![0, 128, 255];
        let plain = codec::encode(&Plain::Push { id, at, body: body.clone() });
        assert_eq!(Record::decode(&plain).unwrap(), Record::Push { id, at, body: body.clone().into() });
        assert_eq!(Record::Push { id, at, body: body.into() }.encode(), plain);
    }

    #[test]
    fn a_row_is_read_by_later_versions() {
        let row = b"\x01\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x82\xd5\xd9\xa1\xaf\xe1\x9b\xf6-\xbc\xfb\xe2\x02\x9c\xed\xc8\x8b\xa34\x02{}";
        let Record::Push { id, body, .. } = Record::decode(row).unwrap() else { panic!() };
        assert_eq!((id, &body[..]), ([7; 16], &b"{}"[..]));
        assert_eq!(Record::decode(row).unwrap().encode(), row);
    }
}
