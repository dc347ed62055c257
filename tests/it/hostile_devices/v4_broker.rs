//! The scripted broker for MQTT 3.1.1: as little as the hostile cases need.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rumqttc::mqttbytes::v4::{ConnAck, Packet, PubAck, Publish, SubAck, SubscribeReasonCode, UnsubAck};
use rumqttc::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::redelivery::{Broker, Got, Link};
use crate::support::DEADLINE;

const MAX_PACKET: usize = 16 * 1024 * 1024;

pub(super) struct V4Broker(TcpListener);

pub(super) struct V4Peer {
    stream: TcpStream,
    received: BytesMut,
}

impl V4Broker {
    pub(super) async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

impl Broker for V4Broker {
    type Link = V4Peer;

    async fn connection(&self, session_present: bool) -> V4Peer {
        let (stream, _) = timeout(DEADLINE, self.0.accept()).await.expect("the bridge connects").unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = V4Peer { stream, received: BytesMut::new() };
        let Packet::Connect(_) = peer.read().await else { panic!("no CONNECT") };
        peer.write(|bytes| ConnAck::new(ConnectReturnCode::Success, session_present).write(bytes)).await;
        // The account check and the subscriptions.
        for _ in 0..5 {
            match peer.read().await {
                Packet::Subscribe(subscribe) => {
                    let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                    peer.write(|bytes| SubAck::new(subscribe.pkid, codes).write(bytes)).await;
                }
                Packet::Unsubscribe(unsubscribe) => {
                    peer.write(|bytes| UnsubAck::new(unsubscribe.pkid).write(bytes)).await;
                }
                other => panic!("{other:?} before the subscriptions"),
            }
        }
        peer
    }
}

impl V4Peer {
    /// The next packet but pings, which are not answered: one may come at any time.
    async fn read(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.received, MAX_PACKET) {
                Ok(Packet::PingReq) => continue,
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {}
                Err(e) => panic!("the bridge sent what is not MQTT: {e}"),
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
            assert!(matches!(read.expect("the bridge sends something"), Ok(1..)), "the bridge closed the connection");
        }
    }

    async fn write(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<usize, Error>) {
        let mut bytes = BytesMut::new();
        write(&mut bytes).unwrap();
        self.stream.write_all(&bytes).await.expect("the bridge is connected");
    }
}

impl Link for V4Peer {
    async fn command(&mut self, topic: &str, payload: &[u8], pkid: u16, dup: bool) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
        (publish.pkid, publish.dup) = (pkid, dup);
        self.write(|bytes| publish.write(bytes)).await;
    }

    async fn next(&mut self) -> Got {
        match self.read().await {
            Packet::PubAck(puback) => Got::Acked(puback.pkid),
            Packet::Publish(publish) => Got::Published(publish.pkid, publish.topic, publish.payload),
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&mut self, pkid: u16) {
        self.write(|bytes| PubAck::new(pkid).write(bytes)).await;
    }
}
