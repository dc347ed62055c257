//! Accepts the messages of devices: decodes each, makes it durable, and only then acknowledges it; or refuses it with a result.
//!
//! ```text
//!  link ──PUBLISH──► 1 redelivery? ──► 2 decode ──► 3 spool ──► PUBACK ──► deliver loop
//!                        │ yes            │ refused      │ full
//!                        ▼                ▼              ▼
//!                      PUBACK         result published, its PUBACK awaited ──► PUBACK
//! ```
//!
//! Messages on topics outside the base topic go to the routes (`storing`).
//!
//! Many messages are under way at once. They pass two stages, and keep the order of arrival in both: *storing* waits for the
//! disk only, so that the deliver loop gets the commands in order, whatever the broker does; *answering* may wait for the
//! PUBACK of a result.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use ulid::Ulid;

use super::attempt::passed;
use super::deliver::Accepted;
use super::intake::Intake;
use super::record::{Command, ReplyTo, StoredResult};
use super::redelivery::{Digest, Redelivery, digest};
use super::route_book::{Remembered, RouteBook};
use crate::delivery::refused::{Kept, SetAside};
use crate::delivery::routing::Routing;
use crate::delivery::{Part, Settled, hand_over, settle};
use crate::local::command::{decode, reference};
use crate::local::{Base, Command as Decoded, CommandResult, Parsed, Reason, Rejection, Rules, response_topic_allowed};
use crate::mqtt::{AckToken, Arrived, Backoff, Commands, Handling, Incoming, LinkState, Publisher};
use crate::observe::counters::Counters;
use crate::observe::log::{SaidOnce, clipped};
use crate::observe::progress::Progress;
use crate::os::clock::{self, Stamp};
use crate::store::{AppendError, Key, Queue, SpoolError, Store};

/// The most messages under way. An MQTT 5 broker sends fewer; this bounds QoS 0 and MQTT 3.1.1.
const UNDER_WAY: usize = 512;
/// The wait between two tries to record that the session was lost.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// How long a stopping loop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(3);

/// The part of the configuration that the loop needs.
pub struct AcceptConfig {
    /// The base topic.
    pub base: Base,
    /// What may be called, and how large.
    pub rules: Rules,
    /// `mqtt.max_packet`. Larger messages come only from brokers that cannot be told the limit (3.1.1), or ignore it.
    pub max_packet: usize,
    /// `outbound.ttl`.
    pub ttl: Duration,
    /// `mqtt.response_topics`.
    pub response_topics: Vec<String>,
    /// `homeassistant.discovery_prefix`.
    pub discovery_prefix: String,
    /// The topic on which Home Assistant tells that it has started, if that is of interest.
    pub birth_topic: Option<String>,
}

/// The loop's surroundings.
pub struct Accept {
    /// The configuration.
    pub config: AcceptConfig,
    /// Stores commands.
    pub spool: Arc<dyn Store>,
    /// Publishes the results of refused commands.
    pub publisher: Publisher,
    /// Keeps results that the broker refuses for good.
    pub set_aside: SetAside,
    /// The link's state: tells when the MQTT session was lost.
    pub link: watch::Receiver<LinkState>,
    /// The routes in force.
    pub routing: watch::Receiver<Arc<Routing>>,
    /// What the routes sent last.
    pub book: RouteBook,
    /// Counts the starts of Home Assistant.
    pub births: watch::Sender<u64>,
    /// Gets every durable command.
    pub accepted: mpsc::UnboundedSender<Accepted>,
    /// Gets the row number of every durable result.
    pub results: mpsc::UnboundedSender<u64>,
    /// The way into the queue.
    pub intake: Arc<Intake>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Whether the loop is stuck.
    pub progress: Progress,
    /// The ignored response topics that the log has told of.
    pub ignored: SaidOnce,
}

/// A message in the first stage: it is stored or refused. If the spool failed, neither this message nor any later one may be
/// acknowledged, not even a redelivery of this one.
pub(super) type Storing = Pin<Box<dyn Future<Output = Result<Done, SpoolError>> + Send>>;
/// A message in the second stage: it is answered. Resolves to its ack token; none if it must not be acknowledged.
pub(super) type Answering = Pin<Box<dyn Future<Output = Option<AckToken>> + Send>>;

/// The outcome of the first stage.
pub(super) struct Done {
    /// The commands that are durable.
    pub(super) accepted: Vec<Accepted>,
    /// What their routes sent.
    pub(super) remembered: Vec<Remembered>,
    pub(super) answering: Answering,
}

impl Done {
    /// There is nothing but the second stage.
    pub(super) fn but(answering: impl Future<Output = Option<AckToken>> + Send + 'static) -> Self {
        Self { accepted: Vec::new(), remembered: Vec::new(), answering: Box::pin(answering) }
    }

    /// The message only has to be acknowledged.
    pub(super) fn acknowledged(ack: Option<AckToken>) -> Self {
        Self::but(ready(ack))
    }
}

impl Accept {
    /// Runs until `stop` or until the link ends.
    ///
    /// # Errors
    /// If the spool failed.
    pub async fn run(self, mut commands: Commands, stop: CancellationToken) -> Result<(), SpoolError> {
        let accept = Arc::new(self);
        let mut redelivery = Redelivery::new(accept.spool.redeliveries().await?);
        let (mut link, mut session) = (accept.link.clone(), 0);
        let mut storing: FuturesOrdered<Unconstrained<Storing>> = FuturesOrdered::new();
        let mut answering: FuturesOrdered<Answering> = FuturesOrdered::new();
        loop {
            accept.progress.rest();
            let unrecorded = accept.link.borrow().session_began != session;
            let due = accept.next_due().map(|at| Instant::now() + clock::nap(at, clock::boot_now()));
            // next() and changed() are cancel-safe, the timer only observes; FuturesOrdered keeps what is not finished.
            let arrived = tokio::select! {
                () = stop.cancelled() => break,
                // At once: if the bridge were killed before the next message, the next run would not know of the loss.
                Ok(()) = link.changed() => {
                    accept.forget_lost_session(&mut session, &mut redelivery).await?;
                    continue;
                }
                () = sleep(RECORD_AGAIN), if unrecorded => {
                    accept.forget_lost_session(&mut session, &mut redelivery).await?;
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    storing.push_back(unconstrained(accept.take_due()));
                    continue;
                }
                Some(done) = storing.next() => {
                    answering.push_back(accept.answer(done?));
                    continue;
                }
                Some(ack) = answering.next() => {
                    accept.acknowledge(ack);
                    continue;
                }
                arrived = commands.next(), if storing.len() + answering.len() < UNDER_WAY => arrived,
            };
            let message = match arrived {
                None => break,
                Some(Arrived::Message(message)) => *message,
                Some(Arrived::Settled(settled)) => {
                    accept.spool.forget_redeliveries(redelivery.settled(settled));
                    continue;
                }
            };
            accept.progress.beat();
            accept.forget_lost_session(&mut session, &mut redelivery).await?;
            // Unconstrained: if tokio made this task yield in the middle, the futures inside would be woken in reverse order,
            // and commands would be stored in that order.
            storing.push_back(unconstrained(accept.take(message, &mut redelivery)));
        }
        let drain = async {
            while let Some(done) = storing.next().await {
                answering.push_back(accept.answer(done?));
            }
            while let Some(ack) = answering.next().await {
                accept.acknowledge(ack);
            }
            Ok(())
        };
        timeout(DRAIN, drain).await.unwrap_or(Ok(()))
    }

    /// Forgets the redelivery keys of a lost MQTT session, because packet ids start again in a new one. `session` is the
    /// one that the spool knows; while the spool refuses, this is tried again with every message, and every second.
    async fn forget_lost_session(&self, session: &mut u64, redelivery: &mut Redelivery) -> Result<(), SpoolError> {
        let present = self.link.borrow().session_began;
        if present == *session {
            return Ok(());
        }
        let is_new = redelivery.lost(present);
        match self.spool.forget_session(present).await {
            Ok(()) => *session = present,
            Err(failed @ SpoolError::Failed(_)) => return Err(failed),
            Err(error) if is_new => warn!(%error, "could not record yet that the MQTT session was lost"),
            Err(_) => {}
        }
        Ok(())
    }

    fn answer(&self, Done { accepted, remembered, answering }: Done) -> Answering {
        // The note comes first, because a command that fails at once corrects it.
        for remembered in remembered {
            self.book.stored(&remembered);
        }
        for accepted in accepted {
            let _ = self.accepted.send(accepted);
        }
        answering
    }

    fn acknowledge(&self, ack: Option<AckToken>) {
        if let Some(token) = ack {
            self.publisher.ack(token);
        }
    }

    fn take(self: &Arc<Self>, message: Incoming, redelivery: &mut Redelivery) -> Storing {
        let acknowledged = |ack| -> Storing { Box::pin(ready(Ok(Done::acknowledged(ack)))) };
        // At QoS 0 there are no redeliveries.
        let digest = if message.qos == 0 { [0; 32] } else { digest(&message) };
        if redelivery.is_stored(&message, &digest) {
            self.counters.commands_redelivered.add();
            debug!(topic = message.topic, "the broker delivered a stored command again");
            return acknowledged(message.ack);
        }
        if redelivery.is_used_again(&message) {
            self.spool.forget_redeliveries(vec![message.pkid]);
        }
        if self.config.base.strip(&message.topic).is_none() {
            if self.config.birth_topic.as_ref() == Some(&message.topic) && message.payload == "online" {
                self.births.send_modify(|births| *births += 1);
            }
            return self.take_routed(message, digest, redelivery);
        }
        if message.retain && message.payload.is_empty() {
            // No command: somebody clears a retained one, as its result says to do.
            return acknowledged(message.ack);
        }
        let new_id = Ulid::generate().to_bytes();
        let decoded = match self.decode(&message) {
            Ok(Parsed::Command(decoded)) => decoded,
            // The self-test's probe, or an imitation of it: never executed, and without a result.
            Ok(Parsed::SelfTest(_)) => return acknowledged(message.ack),
            Err(rejection) => {
                // amqtt sends every new client the retained messages of all clients' subscriptions.
                if self.config.base.result(&message.topic).is_none() {
                    debug!(topic = message.topic, "ignored a message that we are not subscribed to");
                    return acknowledged(message.ack);
                }
                let id = redelivery.refusal_id(&message, digest, new_id);
                let reply_to = self.reply_to(&message);
                let refusal = Arc::clone(self).refuse(id, reply_to, rejection, message.ack);
                return Box::pin(ready(Ok(Done::but(refusal))));
            }
        };
        let key = Self::key(&message, digest, redelivery);
        let (ttl, reply_to) = (self.ttl(&decoded, &message), self.reply_to(&message));
        let command = Command::new(new_id, Stamp::now(), ttl, reply_to, decoded.call);
        let command = Command { reference: decoded.reference, ..command };
        Box::pin(Arc::clone(self).store(command, key, message.ack))
    }

    /// The key that goes into the spool with a command, by which its redelivery is recognised.
    pub(super) fn key(message: &Incoming, digest: Digest, redelivery: &mut Redelivery) -> Option<Key> {
        if message.qos == 0 {
            return None;
        }
        redelivery.note(message, digest);
        // If the session is lost while the message waits here, it is not delivered again, and the spool keeps no key.
        Some(Key { pkid: message.pkid, digest, connection: message.connection })
    }

    fn decode(&self, message: &Incoming) -> Result<Parsed, Rejection> {
        let AcceptConfig { base, rules, max_packet, .. } = &self.config;
        let size = message.topic.len() + message.payload.len();
        if size > *max_packet {
            // It is not even parsed: the parsed form may be many times larger.
            let what = format!("topic and payload have {size} bytes; mqtt.max_packet allows {max_packet}");
            return Err(Rejection::new(Reason::TooLarge, what, None));
        }
        let routing = self.routing.borrow();
        let parsed = decode(base, &message.topic, &message.payload, rules, routing.routes.names());
        if !message.retain {
            return parsed;
        }
        if let Ok(probe @ Parsed::SelfTest(_)) = parsed {
            return Ok(probe);
        }
        Err(Rejection::new(
            Reason::Retained,
            "a retained command is never executed, because a broker repeats it to every new subscriber; publish it without the retain flag and clear the retained one",
            reference(base, &message.topic, &message.payload),
        ))
    }

    /// The smaller of the message expiry and the command's own `ttl`; without both, the configured one.
    fn ttl(&self, decoded: &Decoded, message: &Incoming) -> Duration {
        let told = decoded.ttl.into_iter().chain(message.message_expiry.map(u64::from)).min();
        told.map_or(self.config.ttl, Duration::from_secs)
    }

    fn reply_to(&self, message: &Incoming) -> ReplyTo {
        let AcceptConfig { base, discovery_prefix, response_topics, .. } = &self.config;
        let allowed = message.response_topic.clone().filter(|topic| {
            let allowed = response_topic_allowed(topic, base, discovery_prefix, response_topics);
            if let Err(why) = &allowed {
                self.counters.response_topics_ignored.add();
                if self.ignored.is_new(clipped(topic)) {
                    warn!(
                        command = clipped(&message.topic),
                        response_topic = clipped(topic),
                        why,
                        "ignored a command's response topic; mqtt.response_topics says which are used (each is logged once)"
                    );
                }
            }
            allowed.is_ok()
        });
        let correlation_data = allowed.as_ref().and(message.correlation_data.as_ref()).map(|data| data.to_vec());
        ReplyTo { topic: message.topic.clone(), response_topic: allowed, correlation_data }
    }

    /// Publishes the result of a refused command. The command may be acknowledged once its result is acknowledged.
    pub(super) async fn refuse(
        self: Arc<Self>,
        id: [u8; 16],
        reply_to: ReplyTo,
        rejection: Rejection,
        ack: Option<AckToken>,
    ) -> Option<AckToken> {
        self.counters.commands_rejected.add();
        self.counters.series.command_rejected(rejection.reason);
        debug!(topic = reply_to.topic, reason = rejection.reason.as_str(), "refused a command");
        let result = CommandResult::rejected(Ulid::from_bytes(id), rejection, 0);
        self.counters.activity.note(passed("command", Some(&reply_to.topic), None, &result, &self.counters.activity));
        self.publish(reply_to, &result, ack).await
    }

    /// Publishes a result that is not in the spool. If the broker does not take it now, it is put into the spool, so that
    /// nothing waits for it.
    pub(super) async fn publish(
        &self,
        reply_to: ReplyTo,
        result: &CommandResult,
        ack: Option<AckToken>,
    ) -> Option<AckToken> {
        let mut backoff = Backoff::between(Duration::from_secs(1), Duration::from_mins(1));
        loop {
            let parts = reply_to.publications(&self.config.base, result).into_iter();
            let parts = parts.map(Part::plain).collect();
            let handling = Handling::default();
            match settle(hand_over(&self.publisher, parts, &handling).await, &handling).await {
                Settled::All { refused, .. } => {
                    if !refused.is_empty() {
                        let row = StoredResult::row(&reply_to, result);
                        // Goes on also if it cannot be kept: one message must not hold up the PUBACKs of all others.
                        self.set_aside.keep(&Kept::new(Queue::Outbound, &refused, row)).await;
                    }
                    return ack;
                }
                Settled::Stopped => return None,
                Settled::ForNow { .. } | Settled::Again { .. } => {}
            }
            match self.spool.append(Queue::Outbound, StoredResult::row(&reply_to, result), None).await {
                Ok(seq) => {
                    let _ = self.results.send(seq);
                    return ack;
                }
                Err(AppendError::Spool(SpoolError::Failed(_))) => return None,
                Err(_) => sleep(backoff.next()).await,
            }
        }
    }
}
