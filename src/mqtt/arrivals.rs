//! The QoS 1 messages that arrived on one connection and are not acknowledged yet.
//!
//! MQTT requires PUBACKs in the order of arrival, but the daemon may finish a later message first: [`Arrivals`] keeps that
//! order. Nothing acknowledges a PUBACK. The broker is known to have it once it answers something that we sent after it
//! ([`Receipts`]).

use std::collections::VecDeque;

/// The messages of one connection. The next connection starts empty: the broker sends again what was not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    waiting: VecDeque<(u16, Progress)>,
    /// How many PUBACKs were handed to the wire: those of the first messages that arrived.
    acknowledged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Pending,
    Done,
}

impl Arrivals {
    /// Notes a message. Returns its number on this connection.
    pub(super) fn arrived(&mut self, pkid: u16) -> u64 {
        self.waiting.push_back((pkid, Progress::Pending));
        self.acknowledged + self.waiting.len() as u64
    }

    /// The daemon is done with a message: it may be acknowledged once all messages before it may.
    pub(super) fn done(&mut self, pkid: u16) {
        if let Some(entry) = self.waiting.iter_mut().find(|entry| **entry == (pkid, Progress::Pending)) {
            entry.1 = Progress::Done;
        }
    }

    /// Removes the first message with this packet id that is not done, and all messages after it. Returns how many were
    /// removed.
    pub(super) fn forget_from(&mut self, pkid: u16) -> u64 {
        let before = self.waiting.len();
        if let Some(at) = self.waiting.iter().position(|entry| *entry == (pkid, Progress::Pending)) {
            self.waiting.truncate(at);
        }
        u64::try_from(before - self.waiting.len()).unwrap_or(u64::MAX)
    }

    /// Whether the daemon is not done yet with a message of this packet id.
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

/// Something that we sent and the broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// The publish with this packet id.
    Publish(u16),
    /// The ping with this number.
    Ping(u64),
}

/// Which PUBACKs of one connection the broker is known to have, because it answered something that was sent after them.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// How many PUBACKs were sent.
    written: u64,
    /// How many of them the broker has.
    known: u64,
    /// The question whose answer is awaited, and how many PUBACKs were sent before it. One at a time is enough: further
    /// questions would only tell a little earlier.
    asked: Option<(Question, u64)>,
}

impl Receipts {
    /// A PUBACK was sent.
    pub(super) fn written(&mut self) {
        self.written += 1;
    }

    /// Whether the broker is known to have every PUBACK.
    pub(super) fn all_known(&self) -> bool {
        self.known == self.written
    }

    /// Whether an answer is awaited.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// A question was sent.
    pub(super) fn asked(&mut self, question: Question) {
        if self.asked.is_none() && self.written > self.known {
            self.asked = Some((question, self.written));
        }
    }

    /// A question was answered. Returns how many PUBACKs the broker has, if that is news.
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
        assert!(receipts.all_known());
        receipts.asked(Question::Ping(1));
        receipts.written();
        assert!(!receipts.all_known() && !receipts.is_asking());
        assert_eq!(receipts.answered(Question::Ping(1)), None, "it was asked before");
        receipts.asked(Question::Publish(4));
        receipts.written();
        receipts.asked(Question::Ping(2));
        assert_eq!(receipts.answered(Question::Publish(3)), None);
        assert!(receipts.is_asking());
        assert_eq!(receipts.answered(Question::Publish(4)), Some(1));
        assert_eq!(receipts.answered(Question::Publish(4)), None);
        receipts.asked(Question::Ping(3));
        assert_eq!(receipts.answered(Question::Ping(2)), None, "another was asked before the second PUBACK");
        assert_eq!(receipts.answered(Question::Ping(3)), Some(2));
        assert!(receipts.all_known());
        receipts.asked(Question::Ping(4));
        assert_eq!(receipts.answered(Question::Ping(4)), None, "there is no more to know");
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
