//! Makes publishes of a row of the inbound queue: its `recv/` and `event/` messages, and those of the routes that it fires.
//!
//! Only a message that may be a command to a device fires a route: it must be young enough, from an allowed sender, and not
//! from our own uid.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::presence::{PresenceBook, Retained};
use super::record::{Accepted, Fate, Row, Seen, SentAs};
use super::relay::Relay;
use crate::delivery::Part;
use crate::delivery::routing::{RouteState, Routing};
use crate::local::{Flags, Nameable, Publication, Received, Shape, picture_of, publications, recv_levels};
use crate::observe::activity::{Passed, Way, shown};
use crate::os::clock::{self, Stamp};
use crate::protocol::{Message, Uid};
use crate::route::{Outcome, Publish, Said};

impl Relay {
    /// The parts of a row that are to be published now. The row is counted once, however often it is sent.
    pub(super) fn render(&self, row: &mut Row, seq: u64, seen: &mut Seen, book: &mut PresenceBook) -> Vec<Part> {
        let mut parts = match row {
            Row::Push(accepted) => self.render_push(accepted, seq, seen, book),
            Row::States(states) => plain(self.render_states(states, |uid, online| book.note(uid, online, None, seq))),
            Row::StatesAgain(states) => plain(self.render_states(states, |uid, online| book.says(uid, online))),
        };
        parts.retain(|part| !seen.is_settled(part));
        parts
    }

    fn render_push(&self, accepted: &mut Accepted, seq: u64, seen: &mut Seen, book: &mut PresenceBook) -> Vec<Part> {
        let message = &accepted.push.message;
        let mut stale = false;
        let mut flags = Flags::default();
        match message {
            // What came after it may be known only from `ham_user/states`, which says no time: so it is not noted once more.
            Message::Presence { from, online, .. } if accepted.again.is_some() => stale = !book.says(from, *online),
            Message::Presence { from, online, time } => stale = !book.note(from, *online, Some(*time), seq),
            Message::Other { .. } => {}
            _ => {
                let age = accepted.at.age();
                flags.late = seen.too_late || self.config.raw_max_age.is_some_and(|most| age > most);
                flags.not_allowed = !self.allows(message.from_uid());
            }
        }
        let before = seen.sent.replace(SentAs { late: flags.late, stale });
        let again = before.is_some();
        let other = again && before != seen.sent;
        if let Some(more) = seen.more.as_mut().filter(|_| other) {
            // Its event has changed, and must be sent again.
            more.settled.clear();
        }
        if flags.late {
            self.counters.pushes_late.add_if(before.is_none_or(|before| !before.late));
            accepted.fate = Fate::Late;
        }
        if flags.not_allowed {
            self.counters.pushes_not_allowed.add_if(!again);
            accepted.fate = Fate::NotAllowed;
        }
        if stale {
            self.counters.presence_stale.add_if(before.is_none_or(|before| !before.stale));
            accepted.fate = Fate::Stale;
        }
        let mut parts = plain(self.publications(accepted, flags, stale));
        let has_picture = message.from_uid().is_some_and(|from| self.config.pictures_of.contains(from));
        if has_picture && !flags.not_allowed {
            parts.extend(plain(picture_of(&self.config.base, &accepted.push, &accepted.received)));
        }
        if let Some(refused) = &accepted.again {
            refused.retain_in(&mut parts);
        }
        if !flags.not_allowed {
            let (routing, config) = (Arc::clone(&self.routing.borrow()), &self.config);
            let when = (&accepted.received, &accepted.at);
            let before = seen.more.as_ref().map(|more| more.fired.as_slice());
            let earlier = accepted.again.as_ref().map(|refused| routing.called(&refused.routes));
            let only = if again { Some(before.unwrap_or_default()) } else { earlier.as_deref() };
            let routed = routed(&routing, message, when, &config.uid, config.raw_max_age, only);
            if !again && !routed.is_empty() {
                seen.more.get_or_insert_default().fired = routed.iter().filter_map(|part| part.route.clone()).collect();
            }
            parts.extend(routed);
        }
        parts
    }

    fn publications(&self, accepted: &Accepted, flags: Flags, stale: bool) -> Vec<Publication> {
        let deadline = self.config.raw_max_age.map(|most| accepted.at.plus(most));
        let routing = self.routing.borrow();
        let shape = Shape { base: &self.config.base, output: self.config.output, names: routing.routes.names() };
        publications(shape, &accepted.push, &accepted.received, flags, stale, deadline)
    }

    /// Whether the sender is in `inbound.allow_from`. Not asked for presence, which is state and no command.
    fn allows(&self, from: Option<&Uid>) -> bool {
        let settings = self.settings.borrow();
        settings.allow_from.is_empty() || from.is_some_and(|from| settings.allow_from.contains(from))
    }

    fn render_states(&self, states: &[(Uid, bool)], mut holds: impl FnMut(&Uid, bool) -> bool) -> Vec<Publication> {
        let publish = |(uid, online): &(Uid, bool)| {
            holds(uid, *online).then(|| Retained::publication(&self.config.base, uid, *online))
        };
        states.iter().filter_map(publish).collect()
    }

    /// The push as an entry in the list of recent messages.
    pub(super) fn passed(&self, accepted: &Accepted) -> Passed {
        let message = &accepted.push.message;
        let (verdict, outcome) = accepted.fate.describe();
        let routing = self.routing.borrow();
        let names = routing.routes.names();
        let to = match message {
            Message::Group { group, .. } => Some(called(group, names.of_group(group))),
            Message::Topic { subject, .. } => Some(called(subject, names.of_subject(subject))),
            _ => None,
        };
        Passed {
            at: clock::rfc3339(clock::wall_now_ms()),
            way: Way::FromIlink,
            kind: message.kind().as_str().to_owned(),
            id: accepted.received.id.to_string(),
            from: message.from_uid().map(|from| called(from, names.of_user(from))),
            to,
            bytes: message.content().map(|content| content.bytes.len()),
            verdict,
            outcome: outcome.to_owned(),
            took_ms: u64::try_from(accepted.at.age().as_millis()).unwrap_or(u64::MAX),
            content: message.content().and_then(|content| self.counters.activity.content(&content.bytes)),
        }
    }
}

/// An id by its name, if it has one.
fn called(id: &impl Nameable, name: Option<&str>) -> String {
    name.map_or_else(|| shown(id.id()), |name| format!("@{name}"))
}

fn plain(publications: impl IntoIterator<Item = Publication>) -> Vec<Part> {
    publications.into_iter().map(|publication| Part { publication, route: None }).collect()
}

/// The publishes of the routes that a push fires. `raw_max_age` is for routes without a `max_age` of their own. `only`: the
/// push is published again, by the routes that it fired the first time; this is not counted again, and does not count towards
/// their rate.
pub(super) fn routed(
    routing: &Routing,
    message: &Message,
    (received, at): (&Received, &Stamp),
    own: &Uid,
    raw_max_age: Option<Duration>,
    only: Option<&[Arc<RouteState>]>,
) -> Vec<Part> {
    let mut routed = Vec::new();
    let (Some(recv), Some(content)) = (recv_levels(message), message.content()) else { return routed };
    if routing.routes.from_routes().is_empty() || message.from_uid() == Some(own) {
        return routed;
    }
    if only.is_some_and(<[_]>::is_empty) {
        return routed;
    }
    let from_uid = message.from_uid().map(Uid::as_str);
    let said = Said { recv: &recv, payload: &content.bytes, from_uid, time: message.time() };
    routing.routes.from_ilink(&said, |number, outcome| {
        let Some((route, state)) = routing.from_ilink(number) else { return };
        if only.is_some_and(|only| !only.iter().any(|fired| Arc::ptr_eq(fired, state))) {
            return;
        }
        match outcome {
            Outcome::NoMatch => state.counters.no_match.add(),
            Outcome::Missing(why) => {
                state.counters.missing.add();
                debug!(route = state.name, %why, "a push does not fire a route");
            }
            Outcome::Fires(Publish { topic, payload }) => {
                let max_age = route.max_age(raw_max_age);
                if max_age.is_some_and(|most| at.age() > most) {
                    state.counters.late.add();
                // The rate is measured by the time of acceptance: a backlog that waited for the broker is no loop.
                } else if only.is_some() || state.may_fire(route.max_rate(), at.plus(Duration::ZERO)) {
                    state.counters.fired.add_if(only.is_none());
                    let user_properties = vec![("id", received.id.to_string()), ("route", state.name.clone())];
                    let deadline = max_age.map(|most| at.plus(most));
                    let publication = Publication { user_properties, deadline, ..Publication::raw(topic, payload) };
                    routed.push(Part { publication, route: Some(Arc::clone(state)) });
                }
            }
        }
    });
    routed
}
