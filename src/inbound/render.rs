//! Makes publishes of a row of the inbound queue: its `recv/` and `event/` messages, and those of the routes that it fires
//! (`routed`), if its sender is allowed.

use std::sync::Arc;

use tracing::{info, warn};

use super::pictures::Pictures;
use super::presence::{PresenceBook, Retained};
use super::record::{Accepted, Fate, Row, Seen, SentAs};
use super::relay::Relay;
use super::routed::{Routed, routed};
use crate::delivery::Part;
use crate::local::{Flags, Nameable, Publication, Shape, picture_of, publications};
use crate::observe::activity::{Moment, Passed, Way, shown};
use crate::os::clock;
use crate::protocol::{Message, Uid};

impl Relay {
    /// The parts of a row that are to be published now. The row is counted once, however often it is sent.
    pub(super) fn render(
        &self,
        row: &mut Row,
        seq: u64,
        seen: &mut Seen,
        book: &mut PresenceBook,
        pictures: &mut Pictures,
    ) -> Vec<Part> {
        let mut parts = match row {
            Row::Push(accepted) => self.render_push(accepted, seq, seen, book, pictures),
            Row::States(states) => plain(self.render_states(states, |uid, online| book.note(uid, online, None, seq))),
            Row::StatesAgain(states) => plain(self.render_states(states, |uid, online| book.says(uid, online))),
        };
        parts.retain(|part| !seen.is_settled(part));
        parts
    }

    fn render_push(
        &self,
        accepted: &mut Accepted,
        seq: u64,
        seen: &mut Seen,
        book: &mut PresenceBook,
        pictures: &mut Pictures,
    ) -> Vec<Part> {
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
        if !flags.not_allowed {
            parts.extend(plain(self.picture(accepted, pictures)));
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
            let Routed { parts: routed, otherwise } =
                routed(&routing, message, when, &config.uid, config.raw_max_age, only);
            let has_fired = !routed.is_empty() || otherwise.is_some();
            if has_fired && !again {
                let by = routed.iter().filter_map(|part| part.route.as_ref());
                let by = by.chain(otherwise.as_ref().map(|reply| &reply.route));
                seen.more.get_or_insert_default().fired = by.cloned().collect();
            }
            parts.extend(routed);
            let taken = seen.more.iter().flat_map(|more| &more.replies);
            accepted.replies = taken.cloned().chain(otherwise).collect();
        }
        if !again {
            self.tell_unsent(accepted, &parts);
        }
        parts
    }

    /// The last picture of the sender, if it is one, and shown.
    fn picture(&self, accepted: &Accepted, pictures: &mut Pictures) -> Option<Publication> {
        let from = accepted.push.message.from_uid().filter(|from| self.config.pictures_of.contains(from))?;
        let picture = picture_of(&self.config.base, &accepted.push, &accepted.received)?;
        let shows = pictures.shows(from, accepted.at.wall_ms(), accepted.again.is_some());
        if !shows {
            info!(id = %accepted.received.id, "a picture that was put back is older than the last one, which stays");
        }
        shows.then_some(picture)
    }

    /// What was put back for a route may be too old for it by now, and then it is not sent.
    fn tell_unsent(&self, accepted: &mut Accepted, parts: &[Part]) {
        let sent = |name: &str| parts.iter().filter_map(|part| part.route.as_ref()).any(|route| route.name == name);
        let routes = accepted.again.iter().flat_map(|refused| &refused.routes);
        let unsent: Vec<&String> = routes.filter(|name| !sent(name)).collect();
        for route in &unsent {
            self.counters.set_aside_unsent.add();
            warn!(
                %route, id = %accepted.received.id,
                "a message that was put back is not sent to its route: it is older than the route's max_age, or the route does not take it any more"
            );
        }
        if !unsent.is_empty() && parts.is_empty() {
            accepted.fate = Fate::Unsent;
        }
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
            at: Moment(clock::wall_now_ms()),
            way: Way::FromIlink,
            kind: message.kind().as_str(),
            id: accepted.received.id,
            from: message.from_uid().map(|from| called(from, names.of_user(from))),
            to,
            bytes: message.content().map(|content| content.bytes.len()),
            verdict,
            outcome: outcome.into(),
            took_ms: clock::millis(accepted.at.age()),
            content: message.content().and_then(|content| self.counters.activity.content(&content.bytes)),
        }
    }
}

/// An id by its name, if it has one.
fn called(id: &impl Nameable, name: Option<&str>) -> String {
    name.map_or_else(|| shown(id.id()), |name| format!("@{name}"))
}

fn plain(publications: impl IntoIterator<Item = Publication>) -> Vec<Part> {
    publications.into_iter().map(Part::plain).collect()
}
