//! What the link needs of a connection, the same for both versions of MQTT; `v5` and `v311` are the two adapters over rumqttc.
//!
//! A connection is opened afresh for every attempt, so nothing of a lost one (packet ids, queued requests, collisions, values
//! from its CONNACK) survives in rumqttc. Nothing here waits but [`Wire::poll`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use url::Url;

use super::config::{LinkConfig, StartError};
use super::delivery::Ack;
use super::explanations::{Explain, Failure};
use super::incoming::{Incoming, RECEIVE_MAXIMUM};
use super::tls;
use crate::local::Publication;

/// Publishes in flight at most: 20 to 100 reach Mosquitto's full rate, more only add latency.
pub(super) const WINDOW: u16 = 100;
/// rumqttc's own limit on them. One more than ours, because at its limit it holds back our PUBACKs too.
pub(super) const WIRE_WINDOW: u16 = WINDOW + 1;
/// rumqttc's request channel, so that handing over never waits: two windows, one PUBACK per message that may be
/// un-acknowledged, and the few SUBSCRIBEs.
pub(super) const REQUESTS: usize = 2 * WINDOW as usize + RECEIVE_MAXIMUM as usize + 16;
/// For the whole of TCP, TLS and CONNACK.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The largest packet MQTT can express: five bytes of fixed header and 268,435,455 more.
pub(super) const LARGEST_PACKET: usize = 268_435_460;
/// The shortest keep alive that rumqttc takes without a panic, in seconds.
pub(super) const SHORTEST_KEEP_ALIVE: u64 = 5;

/// An address of the broker.
struct Target {
    url: Url,
    explain: Explain,
}

/// What opens connections: the configuration, with the TLS files read.
pub(super) struct Dialer {
    pub(super) config: LinkConfig,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    first: Target,
    others: Vec<Target>,
    /// Whose turn it is: 0 is the first's.
    turn: AtomicUsize,
    /// The broker was told `max_packet` and sent more: refusing such a packet would bring it again for ever.
    pub(super) takes_any_size: AtomicBool,
    /// The session at the broker holds what cannot be decoded: the next connection begins another.
    pub(super) leaves_session: AtomicBool,
}

impl Dialer {
    /// Reads what the configuration names.
    pub(super) fn new(config: LinkConfig) -> Result<Self, StartError> {
        let tls = match (config.broker.scheme(), config.broker.host_str()) {
            ("mqtt", Some(_)) => None,
            ("mqtts", Some(_)) => Some(tls::client_config(&config.tls)?),
            // Without the rest of the URL, which may hold a password.
            (scheme, host) => return Err(StartError::Broker(format!("{scheme}://{}", host.unwrap_or_default()))),
        };
        if config.client_id.is_empty() {
            return Err(StartError::ClientId);
        }
        let target = |url: &Url| Target { url: url.clone(), explain: Explain::new(&config, url) };
        let (first, others) = (target(&config.broker), config.other_brokers.iter().map(target).collect());
        let (takes_any_size, leaves_session) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { config, tls, first, others, turn: AtomicUsize::new(0), takes_any_size, leaves_session })
    }

    fn target(&self) -> &Target {
        let turn = self.turn.load(Ordering::Relaxed).checked_sub(1);
        turn.and_then(|other| self.others.get(other)).unwrap_or(&self.first)
    }

    /// The address whose turn it is.
    pub(super) fn broker(&self) -> &Url {
        &self.target().url
    }

    /// Words for what happens there.
    pub(super) fn explain(&self) -> &Explain {
        &self.target().explain
    }

    /// It is the next address's turn.
    pub(super) fn next_broker(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(if turn < self.others.len() { turn + 1 } else { 0 }, Ordering::Relaxed);
    }
}

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker accepted the connection.
    Connected(Accepted),
    /// Our PUBLISH got this packet id. They come in the order in which they were handed over.
    Sent(u16),
    /// The broker's PUBACK for it.
    Acked(u16, Ack),
    /// A PUBACK of ours was written.
    AckSent,
    /// A PINGREQ of ours was written.
    PingSent,
    /// PINGRESP.
    PingAnswered,
    /// A message. `connection`, `session_present` and `ack` are not filled in yet.
    Message(Box<Incoming>),
    /// A QoS 1 message that breaks a rule which does no harm to the connection: acknowledge and forget it.
    Unreadable(u16),
    /// SUBACK: per filter, whether it was granted.
    Subscribed(Vec<bool>),
    /// UNSUBACK.
    Unsubscribed,
    /// The broker did what this connection cannot go on with.
    Broken(String),
    /// Nothing that matters to the link.
    Other,
}

/// What the CONNACK says.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) session_present: bool,
    pub(super) receive_maximum: u16,
    pub(super) maximum_packet: usize,
    pub(super) qos_1: bool,
    pub(super) retain: bool,
    /// Never more than ours.
    pub(super) keep_alive: Duration,
    /// How often to ask for a sign of life ourselves: rumqttc took over a longer keep alive, and pings too late.
    pub(super) ask_every: Option<Duration>,
    pub(super) session_expiry: Option<u32>,
}

/// One connection's requests. Each returns whether rumqttc's channel had room; if not, try again after the next event.
pub(super) trait Wire: Sized + Send + Sync {
    /// The connection itself.
    type Poller: Send;

    fn open(dialer: &Dialer) -> (Self, Self::Poller);
    fn publish(&self, publication: &Publication, expiry: Option<u32>) -> bool;
    fn ack(&self, pkid: u16) -> bool;
    fn subscribe(&self, filters: &[(String, Subscription)]) -> bool;
    fn unsubscribe(&self, filter: &str) -> bool;
    fn disconnect(&self) -> bool;

    /// How many bytes the publication takes on this wire.
    fn packet_size(publication: &Publication, expiry: Option<u32>) -> usize;

    /// Drives the connection to its next event. Not cancel-safe: poll one future to its end.
    fn poll(poller: &mut Self::Poller, dialer: &Dialer) -> impl Future<Output = Result<Event, Failure>> + Send;

    /// The events that had happened before an error and were not reported yet.
    fn harvest(poller: &mut Self::Poller) -> Vec<Event>;
}

/// What a subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subscription {
    /// QoS 1; in MQTT 5 retained messages come only if the subscription is new, and keep their flag.
    Commands,
    /// As `Commands`, and in MQTT 5 without what we publish ourselves.
    Routes,
    /// QoS 0, for the retained messages.
    Look,
}

/// The keep alive as the wire carries it, in seconds.
pub(super) fn keep_alive_of(config: &LinkConfig) -> Duration {
    Duration::from_secs(config.timing.keep_alive.as_secs().clamp(SHORTEST_KEEP_ALIVE, u64::from(u16::MAX)))
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
            user_properties: vec![("id", "x".repeat(26)), ("kind", String::new()), ("time", "y".repeat(300))],
            correlation_data: Some(vec![0; 20_000].into()),
            ..Publication::json("a/b/c".repeat(50), vec![b'x'; 3_000_000])
        };
        for publication in [plain, rich] {
            for expiry in [None, Some(1)] {
                let most = publication.packet_size_at_most();
                assert!(V5::packet_size(&publication, expiry) <= most);
                assert!(V311::packet_size(&publication, expiry) <= most);
            }
        }
    }
}
