//! Publishing on a connection: sends jobs while the window has room, and handles their PUBACKs.

use tokio::time::Instant;
use tracing::warn;

use super::arrivals::Question;
use super::connection::{Connection, End, Phase, SETTLE, Step};
use super::delivery::{Ack, Delivery, ForNow, NotNow, Refusal};
use super::explanations::Failure;
use super::outbox::{Job, Origin};
use super::packets::Version;
use super::standing::Outcome;
use super::state::LinkCounters;
use super::wire::LAST_PUBLISH_ID;
use super::{refused, validate};
use crate::os::clock::boot_now;

impl<V: Version> Connection<'_, V> {
    pub(super) fn send_waiting(&mut self) {
        let now = Instant::now();
        let leaving = matches!(self.phase, Phase::Leaving);
        if self.paused_until.is_some_and(|until| now < until) && !leaving {
            return;
        }
        while let Some((key, job)) = self.task.outbox.first_waiting() {
            if leaving && matches!(job.origin, Origin::Probe) {
                self.task.outbox.take(key);
                continue;
            }
            // While leaving, only `offline` is sent. It may take the last place, which the window leaves free.
            let limit = match (leaving, self.task.outbox.has_suspects()) {
                (true, _) => self.receive_maximum.min(usize::from(LAST_PUBLISH_ID)),
                (false, true) => 1,
                (false, false) => self.window,
            };
            if self.task.outbox.outstanding() >= limit || (leaving && !key.is_links_own()) {
                break;
            }
            let fit = if job.handling.is_withdrawn() {
                Fit::Never(Delivery::Withdrawn)
            } else {
                fit::<V>(job, self.maximum_packet)
            };
            match fit {
                Fit::Now(expiry) => {
                    if !self.wire.has_room() {
                        break;
                    }
                    let Some((pkid, job)) = self.task.outbox.sent(key) else { break };
                    self.wire.publish(pkid, &job.publication, expiry);
                    self.receipts.asked(Question::Publish(pkid));
                    LinkCounters::one(&self.task.counters.published);
                    self.answer_due.get_or_insert(now + self.patience);
                }
                Fit::Never(delivery) => {
                    if let Some(job) = self.task.outbox.take(key) {
                        self.finish(job, delivery);
                    }
                }
            }
        }
    }

    pub(super) fn on_acked(&mut self, pkid: u16, ack: Ack) -> Step {
        let oldest = self.task.outbox.oldest_in_flight();
        let Some(job) = self.task.outbox.acked(pkid) else {
            return Err(End::Lost(Failure::Protocol(format!(
                "it acknowledged packet {pkid}, which was not in flight"
            ))));
        };
        let now = Instant::now();
        // If every PUBACK moved the limit, a publish that the broker left out would never be overdue.
        if oldest == Some(pkid) {
            self.answer_due = (self.task.outbox.outstanding() > 0).then_some(now + self.patience);
        }
        if let Ack::Done { no_subscribers } = ack {
            self.finish(job, Delivery::Acked { no_subscribers });
            return Ok(());
        }
        self.refused_at = Some(now);
        if self.task.outbox.has_suspects() {
            self.paused_until = Some(now + SETTLE);
        }
        let (how, refused_for_now) = match ack {
            Ack::QuotaExceeded => (NotNow::Busy, "quota exceeded"),
            Ack::Failed(reason) => (NotNow::Refused, reason),
            _ => {
                let refusal = refused::refusal(&self.task.dialer.config.base, &job.publication.topic, ack);
                self.finish(job, Delivery::Refused(refusal));
                return Ok(());
            }
        };
        match job.origin {
            Origin::Standing(version) => {
                self.standing_refused_for_now(&job.publication.topic, version, refused_for_now);
            }
            Origin::Caller(_) => {
                let cause = match how {
                    NotNow::Busy => format!("the broker is busy: {refused_for_now}"),
                    NotNow::Refused | NotNow::Fatal => format!("the broker refuses it for now: {refused_for_now}"),
                };
                self.finish(job, Delivery::ForNow(ForNow { cause, how }));
            }
            Origin::Probe | Origin::Offline { .. } => {
                let refusal = Refusal {
                    reason: format!("the broker refuses it for now: {refused_for_now}"),
                    remedy: "look for the reason in the broker's log".to_owned(),
                };
                self.finish(job, Delivery::Refused(refusal));
            }
        }
        Ok(())
    }

    fn finish(&mut self, job: Job, delivery: Delivery) {
        match &job.origin {
            Origin::Caller(_) => self.task.complete(job, delivery),
            Origin::Standing(version) => self.standing_finished(&job.publication.topic, *version, &delivery),
            Origin::Probe => self.probe_finished(&delivery),
            Origin::Offline { .. } if self.task.outbox.has_said_farewell() => self.disconnect(End::Stopped),
            Origin::Offline { .. } => {}
        }
    }

    /// A publish of our own state has its outcome. No caller waits for it, so a refusal is logged here.
    fn standing_finished(&mut self, topic: &str, version: u64, delivery: &Delivery) {
        let outcome = match delivery {
            Delivery::Acked { .. } => {
                self.task.topic_taken(topic);
                Outcome::Acked
            }
            Delivery::Refused(refusal) => {
                self.own_refused(topic, refusal);
                Outcome::ForGood
            }
            // Our own state has no deadline and is never withdrawn.
            Delivery::ForNow(_) | Delivery::Withdrawn | Delivery::Expired | Delivery::Closed => Outcome::ForNow,
        };
        self.task.ends.standing.ended(topic, version, outcome, Instant::now());
    }

    fn standing_refused_for_now(&mut self, topic: &str, version: u64, reason: &str) {
        if self.task.ends.standing.ended(topic, version, Outcome::ForNow, Instant::now()) {
            let reason = format!("the broker refuses it for now, again and again: {reason}");
            self.own_refused(topic, &Refusal { reason, remedy: "look for the reason in the broker's log".to_owned() });
        }
    }

    fn own_refused(&mut self, topic: &str, refusal: &Refusal) {
        if self.task.topic_refused(topic, refusal) {
            let Refusal { reason, remedy } = refusal;
            warn!(topic, reason, remedy, "the bridge's own state cannot be published");
        }
    }

    /// Makes jobs of the retained state that the broker does not have yet, one at a time for each topic.
    pub(super) fn send_standing(&mut self) {
        let now = Instant::now();
        while let Some((version, publication)) = self.task.ends.standing.next(now) {
            self.task.outbox.add(publication, Origin::Standing(version));
        }
    }
}

/// Whether a job can be sent on this connection.
enum Fit {
    /// It can be sent; its remaining expiry in seconds.
    Now(Option<u32>),
    /// It cannot be sent; its outcome.
    Never(Delivery),
}

fn fit<V: Version>(job: &Job, maximum_packet: usize) -> Fit {
    let publication = &job.publication;
    let left = publication.deadline.map(|deadline| deadline.saturating_sub(boot_now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Fit::Never(Delivery::Expired);
    }
    if let Err(refusal) = validate::check(publication) {
        return Fit::Never(Delivery::Refused(refusal));
    }
    // An expiry of 0 would mean that it has expired.
    let expiry = left.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
    // To know the exact size, the packet has to be built: only needed near the broker's limit.
    if publication.packet_size_at_most() <= maximum_packet {
        return Fit::Now(expiry);
    }
    let size = V::size(&V::publish(1, publication, expiry));
    if size > maximum_packet {
        let reason = format!("the packet has {size} bytes, the broker takes {maximum_packet}");
        let remedy = "raise the broker's packet size limit".to_owned();
        return Fit::Never(Delivery::Refused(Refusal { reason, remedy }));
    }
    Fit::Now(expiry)
}
