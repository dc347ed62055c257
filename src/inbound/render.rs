//! What a row of the inbound queue is published as.

use std::sync::Arc;

use super::presence::PresenceBook;
use super::relay::Relay;
use super::retained::Retained;
use super::routed::routed;
use super::row::{Accepted, Fate, Row, Seen, SentAs};
use crate::delivery::Part;
use crate::local::{Flags, Publication, publications};
use crate::observe::activity::{Passed, Way, shown};
use crate::os::clock;
use crate::protocol::{Message, Uid};

impl Relay {
    /// What a row is published as now. It is counted once, however often it is sent.
    pub(super) fn render(&self, row: &mut Row, seq: u64, seen: &mut Seen, book: &mut PresenceBook) -> Vec<Part> {
        let mut parts = match row {
            Row::Push(accepted) => self.render_push(accepted, seq, seen, book),
            Row::States(states) => plain(self.render_states(states, seq, book)),
        };
        parts.retain(|part| !seen.is_settled(part));
        parts
    }

    fn render_push(&self, accepted: &mut Accepted, seq: u64, seen: &mut Seen, book: &mut PresenceBook) -> Vec<Part> {
        let message = &accepted.push.message;
        let mut stale = false;
        let mut flags = Flags::default();
        match message {
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
            // Its event is another one now.
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
            let (routing, config) = (Arc::clone(&self.routing.borrow()), &self.config);
            let when = (&accepted.received, &accepted.at);
            let fired = seen.more.as_ref().map(|more| more.fired.as_slice());
            let only = again.then_some(fired.unwrap_or_default());
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
        let (base, output) = (&self.config.base, self.config.output);
        publications(base, &accepted.push, &accepted.received, output, flags, stale, deadline)
    }

    /// Presence is state, not a command: whose presence is published is chosen by what is subscribed.
    fn allows(&self, from: Option<&Uid>) -> bool {
        let settings = self.settings.borrow();
        settings.allow_from.is_empty() || from.is_some_and(|from| settings.allow_from.contains(from))
    }

    fn render_states(&self, states: &[(Uid, bool)], seq: u64, book: &mut PresenceBook) -> Vec<Publication> {
        let publish = |(uid, online): &(Uid, bool)| {
            book.note(uid, *online, None, seq).then(|| Retained::publication(&self.config.base, uid, *online))
        };
        states.iter().filter_map(publish).collect()
    }

    /// For those who watch.
    pub(super) fn passed(&self, accepted: &Accepted) -> Passed {
        let message = &accepted.push.message;
        let (verdict, outcome) = accepted.fate.describe();
        let to = match message {
            Message::Group { group, .. } => Some(group.as_str()),
            Message::Topic { subject, .. } => Some(subject.as_str()),
            _ => None,
        };
        Passed {
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
            content: message.content().and_then(|content| self.counters.activity.content(&content.bytes)),
        }
    }
}

fn plain(publications: Vec<Publication>) -> Vec<Part> {
    publications.into_iter().map(|publication| Part { publication, route: None }).collect()
}
