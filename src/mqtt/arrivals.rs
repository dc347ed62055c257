//! The QoS 1 messages of one connection that are not acknowledged yet, in the order they arrived.
//!
//! MQTT wants PUBACKs in that order, while the daemon may be done with a later message first. That the broker has a PUBACK, it
//! shows by answering something that was sent after it ([`Receipts`]).

use std::collections::VecDeque;

/// Of one connection; a new one starts with none, and its broker sends again what was left.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    waiting: VecDeque<(u16, Progress)>,
    /// PUBACKs handed to the wire. They go in the order of arrival: these were the first that arrived.
    acknowledged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Pending,
    Done,
}

impl Arrivals {
    /// Gives the message's number on this connection.
    pub(super) fn arrived(&mut self, pkid: u16) -> u64 {
        self.waiting.push_back((pkid, Progress::Pending));
        self.acknowledged + self.waiting.len() as u64
    }

    /// The message may be acknowledged once all before it may.
    pub(super) fn done(&mut self, pkid: u16) {
        if let Some(entry) = self.waiting.iter_mut().find(|entry| **entry == (pkid, Progress::Pending)) {
            entry.1 = Progress::Done;
        }
    }

    /// Takes out the first message with this packet id that is not done, and all that came after it. Returns how many.
    pub(super) fn forget_from(&mut self, pkid: u16) -> u64 {
        let before = self.waiting.len();
        if let Some(at) = self.waiting.iter().position(|entry| *entry == (pkid, Progress::Pending)) {
            self.waiting.truncate(at);
        }
        u64::try_from(before - self.waiting.len()).unwrap_or(u64::MAX)
    }

    /// Whether a message with this packet id waits to be done.
    pub(super) fn has(&self, pkid: u16) -> bool {
        self.waiting.contains(&(pkid, Progress::Pending))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The packet id to acknowledge next.
    pub(super) fn due(&self) -> Option<u16> {
        self.waiting.front().and_then(|(pkid, progress)| (*progress == Progress::Done).then_some(*pkid))
    }

    /// [`Arrivals::due`] was handed to the wire.
    pub(super) fn acknowledged(&mut self) {
        self.acknowledged += u64::from(self.waiting.pop_front().is_some());
    }
}

/// What was sent, and will be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// The publish with this packet id.
    Publish(u16),
    Ping,
}

/// Of one connection: which PUBACKs the broker is known to have, because it answered something that was sent after them.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// PUBACKs written.
    written: u64,
    /// How many of them the broker has.
    known: u64,
    /// The one question that is looked at, and the PUBACKs that were written before it. Others that are asked meanwhile would
    /// only tell a little more.
    asked: Option<(Question, u64)>,
}

impl Receipts {
    /// A PUBACK was written.
    pub(super) fn written(&mut self) {
        self.written += 1;
    }

    /// Something was sent.
    pub(super) fn asked(&mut self, question: Question) {
        if self.asked.is_none() && self.written > self.known {
            self.asked = Some((question, self.written));
        }
    }

    /// It was answered. Gives how many PUBACKs the broker has, if that is news.
    pub(super) fn answered(&mut self, question: Question) -> Option<u64> {
        let (_, known) = self.asked.take_if(|(asked, _)| *asked == question)?;
        self.known = known;
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(arrivals: &mut Arrivals) -> Vec<u16> {
        std::iter::from_fn(|| {
            let pkid = arrivals.due()?;
            arrivals.acknowledged();
            Some(pkid)
        })
        .collect()
    }

    #[test]
    fn acknowledged_in_the_order_of_arrival_whatever_is_done_first() {
        let mut arrivals = Arrivals::default();
        for pkid in [7, 8, 9] {
            arrivals.arrived(pkid);
        }
        arrivals.done(9);
        arrivals.done(1);
        assert_eq!(drain(&mut arrivals), [0; 0]);
        arrivals.done(7);
        assert_eq!(drain(&mut arrivals), [7]);
        arrivals.done(8);
        assert_eq!(drain(&mut arrivals), [8, 9]);
    }

    #[test]
    fn what_is_forgotten_is_not_acknowledged() {
        let mut arrivals = Arrivals::default();
        for pkid in [7, 8, 9, 10] {
            arrivals.arrived(pkid);
        }
        assert_eq!(arrivals.forget_from(9), 2);
        for pkid in [10, 9, 8, 7] {
            arrivals.done(pkid);
        }
        assert_eq!(drain(&mut arrivals), [7, 8]);
        assert!(arrivals.is_empty());
    }

    #[test]
    fn numbers_are_those_of_the_pubacks_also_after_something_was_forgotten() {
        let mut arrivals = Arrivals::default();
        assert_eq!([7, 8, 9].map(|pkid| arrivals.arrived(pkid)), [1, 2, 3]);
        arrivals.done(7);
        assert_eq!(drain(&mut arrivals), [7]);
        assert_eq!(arrivals.arrived(7), 4);
        assert_eq!(arrivals.forget_from(9), 2);
        assert_eq!(arrivals.arrived(10), 3, "the next but 8 that is acknowledged");
    }

    #[test]
    fn the_broker_has_what_was_written_before_a_question_that_it_answered() {
        let mut receipts = Receipts::default();
        receipts.asked(Question::Ping);
        receipts.written();
        assert_eq!(receipts.answered(Question::Ping), None, "it was asked before");
        receipts.asked(Question::Publish(4));
        receipts.written();
        receipts.asked(Question::Ping);
        assert_eq!(receipts.answered(Question::Publish(3)), None);
        assert_eq!(receipts.answered(Question::Publish(4)), Some(1));
        assert_eq!(receipts.answered(Question::Publish(4)), None);
        receipts.asked(Question::Ping);
        assert_eq!(receipts.answered(Question::Ping), Some(2));
        receipts.asked(Question::Ping);
        assert_eq!(receipts.answered(Question::Ping), None, "there is no more to know");
    }

    #[test]
    fn a_packet_id_may_come_again() {
        let mut arrivals = Arrivals::default();
        arrivals.arrived(7);
        arrivals.arrived(7);
        arrivals.done(7);
        assert_eq!(drain(&mut arrivals), [7]);
        arrivals.done(7);
        assert_eq!(drain(&mut arrivals), [7]);
    }
}
