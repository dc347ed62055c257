//! The queue of received messages between the link and the command loop, bounded by count and by bytes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many QoS 1 messages an MQTT 5 broker may send before they are acknowledged. Mosquitto's default of 20 already reaches
/// 30,000 messages a second; this is three times as many. With the default packet limit of 1 MiB they take at most 64 MiB.
pub(super) const RECEIVE_MAXIMUM: u16 = 64;
/// The most messages in the queue, some 300 bytes each beside their content. A broker cannot have more of them unacknowledged,
/// because there are no more packet ids. It should have far fewer, but 3.1.1 has no receive maximum, and Mosquitto 2.0.11 was
/// seen with 31,000 where it was told 64.
const COUNT: usize = 65_535;
/// With this many messages in the queue, further ones of QoS 0 are dropped: the broker sends them without limit.
const COUNT_QOS_0: usize = 2048;
/// The most bytes of content in the queue: what the receive maximum allows at the default packet limit.
const BYTES: usize = 64 * 1024 * 1024;

/// A message from the broker that is not acknowledged yet.
#[derive(Default)]
pub struct Incoming {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// 0 or 1.
    pub qos: u8,
    /// Whether it came from the broker's store, or (MQTT 5) was published to be retained.
    pub retain: bool,
    /// The broker may have sent it before.
    pub dup: bool,
    /// The packet id; 0 at QoS 0.
    pub pkid: u16,
    /// The connection on which it arrived: the link's generation.
    pub connection: u64,
    /// Its number among the QoS 1 messages of that connection, from 1 on; 0 at QoS 0.
    pub arrival: u64,
    /// Whether that connection continued an earlier session. Only then can DUP mean that an earlier connection delivered it.
    pub session_present: bool,
    /// MQTT 5: the remaining message expiry, in seconds.
    pub message_expiry: Option<u32>,
    /// MQTT 5: where the sender wants an answer.
    pub response_topic: Option<String>,
    /// MQTT 5: what the sender correlates the answer by.
    pub correlation_data: Option<Bytes>,
    /// MQTT 5: user properties.
    pub user_properties: Vec<(String, String)>,
    /// MQTT 5: the payload's media type.
    pub content_type: Option<String>,
    /// For [`Publisher::ack`](super::Publisher::ack); none at QoS 0.
    pub ack: Option<AckToken>,
}

/// The right to acknowledge one received message, on the connection on which it arrived. PUBACKs go out in the order of
/// arrival, so a token that is never used holds back the PUBACKs of all later messages until the connection ends.
#[derive(Debug, PartialEq, Eq)]
pub struct AckToken {
    pub(super) generation: u64,
    pub(super) pkid: u16,
}

/// The broker is known to have our PUBACKs of a connection's messages, up to this one: it will not send these messages again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The connection.
    pub connection: u64,
    /// [`Incoming::arrival`] of the last of them.
    pub up_to: u64,
}

/// What the command loop gets from the link, in order.
#[derive(Debug)]
pub enum Arrived {
    /// A message.
    Message(Box<Incoming>),
    /// News of earlier messages.
    Settled(Settled),
}

/// The receiving end: messages in the order they arrived.
#[derive(Debug)]
pub struct Commands {
    queue: mpsc::Receiver<Arrived>,
    bytes: Arc<AtomicUsize>,
}

/// The link's end.
pub(super) struct CommandSender {
    queue: mpsc::Sender<Arrived>,
    bytes: Arc<AtomicUsize>,
}

/// Why a message was not handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    Full,
    Closed,
}

pub(super) fn channel() -> (CommandSender, Commands) {
    let (sender, receiver) = mpsc::channel(COUNT);
    let bytes = Arc::new(AtomicUsize::new(0));
    (CommandSender { queue: sender, bytes: Arc::clone(&bytes) }, Commands { queue: receiver, bytes })
}

impl Commands {
    /// The next thing in the queue; none once the link has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arrived> {
        let arrived = self.queue.recv().await?;
        if let Arrived::Message(message) = &arrived {
            self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        }
        Some(arrived)
    }
}

/// Messages of an earlier session that wait to be handed over, until the account check is done.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: VecDeque<Incoming>,
    bytes: usize,
}

impl Held {
    /// Adds a message. If there is no room, returns its QoS and packet id.
    pub(super) fn push(&mut self, message: Incoming) -> Result<(), (u8, u16)> {
        if !fits(&message, self.messages.len(), self.bytes) {
            return Err((message.qos, message.pkid));
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Incoming> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

/// Whether there is room for a message beside `queued` others of so many bytes. QoS 0 gets half of the bytes, so that it does
/// not take the room of QoS 1, which must not be lost.
fn fits(message: &Incoming, queued: usize, bytes: usize) -> bool {
    let (count, share) = if message.qos == 0 { (COUNT_QOS_0, 2) } else { (COUNT, 1) };
    queued < count && (queued == 0 || bytes.saturating_add(message.len()) <= BYTES / share)
}

impl CommandSender {
    pub(super) fn hand_over(&self, message: Incoming) -> Result<(), NotTaken> {
        let queued = self.queue.max_capacity() - self.queue.capacity();
        let len = message.len();
        if !fits(&message, queued, self.bytes.load(Ordering::Relaxed)) {
            return Err(NotTaken::Full);
        }
        // Before the send: the receiver must not subtract what was not added yet.
        self.bytes.fetch_add(len, Ordering::Relaxed);
        self.queue.try_send(Arrived::Message(Box::new(message))).map_err(|e| {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            match e {
                mpsc::error::TrySendError::Full(_) => NotTaken::Full,
                mpsc::error::TrySendError::Closed(_) => NotTaken::Closed,
            }
        })
    }

    /// Passes on which messages the broker is done with. Dropped if there is no room: it only frees memory earlier.
    pub(super) fn settled(&self, settled: Settled) {
        let _ = self.queue.try_send(Arrived::Settled(settled));
    }
}

impl Incoming {
    /// The bytes of everything whose length the sender chose.
    fn len(&self) -> usize {
        let optional = [self.response_topic.as_ref().map(String::len), self.content_type.as_ref().map(String::len)];
        let user_properties: usize = self.user_properties.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
        self.topic.len()
            + self.payload.len()
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + user_properties
            + optional.into_iter().flatten().sum::<usize>()
    }
}

/// Shows the payload's length only.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("topic", &self.topic)
            .field("len", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("dup", &self.dup)
            .field("pkid", &self.pkid)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(qos: u8, len: usize) -> Incoming {
        Incoming { payload: vec![0; len].into(), qos, connection: 1, ..Incoming::default() }
    }

    #[tokio::test]
    async fn qos_0_leaves_room_for_what_is_promised() {
        let (sender, mut commands) = channel();
        let taken = (0..COUNT).filter(|_| sender.hand_over(message(0, 0)).is_ok()).count();
        assert_eq!(taken, COUNT_QOS_0);
        let taken = (0..COUNT).filter(|_| sender.hand_over(message(1, 0)).is_ok()).count();
        assert_eq!(taken, COUNT - COUNT_QOS_0);
        assert!(matches!(commands.next().await, Some(Arrived::Message(message)) if message.qos == 0));
        assert_eq!(sender.hand_over(message(0, 0)), Err(NotTaken::Full));
        assert_eq!(sender.hand_over(message(1, 0)), Ok(()));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_but_one_message_always_fits() {
        let (sender, mut commands) = channel();
        assert_eq!(sender.hand_over(message(0, BYTES)), Ok(()));
        assert_eq!(sender.hand_over(message(1, 1)), Err(NotTaken::Full));
        assert!(commands.next().await.is_some());
        assert_eq!(sender.hand_over(message(1, 1)), Ok(()));
    }
}
