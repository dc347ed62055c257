//! Brings rows of the spool to the broker, in order, and tries again. Both directions use it: pushes from iLink, and results of
//! commands.
//!
//! A row is published as one or more *parts*. [`hand_over`] gives them to the link, and [`settle`] waits for the outcome of all
//! of them. [`lanes`] decides which row may be sent when, what is to be sent again, and when a row is given up; the [`courier`]
//! does what it decides. What the broker refuses for good goes to the set-aside store ([`refused`]).

pub mod codec;
pub mod courier;
pub mod lanes;
pub mod refused;
pub mod routing;

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::delivery::routing::RouteState;
use crate::local::Publication;
use crate::mqtt::{Completion, Delivery, ForNow, Handling, Publisher, Refusal};
use crate::protocol::Call;

/// One of the publishes that a row is made of.
#[derive(Debug)]
pub struct Part {
    /// The publish.
    pub publication: Publication,
    /// The route that made it, if one did.
    pub route: Option<Arc<RouteState>>,
    /// What is answered once the broker has taken it.
    pub reply: Option<Box<Reply>>,
}

impl Part {
    /// A publish that is nobody's in particular.
    #[must_use]
    pub fn plain(publication: Publication) -> Self {
        Self { publication, route: None, reply: None }
    }
}

/// What a route answers to whoever wrote a message.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Made of the message's id, so that an answer that is given again after a crash is told by it.
    pub id: [u8; 16],
    /// The topic of the message under `recv/`.
    pub recv: String,
    /// The message to iLink.
    pub call: Call,
    /// Whose answer it is.
    pub route: Arc<RouteState>,
}

/// Where answers go.
pub trait Answers: Debug + Send + Sync {
    /// Makes an answer durable, or counts it as failed; false if neither can be, because the store has failed.
    fn answer(&self, reply: Reply) -> BoxFuture<'_, bool>;
}

/// A part that was handed to the link and whose outcome is awaited.
#[derive(Debug)]
pub struct Sent {
    part: Part,
    completion: Completion,
    taken: bool,
}

/// The outcome of a row's parts.
#[derive(Debug)]
pub enum Settled {
    /// None has to be sent again.
    All {
        /// Those that were refused for good.
        refused: Vec<(Part, Refusal)>,
        /// Whether the broker took any of them.
        acked: bool,
        /// What is to be answered.
        replies: Vec<Reply>,
    },
    /// The row must be sent again: its raw message has become too old, or it was withdrawn.
    Again {
        /// The parts that the broker took.
        taken: Vec<Part>,
        /// Whether the raw message is too old.
        late: bool,
    },
    /// One was refused for now.
    ForNow {
        /// The parts that the broker took.
        taken: Vec<Part>,
        /// All other parts.
        left: Vec<Part>,
        /// Why.
        why: ForNow,
    },
    /// The link has stopped.
    Stopped,
}

/// Hands the parts of a row to the link. They keep the order of the calls if each call waits for the one before.
///
/// Cancel-safe: parts that were not handed over are dropped.
pub async fn hand_over(publisher: &Publisher, parts: Vec<Part>, handling: &Handling) -> Vec<Sent> {
    let mut sent = Vec::with_capacity(parts.len());
    for part in parts {
        let completion = publisher.publish_as(part.publication.clone(), handling.clone()).await;
        sent.push(Sent { part, completion, taken: false });
    }
    sent
}

/// Waits for the outcome of all parts. As soon as one must be sent again, those that are not in flight are withdrawn.
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
                    // A route's publish that is too old is only counted.
                    route.counters.late.add();
                    *taken = true;
                    part.reply = None;
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
        let took = sent.iter_mut().filter(|sent| sent.taken);
        let replies = took.filter_map(|sent| sent.part.reply.take()).map(|reply| *reply).collect();
        if refusals.is_empty() {
            return Settled::All { refused: Vec::new(), acked, replies };
        }
        let mut parts: Vec<_> = sent.into_iter().map(|sent| Some(sent.part)).collect();
        let part = |(number, refusal)| Some((parts.get_mut::<usize>(number)?.take()?, refusal));
        return Settled::All { refused: refusals.into_iter().filter_map(part).collect(), acked, replies };
    }
    let (taken, left): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.taken);
    let parts = |sent: Vec<Sent>| sent.into_iter().map(|sent| sent.part).collect();
    match why {
        // `left` includes what was refused for good: it will be refused again, and set aside once the rest is done.
        Some(why) if !late => Settled::ForNow { taken: parts(taken), left: parts(left), why },
        _ => Settled::Again { taken: parts(taken), late },
    }
}
