//! The QoS 1 messages of one connection that are not acknowledged yet, in the order they arrived.
//!
//! MQTT wants PUBACKs in that order, while the daemon may be done with a later message first.

use std::collections::VecDeque;

/// Of one connection; a new one starts with none, and its broker sends again what was left.
#[derive(Debug, Default)]
pub(super) struct Arrivals(VecDeque<(u16, Progress)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Pending,
    Done,
}

impl Arrivals {
    pub(super) fn arrived(&mut self, pkid: u16) {
        self.0.push_back((pkid, Progress::Pending));
    }

    /// The message may be acknowledged once all before it may.
    pub(super) fn done(&mut self, pkid: u16) {
        if let Some(entry) = self.0.iter_mut().find(|entry| **entry == (pkid, Progress::Pending)) {
            entry.1 = Progress::Done;
        }
    }

    /// Takes out the first message with this packet id that is not done, and all that came after it. Returns how many.
    pub(super) fn forget_from(&mut self, pkid: u16) -> u64 {
        let before = self.0.len();
        if let Some(at) = self.0.iter().position(|entry| *entry == (pkid, Progress::Pending)) {
            self.0.truncate(at);
        }
        u64::try_from(before - self.0.len()).unwrap_or(u64::MAX)
    }

    /// Whether a message with this packet id waits to be done.
    pub(super) fn has(&self, pkid: u16) -> bool {
        self.0.contains(&(pkid, Progress::Pending))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The packet id to acknowledge next.
    pub(super) fn due(&self) -> Option<u16> {
        self.0.front().and_then(|(pkid, progress)| (*progress == Progress::Done).then_some(*pkid))
    }

    /// [`Arrivals::due`] was handed to the wire.
    pub(super) fn acknowledged(&mut self) {
        self.0.pop_front();
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
