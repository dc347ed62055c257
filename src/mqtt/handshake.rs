//! The steps of a connection from CONNACK to *up*, and from a stop to its end.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::account::AccountCheck;
use super::connection::{Connection, End, Phase, Step};
use super::explanations::Failure;
use super::outbox::Origin;
use super::packets::{Accepted, Subscription, Version};
use super::state::{LinkCounters, Subscriptions};
use super::{config::Protocol, refused};

/// The limit for each answer on the way to *up*: SUBACK, UNSUBACK.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The limit for the broker to read our DISCONNECT and close the connection.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(1);

impl<V: Version> Connection<'_, V> {
    pub(super) fn on_connected(&mut self, accepted: &Accepted) -> Step {
        if let Some(failure) = accepted.unusable(self.task.dialer.explain()) {
            return Err(End::Lost(failure));
        }
        LinkCounters::one(&self.task.counters.connects);
        self.accept(accepted);
        self.note_session(accepted);
        self.task.ends.standing.connected(accepted.session_present);
        let check = AccountCheck::new(&self.task.dialer.config.base);
        // One SUBSCRIBE for each topic: aedes sends the retained message of a second topic in the same SUBSCRIBE only after the
        // UNSUBACKs.
        for topic in check.topics() {
            self.wire.subscribe(&[(topic, Subscription::Look)]);
        }
        self.enter(Phase::Looking { check, unsubacks_left: 0 }, None);
        self.answer_within(ANSWER_LIMIT);
        Ok(())
    }

    fn note_session(&mut self, accepted: &Accepted) {
        let config = &self.task.dialer.config;
        if self.task.expects_session && !accepted.session_present {
            LinkCounters::one(&self.task.counters.sessions_lost);
            warn!("the broker no longer has our session: commands that waited there while we were offline are lost");
        }
        if !accepted.session_present {
            self.task.state.send_modify(|state| state.session_began = self.task.generation);
        }
        self.task.expects_session = match config.protocol {
            Protocol::V5 => config.session_expiry > 0,
            Protocol::V311 => config.persistent_session,
        };
        if let Some(expiry) = accepted.session_expiry.filter(|expiry| *expiry < config.session_expiry) {
            info!(expiry_s = expiry, "the broker keeps our session for a shorter time than mqtt.session_expiry asks");
            self.task.expects_session = expiry > 0;
        }
    }

    pub(super) fn on_subscribed(&mut self, granted: &[bool]) -> Step {
        match &mut self.phase {
            Phase::Looking { check, unsubacks_left } => {
                if !check.answered(granted.contains(&true)) {
                    return Ok(());
                }
                // If both subscriptions are denied, no conflict can be seen. Otherwise the UNSUBACKs come after the retained
                // messages.
                if check.is_denied() {
                    return self.subscribe();
                }
                let topics = check.topics();
                *unsubacks_left = topics.len();
                for topic in topics {
                    self.wire.unsubscribe(&topic);
                }
                self.answer_within(ANSWER_LIMIT);
                Ok(())
            }
            Phase::Subscribing => {
                self.enter(Phase::Up, None);
                self.answer_due = None;
                self.task.connected();
                self.task.owns_base = true;
                self.on_granted(granted);
                Ok(())
            }
            Phase::Up => {
                self.on_granted(granted);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn on_unsubscribed(&mut self) -> Step {
        let Phase::Looking { check, unsubacks_left } = &mut self.phase else { return Ok(()) };
        *unsubacks_left = unsubacks_left.saturating_sub(1);
        if *unsubacks_left > 0 {
            return Ok(());
        }
        match check.other(&self.task.dialer.config.own_uid) {
            Some(uid) => {
                self.task.owns_base = false;
                self.disconnect(End::Conflict(uid));
                Ok(())
            }
            None => self.subscribe(),
        }
    }

    fn subscribe(&mut self) -> Step {
        self.enter(Phase::Subscribing, None);
        self.answer_within(ANSWER_LIMIT);
        self.deliver_held();
        self.send_subscribe()
    }

    pub(super) fn send_subscribe(&mut self) -> Step {
        let commands = self.task.dialer.config.filters.iter();
        let routes = self.task.routes.borrow_and_update().clone();
        let filters: Vec<_> = commands
            .map(|filter| (filter.clone(), Subscription::Commands))
            .chain(routes.wanted.into_iter().map(|filter| (filter, Subscription::Routes)))
            .collect();
        self.unsubscribing = routes.gone.into();
        self.asked.push_back(filters.iter().map(|(filter, _)| filter.clone()).collect());
        if filters.is_empty() {
            return self.on_subscribed(&[]);
        }
        self.wire.subscribe(&filters);
        Ok(())
    }

    /// Brings the subscriptions in line with the routes. Subscribing again to a filter that we have changes nothing.
    pub(super) fn follow_routes(&mut self) -> Step {
        if self.task.routes.has_changed().unwrap_or(false) {
            self.send_subscribe()?;
        }
        while self.wire.has_room()
            && let Some(gone) = self.unsubscribing.pop_front()
        {
            self.wire.unsubscribe(&gone);
        }
        Ok(())
    }

    fn on_granted(&mut self, granted: &[bool]) {
        let filters = self.asked.pop_front().unwrap_or_default();
        let refused: Vec<String> = filters
            .into_iter()
            .enumerate()
            .filter(|(i, _)| !granted.get(*i).copied().unwrap_or(false))
            .map(|(_, filter)| filter)
            .collect();
        if refused.is_empty() {
            return self.start_probe();
        }
        let news = self.task.state.borrow().subscriptions != Subscriptions::Refused(refused.clone());
        if news {
            let remedy = refused::read_lines(&refused);
            warn!(?refused, remedy, "the broker refuses subscriptions: what is published there does not arrive");
        }
        self.recheck_later(Subscriptions::Refused(refused));
    }

    /// Begins the stop: publishes `offline` if the connection is up and no other member of a cluster takes over at once, and
    /// disconnects. Does nothing if it has begun already.
    pub(super) fn leave(&mut self) -> Step {
        match &self.phase {
            Phase::Connecting => Err(End::Stopped),
            Phase::Looking { .. } | Phase::Subscribing => {
                self.disconnect(End::Stopped);
                Ok(())
            }
            Phase::Up if self.task.dialer.config.lease.is_handed_over() => {
                self.probe.stop();
                self.disconnect(End::Stopped);
                Ok(())
            }
            Phase::Up => {
                self.probe.stop();
                let limit = self.task.dialer.config.timing.stop_limit;
                self.enter(Phase::Leaving, Some(limit));
                let config = &self.task.dialer.config;
                self.task.outbox.add(config.will.clone(), Origin::Offline { is_will: true });
                for gone in config.farewell.iter().cloned() {
                    self.task.outbox.add(gone, Origin::Offline { is_will: false });
                }
                Ok(())
            }
            Phase::Leaving | Phase::Disconnecting(_) => Ok(()),
        }
    }

    /// Sends a DISCONNECT, after which the broker does not publish the last will. Then waits for the broker to close the
    /// connection: so it has read it.
    pub(super) fn disconnect(&mut self, end: End) {
        if matches!(self.phase, Phase::Disconnecting(_)) {
            return;
        }
        self.wire.disconnect();
        self.enter(Phase::Disconnecting(end), Some(DISCONNECT_LIMIT));
    }

    pub(super) fn on_phase_overdue(&mut self) -> Step {
        match &self.phase {
            Phase::Leaving => {
                debug!("the broker did not acknowledge `offline` in time");
                if self.task.outbox.farewell_waits() {
                    // `offline` could not even be sent, because the window is full. Without a DISCONNECT the broker publishes
                    // the last will, which says the same.
                    return Err(End::Stopped);
                }
                self.disconnect(End::Stopped);
                Ok(())
            }
            // `ended` replaces this by the intended end.
            Phase::Disconnecting(_) => Err(End::Lost(Failure::Closed)),
            Phase::Connecting | Phase::Looking { .. } | Phase::Subscribing | Phase::Up => Ok(()),
        }
    }

    fn enter(&mut self, phase: Phase, limit: Option<Duration>) {
        self.phase = phase;
        self.phase_until = limit.map(|limit| Instant::now() + limit);
    }
}
