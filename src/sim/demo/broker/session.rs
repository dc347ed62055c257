//! The state of one client: its subscriptions, what is queued for it, what is in flight to it, and its connection.
//!
//! A message at QoS 1 or 2 waits in the queue, then is in flight within the client's window until it is acknowledged.
//! After a new connection everything in flight is sent again, in its first order.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubRec, PubRecReason, PubRel, PubRelReason, Publish};
use tokio::sync::mpsc;

use super::wire::Will;

/// Packets that wait for one client to read. Messages at QoS 0 may take half of it; those at QoS 1 and 2 are held to a
/// window far below that, so that there is always room for answers.
pub(super) const OUTBOX: usize = 4096;
/// Messages that may wait for one client, and their bytes; what comes when it is full is dropped.
const MAX_QUEUED: usize = 10_000;
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// A message, and until when it is worth anything.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) publish: Publish,
    pub(super) deadline: Option<Instant>,
}

impl Message {
    pub(super) fn new(publish: Publish) -> Self {
        let expiry = publish.properties.as_ref().and_then(|properties| properties.message_expiry_interval);
        Self { publish, deadline: expiry.map(|seconds| Instant::now() + Duration::from_secs(seconds.into())) }
    }

    /// As it is told now: the rest of its time, in seconds. None when that is over.
    fn told(&self) -> Option<Publish> {
        let mut publish = self.publish.clone();
        if let Some(deadline) = self.deadline {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            if let Some(properties) = &mut publish.properties {
                properties.message_expiry_interval = Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
            }
        }
        Some(publish)
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// A filter with its options, and the number by which the client knows it.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) filter: Filter,
    pub(super) identifier: Option<usize>,
}

/// What is under way to a client.
#[derive(Debug)]
enum UnderWay {
    /// Sent, not yet received by the client.
    Sent(Box<Publish>),
    /// At QoS 2: received by the client, which has not yet said that it is done.
    Released,
}

/// The connection of a client that has one.
#[derive(Debug)]
pub(super) struct Connection {
    /// Tells it from earlier and later ones of the same client.
    pub(super) number: u64,
    pub(super) outbox: mpsc::Sender<Packet>,
    pub(super) window: u16,
    pub(super) max_packet: u32,
}

impl Connection {
    /// One that takes nothing any more ends by itself: its writer has a time limit.
    pub(super) fn send(&self, packet: Packet) -> bool {
        self.outbox.try_send(packet).is_ok()
    }

    fn takes(&self, publish: &Publish) -> bool {
        u32::try_from(publish.size()).is_ok_and(|size| size <= self.max_packet)
    }
}

/// See the head.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) subscriptions: Vec<Subscription>,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    under_way: Vec<(u16, UnderWay)>,
    /// Packet ids of QoS 2 messages that this client sent and has not released.
    pub(super) received: HashSet<u16>,
    last_id: u16,
    pub(super) connection: Option<Connection>,
    pub(super) will: Option<Will>,
    /// How long it outlives its connection, in seconds; `u32::MAX`: for ever.
    pub(super) expiry: u32,
    /// Since when it has no connection.
    pub(super) lost_at: Option<Instant>,
}

impl Session {
    /// Whether nobody has come back for it in time.
    pub(super) fn is_over(&self) -> bool {
        let lost_for = self.lost_at.filter(|_| self.connection.is_none()).map(|at| at.elapsed());
        self.expiry < u32::MAX && lost_for.is_some_and(|lost| lost >= Duration::from_secs(self.expiry.into()))
    }

    pub(super) fn send(&self, packet: Packet) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.send(packet))
    }

    /// Gives it a message, now or as soon as it has room.
    pub(super) fn give(&mut self, message: Message) {
        if message.publish.qos == QoS::AtMostOnce {
            if let (Some(connection), Some(publish)) = (&self.connection, message.told())
                && connection.outbox.capacity() > OUTBOX / 2
                && connection.takes(&publish)
            {
                connection.send(Packet::Publish(publish));
            }
            return;
        }
        let bytes = self.queued_bytes.saturating_add(message.publish.size());
        if self.queue.len() < MAX_QUEUED && bytes <= MAX_QUEUED_BYTES {
            self.queued_bytes = bytes;
            self.queue.push_back(message);
            self.pump();
        }
    }

    /// Sends what waits, as far as the window allows.
    fn pump(&mut self) {
        let Some(connection) = &self.connection else { return };
        while self.under_way.len() < usize::from(connection.window) {
            let Some(message) = self.queue.pop_front() else { return };
            self.queued_bytes = self.queued_bytes.saturating_sub(message.publish.size());
            let Some(publish) = message.told() else { continue };
            let id = free_id(&mut self.last_id, &self.under_way);
            let publish = Publish { pkid: id, ..publish };
            if connection.takes(&publish) {
                self.under_way.push((id, UnderWay::Sent(Box::new(publish.clone()))));
                connection.send(Packet::Publish(publish));
            }
        }
    }

    /// Sends again what was under way when the connection was lost, then what waits.
    pub(super) fn resume(&mut self) {
        for (id, under_way) in &self.under_way {
            let packet = match under_way {
                UnderWay::Sent(publish) => Packet::Publish(Publish { dup: true, ..Publish::clone(publish) }),
                UnderWay::Released => Packet::PubRel(PubRel::new(*id, None)),
            };
            if let Some(connection) = &self.connection {
                connection.send(packet);
            }
        }
        self.pump();
    }

    /// PUBACK or PUBCOMP: the client has it.
    pub(super) fn done(&mut self, id: u16) {
        self.under_way.retain(|(under_way, _)| *under_way != id);
        self.pump();
    }

    /// PUBREC: the client has received it, or will not.
    pub(super) fn received_by_client(&mut self, ack: &PubRec) -> bool {
        let refused = !matches!(ack.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers);
        let known = self.under_way.iter_mut().find(|(id, _)| *id == ack.pkid);
        let reason = match known {
            Some(_) if refused => {
                self.done(ack.pkid);
                return true;
            }
            Some((_, under_way)) => {
                *under_way = UnderWay::Released;
                PubRelReason::Success
            }
            None => PubRelReason::PacketIdentifierNotFound,
        };
        self.send(Packet::PubRel(PubRel { reason, ..PubRel::new(ack.pkid, None) }))
    }
}

/// The next packet id that is not under way; the window is far smaller than there are ids.
fn free_id(last: &mut u16, under_way: &[(u16, UnderWay)]) -> u16 {
    loop {
        *last = last.checked_add(1).unwrap_or(1);
        if under_way.iter().all(|(id, _)| id != last) {
            return *last;
        }
    }
}
