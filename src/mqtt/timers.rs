//! The time limits of a connection.
//!
//! Whether the broker is alive at all is watched by the wire, with its own pings. The limits here are for single answers:
//! SUBACK, UNSUBACK, PUBACK, and the self-test's probe. An answer that is overdue may still be on its way: behind megabytes of
//! other messages on a slow line, or unread in the socket after this process stood still. So when a limit has passed, the link
//! first sends a ping. The broker sends its PINGRESP after all answers to earlier packets. If the overdue answer has not
//! arrived by then, it will not come.

use std::time::Duration;

use tokio::time::Instant;

use super::arrivals::Question;
use super::connection::{Connection, End, Inquiry, Phase, Step};
use super::packets::Version;

/// A broker that sends other packets for so long, but no PINGRESP, does not read what we send.
const LONGEST_INQUIRY: Duration = Duration::from_mins(10);

impl<V: Version> Connection<'_, V> {
    /// The broker's next answer is overdue after this time.
    pub(super) fn answer_within(&mut self, limit: Duration) {
        self.answer_due = Some(Instant::now() + limit);
    }

    /// When [`Self::check_timers`] has something to do next.
    pub(super) fn next_wake(&self) -> Instant {
        let standing = if matches!(self.phase, Phase::Up) { self.task.ends.standing.next_due() } else { None };
        let answers = match &self.inquiry {
            Some(inquiry) => [Some(inquiry.since + LONGEST_INQUIRY), None],
            None => [self.answer_due, self.probe.heard_by],
        };
        let own = [self.phase_until, self.paused_until, self.probe.recheck_at, standing];
        let never = Instant::now() + LONGEST_INQUIRY;
        own.into_iter().chain(answers).flatten().fold(never, Instant::min)
    }

    /// Acts on the limits that have passed.
    pub(super) fn check_timers(&mut self) -> Step {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(self.paused_until) {
            self.paused_until = None;
        }
        if passed(self.phase_until) {
            self.phase_until = None;
            self.on_phase_overdue()?;
        }
        match &self.inquiry {
            Some(inquiry) if inquiry.since + LONGEST_INQUIRY <= now => {
                return Err(End::Lost(self.task.dialer.explain().stalled()));
            }
            None if passed(self.answer_due) || passed(self.probe.heard_by) => {
                self.inquiry = Some(Inquiry { number: self.ping(), since: now });
            }
            _ => {}
        }
        self.recheck_if_due(now)
    }

    /// Sends a ping, and returns its number. With its answer the broker has everything that was sent before.
    pub(super) fn ping(&mut self) -> u64 {
        let number = self.wire.ping();
        self.receipts.asked(Question::Ping(number));
        number
    }

    /// The broker answered the ping with this number.
    pub(super) fn on_ping_answered(&mut self, number: u64) -> Step {
        let Some(inquiry) = self.inquiry.take_if(|inquiry| inquiry.number == number) else { return Ok(()) };
        let missed = |at: Option<Instant>| at.is_some_and(|at| at <= inquiry.since);
        if missed(self.answer_due) {
            return Err(End::Lost(self.task.dialer.explain().unanswered()));
        }
        if missed(self.probe.heard_by) {
            self.probe_unheard();
        }
        Ok(())
    }
}
