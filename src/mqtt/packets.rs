//! What the two versions of MQTT have in common. `v5` and `v311` make and read the packets with rumqttc's codecs.

use std::time::Duration;

use bytes::BytesMut;

use super::delivery::Ack;
use super::dialer::Dialer;
use super::explanations::{ConnectRefusal, Explain, Failure};
use super::incoming::Incoming;
use crate::local::Publication;

/// The largest packet in MQTT: five bytes of fixed header and 268,435,455 more.
pub(super) const LARGEST_PACKET: usize = 268_435_460;
/// The read buffer grows in such steps: a packet takes memory as it arrives, not as soon as its length is known.
pub(super) const READ_STEP: usize = 64 * 1024;

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker accepted the connection.
    Connected(Accepted),
    /// Everything that was to be sent is written.
    Written,
    /// The broker's PUBACK for our publish with this packet id.
    Acked(u16, Ack),
    /// A PINGREQ is sent; its number.
    PingSent(u64),
    /// The PINGREQ with this number is answered. PINGRESP carries no number: the wire counts.
    PingAnswered(u64),
    /// A message. `connection`, `arrival`, `session_present` and `ack` are not filled in yet.
    Message(Box<Incoming>),
    /// A QoS 1 message that is wrong in itself, but does not disturb the connection: it is acknowledged and dropped.
    Unreadable(u16),
    /// SUBACK: per filter, whether it was granted.
    Subscribed(Vec<bool>),
    /// UNSUBACK.
    Unsubscribed,
    /// The broker ended the connection, or made it unusable. [`Wire::poll`](super::wire::Wire::poll) returns this as an error.
    Ended(Failure),
    /// Nothing that matters to the link.
    Other,
}

/// The broker sent a packet that only clients send, one of QoS 2 (which we do not use), or one at the wrong time.
pub(super) fn out_of_place() -> Failure {
    Failure::Protocol("it sent a packet that has no place here".to_owned())
}

/// A packet with this first byte cannot be decoded. Only a PUBLISH may be another client's doing, and come again with the next
/// connection.
pub(super) fn undecodable(first: u8, what: String) -> Failure {
    const PUBLISH: u8 = 3;
    if first >> 4 == PUBLISH { Failure::Undecodable(what) } else { Failure::Protocol(what) }
}

/// What the CONNACK says.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) session_present: bool,
    pub(super) receive_maximum: u16,
    pub(super) maximum_packet: usize,
    pub(super) qos_1: bool,
    pub(super) retain: bool,
    /// Never more than ours, and never zero: pings tell us that the broker has gone.
    pub(super) keep_alive: Duration,
    pub(super) session_expiry: Option<u32>,
}

impl Accepted {
    /// Why the link cannot use such a connection, if so.
    pub(super) fn unusable(&self, explain: &Explain) -> Option<Failure> {
        match self {
            Self { receive_maximum: 0, .. } => Some(Failure::Protocol("a receive maximum of 0".to_owned())),
            Self { maximum_packet: 0, .. } => Some(Failure::Protocol("a maximum packet size of 0".to_owned())),
            Self { qos_1: false, .. } => {
                Some(explain.refused(ConnectRefusal::Other("it takes QoS 0 only; QoS 1 is needed".to_owned())))
            }
            Self { retain: false, .. } => Some(explain.refused(ConnectRefusal::RetainUnsupported)),
            _ => None,
        }
    }
}

/// What a subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subscription {
    /// QoS 1. In MQTT 5, retained messages are sent only if the subscription is new, and keep their retain flag.
    Commands,
    /// As `Commands`; in MQTT 5 with No Local: without our own publishes.
    Routes,
    /// QoS 0, for the retained messages of the account check.
    Look,
}

/// A version of MQTT.
pub(super) trait Version: 'static {
    type Packet;

    fn connect(dialer: &Dialer) -> Self::Packet;
    /// At QoS 1.
    fn publish(pkid: u16, publication: &Publication, expiry: Option<u32>) -> Self::Packet;
    fn ack(pkid: u16) -> Self::Packet;
    fn subscribe(pkid: u16, filters: &[(String, Subscription)]) -> Self::Packet;
    fn unsubscribe(pkid: u16, filter: &str) -> Self::Packet;
    fn ping() -> Self::Packet;
    fn disconnect() -> Self::Packet;

    /// How many bytes it takes.
    fn size(packet: &Self::Packet) -> usize;

    /// Appends it to `out`. After a failure, a part of it may be there: the caller removes it.
    fn write(packet: &Self::Packet, largest: usize, out: &mut BytesMut) -> Result<(), Failure>;

    /// Writes what [`Self::publish`] makes.
    fn write_publish(
        pkid: u16,
        publication: &Publication,
        expiry: Option<u32>,
        largest: usize,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        Self::write(&Self::publish(pkid, publication, expiry), largest, out)
    }

    /// Takes the first packet out of `came`, if it is complete. May panic on what a hostile broker sends.
    fn read(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure>;
}

#[cfg(test)]
mod tests {
    use super::super::v5::V5;
    use super::super::v311::V311;
    use super::*;

    #[test]
    fn no_packet_is_larger_than_it_could_be() {
        let plain = Publication::raw("t".to_owned(), "x");
        let rich = Publication {
            user_properties: [("id", "x".repeat(26)), ("kind", String::new()), ("time", "y".repeat(300))].into(),
            correlation_data: Some(vec![0; 20_000].into()),
            ..Publication::json("a/b/c".repeat(50), vec![b'x'; 3_000_000])
        };
        for publication in [plain, rich] {
            for expiry in [None, Some(1)] {
                let most = publication.packet_size_at_most();
                assert!(V5::size(&V5::publish(1, &publication, expiry)) <= most);
                assert!(V311::size(&V311::publish(1, &publication, expiry)) <= most);
            }
        }
    }
}
