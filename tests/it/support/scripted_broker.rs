//! A broker that does what a test says, packet by packet, on rumqttc's own codec: for all that a real one never does.
//!
//! A [`Peer`] is one accepted connection. What is not of interest to a test (the account check, subscriptions, the self-test,
//! the bridge's own state, pings) it answers by itself in [`Peer::up`] and [`Peer::publish`].

use std::sync::Arc;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Packet, PingResp, PubAck, PubAckReason, Publish, SubAck,
    Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::DEADLINE;
use super::deserted::Deserted;

/// Larger than anything a test sends.
const MAX_PACKET: u32 = 16 * 1024 * 1024;

/// Listens; a test accepts the connections one by one.
pub(crate) struct ScriptedBroker(TcpListener);

/// One connection, as its broker sees it.
pub(crate) struct Peer {
    stream: TcpStream,
    received: BytesMut,
    /// Where the bridge's health goes,
    health: Option<Arc<watch::Sender<Value>>>,
    /// and what it acknowledges.
    acked: Option<Arc<watch::Sender<Vec<u16>>>>,
}

impl ScriptedBroker {
    pub(crate) async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// One that comes where nobody was: until now the link was refused, and did not wait here.
    pub(crate) fn come(deserted: Deserted) -> Self {
        Self(deserted.listen())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// The next TCP connection, before its CONNECT is read. One that the link has given up already, because the test was so
    /// long in coming, is none.
    pub(crate) async fn tcp(&self) -> Peer {
        loop {
            let (stream, _) = timeout(DEADLINE, self.0.accept()).await.expect("the link connects").unwrap();
            stream.set_nodelay(true).unwrap();
            let ready = timeout(DEADLINE, stream.ready(Interest::READABLE)).await.expect("a CONNECT").unwrap();
            if !ready.is_read_closed() {
                return Peer { stream, received: BytesMut::new(), health: None, acked: None };
            }
        }
    }

    /// The next connection and its CONNECT, accepted with these properties.
    pub(crate) async fn accept(&self, session_present: bool, properties: ConnAckProperties) -> (Peer, Connect) {
        let mut peer = self.tcp().await;
        let Some(Packet::Connect(connect, _, _)) = peer.read().await else { panic!("no CONNECT") };
        let connack = ConnAck { session_present, code: ConnectReturnCode::Success, properties: Some(properties) };
        peer.send(Packet::ConnAck(connack)).await;
        (peer, connect)
    }

    /// The next connection, accepted without any limits, up to its subscriptions.
    pub(crate) async fn up(&self) -> Peer {
        let mut peer = self.accept(false, limits()).await.0;
        peer.up().await;
        peer
    }
}

/// A CONNACK's properties, all absent.
pub(crate) fn limits() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

impl Peer {
    /// The next packet but pings, which are answered: one may come at any time. None when the link has closed the connection.
    pub(crate) async fn read(&mut self) -> Option<Packet> {
        loop {
            match self.read_any().await? {
                Packet::PingReq(_) => self.send(Packet::PingResp(PingResp)).await,
                packet => return Some(packet),
            }
        }
    }

    /// The next packet, a ping or not.
    pub(crate) async fn read_any(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.received, Some(MAX_PACKET)) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                // An empty DISCONNECT, which this codec does not read.
                Err(Error::PayloadRequired) => return None,
                Err(e) => panic!("the link sent what is not MQTT: {e}"),
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
            if !matches!(read.expect("the link sends something"), Ok(1..)) {
                return None;
            }
        }
    }

    /// All bytes that come until the link closes the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        loop {
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
            if !matches!(read.expect("the link closes the connection"), Ok(1..)) {
                return std::mem::take(&mut self.received).to_vec();
            }
        }
    }

    /// A connection that the link has closed already takes nothing, and that is no failure of the test.
    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn ack(&mut self, pkid: u16, reason: PubAckReason) {
        self.send(Packet::PubAck(PubAck { reason, ..PubAck::new(pkid, None) })).await;
    }

    /// A QoS 1 message for the link.
    pub(crate) async fn message(&mut self, topic: &str, pkid: u16, dup: bool) {
        let publish = Publish { pkid, dup, ..Publish::new(topic, QoS::AtLeastOnce, "x", None) };
        self.send(Packet::Publish(publish)).await;
    }

    /// A QoS 1 command for the bridge.
    pub(crate) async fn command(&mut self, topic: &str, pkid: u16, payload: &str) {
        let publish = Publish { pkid, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None) };
        self.send(Packet::Publish(publish)).await;
    }

    /// From now on each `bridge/health` goes there, too, and the packet ids that the bridge acknowledges.
    pub(crate) fn tell(&mut self, health: Arc<watch::Sender<Value>>, acked: Arc<watch::Sender<Vec<u16>>>) {
        (self.health, self.acked) = (Some(health), Some(acked));
    }

    /// Answers what comes before the first publish: the account check and the subscriptions.
    pub(crate) async fn up(&mut self) {
        for _ in 0..5 {
            match self.read().await {
                Some(Packet::Subscribe(subscribe)) => {
                    self.granted(&subscribe).await;
                }
                Some(Packet::Unsubscribe(unsubscribe)) => {
                    self.left(&unsubscribe).await;
                }
                None => return,
                other => panic!("{other:?} before the subscriptions"),
            }
        }
    }

    /// SUBACK for all of it.
    pub(crate) async fn granted(&mut self, subscribe: &Subscribe) {
        let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
        self.send(Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })).await;
    }

    /// UNSUBACK.
    pub(crate) async fn left(&mut self, unsubscribe: &Unsubscribe) {
        let reasons = vec![UnsubAckReason::Success];
        self.send(Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None })).await;
    }

    /// The next publish that a test is interested in, not acknowledged yet; none when the link has closed the connection.
    pub(crate) async fn publish(&mut self) -> Option<Publish> {
        loop {
            match self.read().await? {
                Packet::Publish(publish) if publish.topic.starts_with(b"ilink/bridge/") => {
                    if publish.topic.ends_with(b"/health")
                        && let Some(health) = &self.health
                    {
                        health.send_replace(serde_json::from_slice(&publish.payload).unwrap());
                    }
                    self.ack(publish.pkid, PubAckReason::Success).await;
                }
                Packet::Publish(publish) if publish.topic.starts_with(b"ilink/call/self_test/") => {
                    self.ack(publish.pkid, PubAckReason::Success).await;
                    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    self.send(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, "", None))).await;
                }
                Packet::Publish(publish) => return Some(publish),
                Packet::PubAck(ack) => {
                    if let Some(acked) = &self.acked {
                        acked.send_modify(|acked| acked.push(ack.pkid));
                    }
                }
                other => panic!("{other:?} instead of a publish"),
            }
        }
    }

    /// Acknowledges every publish until the link closes the connection.
    pub(crate) async fn serve(&mut self) {
        while let Some(publish) = self.publish().await {
            self.ack(publish.pkid, PubAckReason::Success).await;
        }
    }
}
