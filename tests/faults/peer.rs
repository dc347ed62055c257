//! An MQTT 5 client, packet by packet, straight to the broker: who sends commands, who takes over the bridge's client id,
//! who listens to what the bridge publishes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Filter, Packet, PubAck, Publish, PublishProperties, Subscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::records::Recorder;

/// Larger than anything sent here.
const MAX_PACKET: u32 = 16 * 1024 * 1024;
/// The broker is stopped for less.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection; every failure of it is the same to who uses it.
pub(crate) struct Peer {
    stream: TcpStream,
    received: BytesMut,
    next: u16,
}

impl Peer {
    /// Connects; `session` is how long the broker keeps the session, none: it begins anew and ends with the connection.
    pub(crate) async fn connect(port: u16, client_id: &str, session: Option<u32>) -> Option<(Self, bool)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut peer = Self { stream, received: BytesMut::new(), next: 0 };
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = session;
        properties.receive_maximum = Some(1000);
        let connect = Connect {
            keep_alive: 600,
            client_id: client_id.to_owned(),
            clean_start: session.is_none(),
            properties: Some(properties),
        };
        peer.send(Packet::Connect(connect, None, None)).await?;
        match timeout(PATIENCE, peer.read()).await.ok()?? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Some((peer, ack.session_present)),
            _ => None,
        }
    }

    /// Publishes with QoS 1; whether the broker took it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], properties: PublishProperties) -> Option<()> {
        self.next = self.next % 60_000 + 1;
        let pkid = self.next;
        let publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), Some(properties));
        self.send(Packet::Publish(Publish { pkid, ..publish })).await?;
        loop {
            match timeout(PATIENCE, self.read()).await.ok()?? {
                Packet::PubAck(ack) if ack.pkid == pkid => return Some(()),
                _ => {}
            }
        }
    }

    async fn subscribe(&mut self, filters: &[&str]) -> Option<()> {
        let filters = filters.iter().map(|filter| Filter::new(*filter, QoS::AtLeastOnce)).collect();
        self.send(Packet::Subscribe(Subscribe { pkid: 65_000, filters, properties: None })).await
    }

    async fn send(&mut self, packet: Packet) -> Option<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("a packet of ours can be written");
        self.stream.write_all(&bytes).await.ok()
    }

    async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.received, Some(MAX_PACKET)) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(_) => return None,
            }
            if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }
}

/// Notes the id of every event and result that the broker passes on, whatever happens to the broker, until `stop`.
pub(crate) async fn listen(port: u16, recorder: Arc<Recorder>, stop: CancellationToken) {
    let listening = async {
        loop {
            // Restarted brokers refuse for a moment.
            if listen_once(port, &recorder).await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let _: Option<()> = stop.run_until_cancelled(listening).await;
}

async fn listen_once(port: u16, recorder: &Recorder) -> Option<()> {
    let (mut peer, session_present) = Peer::connect(port, "faults-listener", Some(3600)).await?;
    if !session_present {
        peer.subscribe(&["ilink/event/#", "ilink/result/#", "ilink/by/+/result/#"]).await?;
    }
    loop {
        let Packet::Publish(publish) = peer.read().await? else { continue };
        let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap_or_default();
        if let Some(id) = json["id"].as_str() {
            note(&mut recorder.lock().received, id);
        }
        peer.send(Packet::PubAck(PubAck::new(publish.pkid, None))).await?;
    }
}

fn note(received: &mut HashSet<String>, id: &str) {
    if !received.contains(id) {
        received.insert(id.to_owned());
    }
}
