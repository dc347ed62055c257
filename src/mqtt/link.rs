//! The link's task: opens one connection after another, for as long as the daemon runs.
//!
//! ```text
//!            publish()                                                              Completion
//!               │ 1                                                                     ▲ 5
//!               ▼                                                                       │
//!   ┌───────► waiting ──2 publish(pkid)──3 in one write with others──► in flight ──4 PUBACK(pkid)
//!   │           ▲                                                         │
//!   │           └──6 refused for now                                      │ any error: the connection is thrown away,
//!   └───────────────────────────────────7─────────────────────────────────┘ all of it is sent again, in order
//!
//!   broker ──8 PUBLISH(pkid)──► arrivals ──► commands ──9 (made durable)──► ack(token) ──10 in order──► PUBACK(pkid)
//! ```
//!
//! 1. A publication becomes a job in the [`outbox`](super::outbox). Only the link sends it again.
//! 2. While there is room in the window and for bytes. Packet ids go round and pass over those in flight: brokers may
//!    acknowledge in any order. If the oldest publish in flight is not acknowledged in time, the broker has left it out: 7.
//! 3. Written when nothing else is left to do. Nothing waits for the write: what the socket does not take stays in the wire's
//!    buffer.
//! 4. Matched by packet id alone. An unknown packet id means that the broker lost count: 7.
//! 5. The broker has the publish, or refused it: for good, or for now (quota, unspecified error). The caller decides what to do
//!    then, because it knows what must wait for it.
//! 6. Only what the link publishes on its own account it also tries again on its own account.
//! 7. First, PUBACKs that have arrived and were not handled yet are handled. Then everything in flight waits again, the
//!    generation is increased, and after a back-off a new connection is opened. What was in flight when several connections
//!    were lost quickly is sent alone from then on; if a connection is lost again then, that counts as a refusal for now.
//! 8. The retained messages of the account check and the self-test are handled in the link. All others get a token (generation,
//!    packet id).
//! 9. A token of an earlier generation is dropped: its packet id may belong to another message by now.
//! 10. In the order of arrival, as MQTT requires.
//!
//! What happens on one connection is in [`connection`](super::connection).

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::backoff::Backoff;
use super::connection::{Connection, End, Ended};
use super::delivery::{Delivery, ForNow, NotNow};
use super::explanations::{Failure, History};
use super::packets::Version;
use super::standing::COSTS_WITHIN;
use super::state::{LinkCounters, Subscriptions};
use super::task::Task;

/// After so many connections in a row that end soon with a packet that cannot be decoded, the session is given up.
const LEAVE_SESSION_AFTER: u32 = 5;

impl Task {
    /// Runs until the shutdown. Jobs that are left then end as [`Delivery::Closed`].
    pub(super) async fn run<V: Version>(mut self) {
        let mut backoff = Backoff::new(&self.dialer.config.timing);
        let mut quick_losses = 0;
        while !self.shutdown.is_cancelled() && self.dialer.config.lease.holds() {
            self.generation += 1;
            let generation = self.generation;
            self.state.send_modify(|state| state.generation = generation);
            let Ended { end, stood, after_refusal } = Connection::<V>::open(&mut self).run().await;
            let stable = stood.is_some_and(|stood| stood >= self.dialer.config.timing.stable_after);
            if stable {
                backoff.reset();
            }
            quick_losses = if stood.is_some() && !stable { quick_losses + 1 } else { 0 };
            let suspicious = matches!(end, End::Lost(_)) && stood.is_some() && !stable && !after_refusal;
            self.lost(suspicious, after_refusal);
            let wait = match end {
                End::Stopped => break,
                End::Conflict(uid) => {
                    self.conflict(uid);
                    self.dialer.config.timing.conflict_retry
                }
                End::Lost(failure) | End::GaveUp(failure) => {
                    let history = History { stood: stood.is_some(), quick_losses, after_refusal };
                    self.failed(&failure, &history);
                    self.dialer.next_broker();
                    backoff.next()
                }
            };
            self.pause(wait).await;
        }
        self.disconnected("stopped".to_owned(), None, false);
        // Another member leads. Whoever started the link learns it as well, and ends all that belongs to it.
        self.shutdown.cancelled().await;
    }

    fn lost(&mut self, blame: bool, after_refusal: bool) {
        let suspects = if blame { self.outbox.standing_in_flight() } else { Vec::new() };
        self.ends.standing.lost(&suspects, after_refusal, Instant::now());
        if after_refusal {
            self.denied.cost(Instant::now(), COSTS_WITHIN);
        }
        let lost = self.outbox.lost(blame);
        LinkCounters::add(&self.counters.requeued, lost.requeued);
        if let Some(job) = lost.ended_at {
            let cause = "the broker ends the connection when it gets the message".to_owned();
            self.complete(job, Delivery::ForNow(ForNow { cause, how: NotNow::Fatal }));
        }
    }

    fn failed(&mut self, failure: &Failure, history: &History) {
        if matches!(failure, Failure::TooLarge(_)) {
            self.dialer.takes_any_size.store(true, Ordering::Relaxed);
        }
        self.note_undecodable(matches!(failure, Failure::Undecodable(_)) && history.quick_losses > 0);
        LinkCounters::one(&self.counters.failures);
        let cause = self.dialer.explain().failure(failure, history);
        let was_connected = self.state.borrow().connected;
        let news = was_connected || self.state.borrow().cause.as_deref() != Some(cause.as_str());
        // Before the log line: whoever reads it and then asks for the status gets the same answer.
        self.disconnected(cause.clone(), None, matches!(failure, Failure::TurnedAway(_)));
        match (was_connected, news) {
            (true, _) => warn!(cause, "the connection to the broker was lost; messages wait"),
            (false, true) => warn!(cause, "cannot connect to the broker; messages wait"),
            (false, false) => debug!(cause, "still cannot connect to the broker"),
        }
    }

    /// A message that cannot be decoded cannot be acknowledged either: the broker sends it first on every connection, and the
    /// messages behind it never arrive. Mosquitto checks what it forwards; with a broker that does not, one device could stop
    /// all others this way. The only way out is to give up the session. (A connection that lasted for a while had no such
    /// message before it.)
    fn note_undecodable(&mut self, undecodable: bool) {
        self.undecodable = if undecodable { self.undecodable + 1 } else { 0 };
        let leave = self.undecodable >= LEAVE_SESSION_AFTER;
        self.dialer.leaves_session.store(leave, Ordering::Relaxed);
        if leave {
            self.undecodable = 0;
            error!(
                "a message that cannot be decoded came with {LEAVE_SESSION_AFTER} connections in a row, and nothing else can come before it: the session at the broker is given up, and the commands that wait there are lost; the broker passes on what it should refuse, find the client that sends it in its log"
            );
        }
    }

    fn conflict(&mut self, uid: String) {
        let base = self.dialer.config.base.as_str();
        let cause = format!(
            "the bridge of uid {uid} is online under the base topic `{base}`: give each account its own mqtt.base_topic, or stop the other bridge"
        );
        let news = self.state.borrow().conflict.as_deref() != Some(uid.as_str());
        self.disconnected(cause.clone(), Some(uid), false);
        if news {
            warn!(cause, "another account uses our base topic; nothing is subscribed or published");
        }
    }

    fn disconnected(&self, cause: String, conflict: Option<String>, turned_away: bool) {
        self.state.send_modify(|state| {
            if state.connected {
                state.since = SystemTime::now();
            }
            state.connected = false;
            state.subscriptions = Subscriptions::Pending;
            (state.conflict, state.turned_away) = (conflict, turned_away);
            state.cause = Some(cause);
        });
    }

    /// Waits before the next attempt. Meanwhile drops acknowledgements: their connection has gone.
    async fn pause(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            // Cancel-safe: a timer with a fixed end, a channel's recv, a token.
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.shutdown.cancelled() => return,
                Some(_) = self.ends.acks.recv() => LinkCounters::one(&self.counters.stale_acks),
            }
        }
    }
}
