//! What arrives on a connection: messages for the daemon, and their acknowledgements back to the broker.

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
            // It comes again, with all since the first that found no room.
            LinkCounters::one(&self.task.counters.commands_overlooked);
        } else if !matches!(self.phase, Phase::Looking { .. }) || self.task.owns_base {
            self.deliver(message);
        } else if let Err((qos, pkid)) = self.held.push(message) {
            self.no_room(qos, pkid);
        }
    }

    /// Hands over what was held, now that the base topic is known to be ours.
    pub(super) fn deliver_held(&mut self) {
        while let Some(message) = self.held.pop() {
            // One that was forgotten comes again, with all after it.
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
        match self.task.commands.hand_over(message) {
            Ok(()) => LinkCounters::one(&self.task.counters.commands),
            Err(NotTaken::Full) => self.no_room(qos, pkid),
            // Nobody takes commands any more: the daemon is stopping. Un-acknowledged, it waits in the session.
            Err(NotTaken::Closed) => {}
        }
    }

    /// QoS 0 is lost then. QoS 1 is overlooked, this message and all that follow, so that the order is kept: once what was
    /// handed over is acknowledged, a new connection brings the rest again. Resetting at once would bring all of it again.
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

    /// Whether there is nothing left to wait for before the overlooked messages are fetched.
    pub(super) fn fetch_overlooked(&self) -> Step {
        let finished = self.arrivals.is_empty() && self.wire.is_written();
        if self.overlooking && finished && matches!(self.phase, Phase::Up) {
            let cause = "commands came faster than they could be stored; the broker sends the rest again";
            return Err(End::GaveUp(Failure::Because(cause.to_owned())));
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

    /// The broker has answered something: it has what was sent before that.
    pub(super) fn answered(&mut self, question: Question) {
        if let Some(up_to) = self.receipts.answered(question) {
            self.task.commands.settled(Settled { connection: self.task.generation, up_to });
        }
    }

    /// Acknowledges to the broker what may be, in order.
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
