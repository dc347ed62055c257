//! The relay loop: takes durable pushes in order, publishes them, and completes each when all its publishes are acknowledged.
//!
//! ```text
//!  spool ──1 read in order──► render ──2 publish──► link ──3 PUBACK──► 4 complete ──► spool
//!                               ▲                     │ deadline passed
//!                               └──── 3a as late ◄────┘
//! ```
//!
//! Publishes are handed to the link in the order of the spool and many are under way at once; the link keeps the order on
//! the wire. A row is completed when each publish of it was acknowledged, or refused for good and set aside. What is not
//! completed when the process ends is delivered again by the next run, with the same id.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use ulid::Ulid;

use super::presence::PresenceBook;
use super::record::Record;
use super::retained::Retained;
use super::routed::routed;
use crate::clock::{self, Stamp};
use crate::counters::Counters;
use crate::local::{Base, Flags, Output, Publication, Received, publications};
use crate::mqtt::{Completion, Delivery, LinkState, Publisher};
use crate::progress::Progress;
use crate::protocol::{Message, Push, Uid};
use crate::routing::{RouteState, Routing};
use crate::set_aside::SetAside;
use crate::spool::{Queue, Spool, SpoolError};
use crate::trail::{Passed, Verdict, Way, shown};

/// Rows read from the spool at once, and their bytes: what the loop holds in memory before the link takes it.
const READ_ROWS: usize = 128;
const READ_BYTES: usize = 512 * 1024;
/// Rows whose publishes are not all acknowledged yet. The link's window is smaller; this keeps it fed.
const UNDER_WAY: usize = 256;
/// The same in bytes of their rows, for large messages; one row always fits.
const UNDER_WAY_BYTES: usize = 2 * 1024 * 1024;
/// How long a stopping loop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(3);

/// What the loop needs to render a push.
pub struct RelayConfig {
    /// The base topic.
    pub base: Base,
    /// Ours: what it says fires no route.
    pub uid: Uid,
    /// Which forms are published.
    pub output: Output,
    /// A raw message older than this is late; none means no limit.
    pub raw_max_age: Option<Duration>,
}

/// What can change while running.
#[derive(Debug, Clone, Default)]
pub struct RelaySettings {
    /// Senders whose messages are commands; empty means all.
    pub allow_from: HashSet<Uid>,
    /// `ilink.subscribe.presence`.
    pub presence: HashSet<Uid>,
}

/// The loop's surroundings.
pub struct Relay {
    /// How to render.
    pub config: RelayConfig,
    /// What can change.
    pub settings: watch::Receiver<Arc<RelaySettings>>,
    /// The routes in force.
    pub routing: watch::Receiver<Arc<Routing>>,
    /// Where from.
    pub spool: Spool,
    /// Where to.
    pub publisher: Publisher,
    /// The link's state: nothing is published while it is not connected.
    pub link: watch::Receiver<LinkState>,
    /// For what is refused.
    pub set_aside: SetAside,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Whether the loop is stuck.
    pub progress: Progress,
}

/// A push decoded from its row.
struct Accepted {
    push: Push,
    received: Received,
    at: Stamp,
    fate: Fate,
}

/// What was published of a push, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Late,
    NotAllowed,
    Stale,
}

impl Fate {
    const fn describe(self) -> (Verdict, &'static str) {
        match self {
            Self::Delivered => (Verdict::Good, "delivered"),
            Self::Late => (Verdict::Odd, "too late: only as an event"),
            Self::NotAllowed => (Verdict::Odd, "not in inbound.allow_from: only as an event"),
            Self::Stale => (Verdict::Odd, "older than the last one: only as an event"),
        }
    }
}

/// A publish that the link has, and what it was.
struct Sent {
    publication: Publication,
    /// Whose it is, if it is a route's.
    route: Option<Arc<RouteState>>,
    completion: Completion,
}

impl Relay {
    /// Runs until `stop`, then waits briefly for what is under way.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SpoolError> {
        let relay = Arc::new(self);
        let (mut settings, mut link) = (relay.settings.clone(), relay.link.clone());
        let configured = settings.borrow_and_update().presence.clone();
        let book = PresenceBook::open(relay.spool.clone(), configured.clone()).await?;
        let mut retained = Retained::new(book, relay.config.base.clone(), relay.publisher.clone());
        let mut appended = relay.spool.appended(Queue::Inbound);
        let mut under_way = FuturesUnordered::new();
        let (mut bytes, mut cursor) = (0, 0);
        retained.configure(configured);
        while !stop.is_cancelled() {
            relay.progress.beat();
            appended.mark_unchanged();
            // What cannot be published now is not rendered now: whether it is late is judged when it can be.
            let has_room = bytes < UNDER_WAY_BYTES && link.borrow().connected;
            let room = if has_room { UNDER_WAY - under_way.len().min(UNDER_WAY) } else { 0 };
            let rows = match room {
                0 => Vec::new(),
                room => relay.spool.read_after(Queue::Inbound, cursor, room.min(READ_ROWS), READ_BYTES).await?,
            };
            relay.progress.rest();
            if rows.is_empty() {
                // Every arm only observes (a state, a number, a token), or takes one finished delivery out of the set.
                tokio::select! {
                    Some(done) = under_way.next() => bytes -= done,
                    Ok(()) = appended.changed(), if room > 0 => {}
                    Ok(()) = settings.changed() => {
                        let configured = settings.borrow_and_update().presence.clone();
                        retained.configure(configured);
                    }
                    Ok(()) = link.changed() => {}
                    () = retained.cleared() => {}
                    () = stop.cancelled() => {}
                }
            }
            'handing_over: for row in rows {
                cursor = row.seq;
                let size = row.data.len();
                let decoded = match decode(&row.data) {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        error!(
                            seq = row.seq,
                            error, "a row of the inbound queue cannot be read by this version; it is left alone"
                        );
                        continue;
                    }
                };
                let mut handing = pin!(relay.deliver(row.seq, decoded, &mut retained.book));
                // Rows are completed also while this one waits for the link to take it. Cancel-safe: `handing` is borrowed, and
                // dropped by `stop` at most between two publishes; what was not handed over stays in the spool.
                let delivery = loop {
                    tokio::select! {
                        delivery = &mut handing => break delivery,
                        Some(done) = under_way.next() => bytes -= done,
                        () = stop.cancelled() => break 'handing_over,
                    }
                };
                bytes += size;
                under_way.push(delivery.map(move |()| size));
            }
            while let Some(Some(done)) = under_way.next().now_or_never() {
                bytes -= done;
            }
        }
        let _ = timeout(DRAIN, async { while under_way.next().await.is_some() {} }).await;
        Ok(())
    }

    /// Hands one row's publishes to the link; the future it returns completes the row.
    async fn deliver(
        self: &Arc<Self>,
        seq: u64,
        row: Row,
        book: &mut PresenceBook,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (publications, accepted) = match row {
            Row::States(states) => (plain(self.render_states(&states, book)), None),
            Row::Push(mut accepted) => (self.render(&mut accepted, book), Some(accepted)),
        };
        let sent = self.publish(publications).await;
        Arc::clone(self).complete(seq, sent, accepted)
    }

    async fn publish(&self, publications: Vec<Rendered>) -> Vec<Sent> {
        let mut sent = Vec::with_capacity(publications.len());
        for (publication, route) in publications {
            let completion = self.publisher.publish(publication.clone()).await;
            sent.push(Sent { publication, route, completion });
        }
        sent
    }

    /// Completes a row once the fate of all its publishes is known.
    async fn complete(self: Arc<Self>, seq: u64, sent: Vec<Sent>, mut accepted: Option<Accepted>) {
        let Some(expired) = self.settle(sent).await else { return };
        if let Some(accepted) = accepted.as_mut().filter(|_| expired) {
            accepted.fate = Fate::Late;
            // It became late while it waited for the broker: what is left to say is that it came too late.
            self.counters.pushes_late.add();
            let flags = Flags { late: true, not_allowed: false };
            let sent = self.publish(plain(self.publications(accepted, flags, false))).await;
            if self.settle(sent).await.is_none() {
                return;
            }
        }
        if let Some(accepted) = accepted {
            self.counters.series.push_delivered(accepted.push.message.kind(), accepted.at.age());
            self.note(&accepted);
        }
        self.counters.pushes_delivered.add();
        debug!(seq, "delivered a push");
        self.spool.complete(Queue::Inbound, seq);
    }

    /// Waits for the fate of publishes. None if the row must stay in the spool, else whether the raw message's deadline passed.
    async fn settle(&self, sent: Vec<Sent>) -> Option<bool> {
        let (mut expired, mut kept) = (false, true);
        for Sent { publication, route, completion } in sent {
            match completion.await {
                Delivery::Acked { .. } => {}
                Delivery::Expired => match route {
                    Some(route) => route.counters.late.add(),
                    None => expired = true,
                },
                Delivery::Refused(refusal) => {
                    if let Some(route) = route {
                        route.counters.failed.add();
                    }
                    kept &= self.set_aside.keep(&publication, &refusal).await;
                }
                Delivery::Closed => return None,
            }
        }
        kept.then_some(expired)
    }

    /// For those who watch.
    fn note(&self, accepted: &Accepted) {
        let message = &accepted.push.message;
        let (verdict, outcome) = accepted.fate.describe();
        let to = match message {
            Message::Group { group, .. } => Some(group.as_str()),
            Message::Topic { subject, .. } => Some(subject.as_str()),
            _ => None,
        };
        self.counters.trail.note(Passed {
            at: clock::rfc3339(clock::wall_now_ms()),
            way: Way::FromIlink,
            kind: message.kind().as_str().to_owned(),
            id: accepted.received.id.to_string(),
            from: message.from_uid().map(|from| shown(from.as_str())),
            to: to.map(shown),
            bytes: message.content().map(|content| content.bytes.len()),
            verdict,
            outcome: outcome.to_owned(),
            took_ms: u64::try_from(accepted.at.age().as_millis()).unwrap_or(u64::MAX),
            content: message.content().and_then(|content| self.counters.trail.content(&content.bytes)),
        });
    }

    fn render(&self, accepted: &mut Accepted, book: &mut PresenceBook) -> Vec<Rendered> {
        let message = &accepted.push.message;
        let mut stale = false;
        let mut flags = Flags::default();
        match message {
            Message::Presence { from, online, time } => {
                stale = book.is_stale(from, *time);
                if stale {
                    self.counters.presence_stale.add();
                } else {
                    book.note(from, *online, Some(*time));
                }
            }
            Message::Other { .. } => {}
            _ => {
                flags.late = self.config.raw_max_age.is_some_and(|most| accepted.at.age() > most);
                flags.not_allowed = !self.allows(message.from_uid());
            }
        }
        if flags.late {
            self.counters.pushes_late.add();
            accepted.fate = Fate::Late;
        }
        if flags.not_allowed {
            self.counters.pushes_not_allowed.add();
            accepted.fate = Fate::NotAllowed;
        }
        if stale {
            accepted.fate = Fate::Stale;
        }
        let mut rendered = plain(self.publications(accepted, flags, stale));
        if !flags.not_allowed {
            let (routing, config) = (Arc::clone(&self.routing.borrow()), &self.config);
            let when = (&accepted.received, &accepted.at);
            let routed = routed(&routing, message, when, &config.uid, config.raw_max_age);
            rendered.extend(routed.into_iter().map(|(publication, route)| (publication, Some(route))));
        }
        rendered
    }

    fn publications(&self, accepted: &Accepted, flags: Flags, stale: bool) -> Vec<Publication> {
        let deadline = self.config.raw_max_age.map(|most| accepted.at.plus(most));
        let RelayConfig { base, output, .. } = &self.config;
        publications(base, &accepted.push, &accepted.received, *output, flags, stale, deadline)
    }

    /// Presence is state, not a command: whose presence is published is chosen by what is subscribed.
    fn allows(&self, from: Option<&Uid>) -> bool {
        let settings = self.settings.borrow();
        settings.allow_from.is_empty() || from.is_some_and(|from| settings.allow_from.contains(from))
    }

    fn render_states(&self, states: &[(Uid, bool)], book: &mut PresenceBook) -> Vec<Publication> {
        let publish = |(uid, online): &(Uid, bool)| {
            book.note(uid, *online, None);
            Retained::publication(&self.config.base, uid, *online)
        };
        states.iter().map(publish).collect()
    }
}

/// A publish, and the route that it is of.
type Rendered = (Publication, Option<Arc<RouteState>>);

fn plain(publications: Vec<Publication>) -> Vec<Rendered> {
    publications.into_iter().map(|publication| (publication, None)).collect()
}

/// What a row of the queue says.
enum Row {
    Push(Accepted),
    States(Vec<(Uid, bool)>),
}

fn decode(row: &[u8]) -> Result<Row, String> {
    match Record::decode(row).map_err(|error| error.to_string())? {
        Record::States { states } => Ok(Row::States(states)),
        Record::Push { id, at, body } => {
            let push = Push::decode(&body).unwrap_or_else(|_| Push::unreadable(&body));
            let received = Received { id: Ulid::from_bytes(id), received_at: clock::rfc3339(at.wall_ms()) };
            Ok(Row::Push(Accepted { push, received, at, fate: Fate::Delivered }))
        }
    }
}
