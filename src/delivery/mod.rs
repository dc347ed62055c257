//! Rows of the spool on their way to the broker: order and retry, the same for what iLink pushed and for results.
//!
//! A row is published as one or more *parts*. [`hand_over`] gives them to the link, [`settle`] waits for what becomes of all;
//! [`lanes`] say which rows may go when, what is to be sent again, and when a row is given up. The [`courier`] puts it to work.
//! What the broker refuses for good goes to the set-aside store ([`refused`]).

pub mod codec;
pub mod courier;
pub mod lanes;
pub mod refused;
pub mod routing;

use std::sync::Arc;

use crate::delivery::routing::RouteState;
use crate::local::Publication;
use crate::mqtt::{Completion, Delivery, ForNow, Handling, Publisher, Refusal};

/// One publish of a row.
#[derive(Debug)]
pub struct Part {
    /// What.
    pub publication: Publication,
    /// Whose it is, if it is a route's.
    pub route: Option<Arc<RouteState>>,
}

/// A part that the link has, with what will tell its fate.
#[derive(Debug)]
pub struct Sent {
    part: Part,
    completion: Completion,
    taken: bool,
}

/// What became of the parts of a row.
#[derive(Debug)]
pub enum Settled {
    /// All of them are done with.
    All {
        /// Refused for good.
        refused: Vec<(Part, Refusal)>,
        /// Whether the broker took any.
        acked: bool,
    },
    /// A raw message's time has passed, or the row was wanted back: it is to be sent again.
    Again {
        /// What the broker took.
        taken: Vec<Part>,
        /// Whether it is too late for the raw message.
        late: bool,
    },
    /// One was refused for now.
    ForNow {
        /// What the broker took.
        taken: Vec<Part>,
        /// All the others.
        left: Vec<Part>,
        /// Why.
        why: ForNow,
    },
    /// The link has stopped.
    Stopped,
}

/// Hands the parts of a row to the link: in the order of the calls, if the next one waits for this one.
///
/// Cancel-safe: what was not handed over is dropped.
pub async fn hand_over(publisher: &Publisher, parts: Vec<Part>, handling: &Handling) -> Vec<Sent> {
    let mut sent = Vec::with_capacity(parts.len());
    for part in parts {
        let completion = publisher.publish_as(part.publication.clone(), handling.clone()).await;
        sent.push(Sent { part, completion, taken: false });
    }
    sent
}

/// Waits for the fate of each. As soon as one must be sent again, what is not on the wire is withdrawn.
pub async fn settle(mut sent: Vec<Sent>, handling: &Handling) -> Settled {
    let (mut again, mut late, mut acked, mut why, mut refusals) = (false, false, false, None, Vec::new());
    for (number, Sent { part, completion, taken }) in sent.iter_mut().enumerate() {
        match completion.await {
            Delivery::Acked { .. } => (acked, *taken) = (true, true),
            Delivery::Refused(refusal) => refusals.push((number, refusal)),
            Delivery::ForNow(for_now) => {
                handling.withdraw();
                why.get_or_insert(for_now);
            }
            Delivery::Expired => {
                if let Some(route) = &part.route {
                    // Its own time has passed: that is all there is to say of it.
                    route.counters.late.add();
                    *taken = true;
                } else {
                    handling.withdraw();
                    (again, late) = (true, true);
                }
            }
            Delivery::Withdrawn => again = true,
            Delivery::Closed => return Settled::Stopped,
        }
    }
    if !again && why.is_none() {
        if refusals.is_empty() {
            return Settled::All { refused: Vec::new(), acked };
        }
        let mut parts: Vec<_> = sent.into_iter().map(|sent| Some(sent.part)).collect();
        let part = |(number, refusal)| Some((parts.get_mut::<usize>(number)?.take()?, refusal));
        return Settled::All { refused: refusals.into_iter().filter_map(part).collect(), acked };
    }
    let (taken, left): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.taken);
    let parts = |sent: Vec<Sent>| sent.into_iter().map(|sent| sent.part).collect();
    match why {
        // What was refused for good is left, too: it will be refused again, and set aside when the rest is settled.
        Some(why) if !late => Settled::ForNow { taken: parts(taken), left: parts(left), why },
        _ => Settled::Again { taken: parts(taken), late },
    }
}
