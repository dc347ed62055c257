//! A link without a network, for tests of the code that uses the link. The test plays the broker.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::incoming::{self, CommandSender};
use super::publisher::PublisherEnds;
use super::standing::Standing;
use super::{AckToken, Commands, Delivery, Incoming, LinkCounters, Publisher, Settled, Timing};
use crate::local::Publication;

/// The number of the only connection.
pub(crate) const CONNECTION: u64 = 1;

/// The broker's end.
pub(crate) struct Broker {
    commands: CommandSender,
    ends: PublisherEnds,
}

/// What the broker receives.
pub(crate) enum Heard {
    /// A publish, and where to send its outcome.
    Published(Publication, oneshot::Sender<Delivery>),
    /// The acknowledgement of a message.
    Acked(u16),
}

/// A bridge's ends of the link, connected to a broker.
pub(crate) fn link() -> (Publisher, Commands, Broker) {
    let (publisher, ends) = Publisher::new(Standing::new(&Timing::default()), LinkCounters::default().into());
    let (sender, commands) = incoming::channel();
    (publisher, commands, Broker { commands: sender, ends })
}

impl Broker {
    /// A message of QoS 1 in a session that was there before.
    pub(crate) fn send(&self, topic: &str, payload: Bytes, (pkid, arrival): (u16, u64), dup: bool) {
        let message = Incoming {
            topic: topic.to_owned(),
            payload,
            qos: 1,
            dup,
            pkid,
            connection: CONNECTION,
            arrival,
            session_present: true,
            ack: Some(AckToken { generation: CONNECTION, pkid }),
            ..Incoming::default()
        };
        // A bridge that stops does not take it; the broker would send it again.
        let _ = self.commands.hand_over(message);
    }

    /// Says that the broker has the PUBACKs of all messages up to this arrival.
    pub(crate) fn settled(&self, up_to: u64) {
        self.commands.settled(Settled { connection: CONNECTION, up_to });
    }

    /// The next packet that the bridge sends. Cancel-safe.
    pub(crate) async fn hears(&mut self) -> Option<Heard> {
        tokio::select! {
            Some(handed) = self.ends.jobs.recv() => Some(Heard::Published(handed.publication, handed.done)),
            Some(acked) = self.ends.acks.recv() => Some(Heard::Acked(acked.pkid)),
            else => None,
        }
    }
}
