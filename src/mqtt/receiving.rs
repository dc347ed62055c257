//! Receiving on a connection: hands messages to the daemon, and sends their acknowledgements to the broker.

use tracing::warn;

use super::arrivals::Question;
use super::connection::{Connection, End, Phase, Step};
use super::explanations::Failure;
use super::incoming::AckToken;
use super::incoming::{Incoming, NotTaken, Settled};
use super::packets::Version;
use super::state::LinkCounters;

impl<V: Version> Connection<'_, V> {
    pub(super) fn on_message(&mut self, mut message: Incoming) {
        if message.qos > 0 && !self.overlooking {
            message.arrival = self.arrivals.arrived(message.pkid);
        }
        if let Phase::Looking { check, .. } = &mut self.phase
            && check.is_about(&message.topic)
        {
            check.note(&message.topic, &message.payload);
            self.arrivals.done(message.pkid);
            return;
        }
        if self.probe.is_probe(&message.topic) {
            self.arrivals.done(message.pkid);
            self.probe_heard(&message.topic);
        } else if self.overlooking && message.qos > 0 {
            // The next connection brings it again, with all messages since the first that found no room.
            LinkCounters::one(&self.task.counters.commands_overlooked);
        } else if !matches!(self.phase, Phase::Looking { .. }) || self.task.owns_base {
            self.deliver(message);
        } else if let Err((qos, pkid)) = self.held.push(message) {
            self.no_room(qos, pkid);
        }
    }

    /// Hands over the messages that were held back until the account check was done.
    pub(super) fn deliver_held(&mut self) {
        while let Some(message) = self.held.pop() {
            // If it was left to the next connection, it comes again, with all messages after it.
            if message.qos == 0 || self.arrivals.has(message.pkid) {
                self.deliver(message);
            }
        }
    }

    pub(super) fn deliver(&mut self, mut message: Incoming) {
        let (qos, pkid) = (message.qos, message.pkid);
        message.connection = self.task.generation;
        message.session_present = self.session_present;
        message.ack = (qos > 0).then_some(AckToken { generation: self.task.generation, pkid });
        self.probe.message_came();
        self.handed_over += 1;
        match self.task.commands.hand_over(message) {
            Ok(()) => LinkCounters::one(&self.task.counters.commands),
            Err(NotTaken::Full) => self.no_room(qos, pkid),
            // The daemon is stopping. The message is not acknowledged and stays in the session.
            Err(NotTaken::Closed) => {}
        }
    }

    /// There is no room for a message. At QoS 0 it is lost. At QoS 1 this message and all later ones are *overlooked*, so that
    /// the order is kept. Once the earlier messages are acknowledged, a new connection brings the overlooked ones again. A new
    /// connection at once would bring the earlier ones again, too.
    fn no_room(&mut self, qos: u8, pkid: u16) {
        if qos > 0 {
            self.overlooking = true;
            let overlooked = self.arrivals.forget_from(pkid);
            LinkCounters::add(&self.task.counters.commands_overlooked, overlooked);
            return;
        }
        LinkCounters::one(&self.task.counters.commands_dropped);
        if self.task.drops.may() {
            warn!("QoS 0 commands are dropped: they come faster than they can be stored; QoS 1 would make them wait");
        }
    }

    /// Ends the connection once all earlier messages are acknowledged, so that the next one brings the overlooked messages. The
    /// broker must have our PUBACKs by then: a socket that is closed with unread messages in it is reset, and what was not sent
    /// yet is lost.
    pub(super) fn fetch_overlooked(&mut self) -> Step {
        if !self.overlooking || !self.arrivals.is_empty() || !matches!(self.phase, Phase::Up) {
            return Ok(());
        }
        if self.receipts.all_known() {
            let cause = "commands came faster than they could be stored; the broker sends the rest again";
            return Err(End::GaveUp(Failure::Because(cause.to_owned())));
        }
        if !self.receipts.is_asking() {
            self.ping();
        }
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, token: &AckToken) {
        if token.generation == self.task.generation {
            self.arrivals.done(token.pkid);
        } else {
            LinkCounters::one(&self.task.counters.stale_acks);
        }
    }

    /// The broker has answered something: it has all PUBACKs that were sent before.
    pub(super) fn answered(&mut self, question: Question) {
        if let Some(up_to) = self.receipts.answered(question) {
            self.task.commands.settled(Settled { connection: self.task.generation, up_to });
        }
    }

    /// Sends the PUBACKs that may be sent, in order.
    pub(super) fn send_acks(&mut self) {
        while self.wire.has_room()
            && let Some(pkid) = self.arrivals.due()
        {
            self.wire.ack(pkid);
            self.arrivals.acknowledged();
            self.receipts.written();
        }
    }
}
