//! Slow lines and brokers that leave answers out, on a stream in memory and with the clock paused: hours pass at once.

use std::future::ready;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode, UnsubAck,
    UnsubAckReason,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::config::{LinkConfig, Timing};
use super::super::dialer::Stream;
use super::super::v5::V5;
use super::super::{Arrived, Commands, Delivery, Incoming, Publisher, prepare};
use super::*;
use crate::local::Publication;

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A connection that runs, and the broker's end of it.
struct Tested {
    publisher: Publisher,
    commands: Commands,
    connection: JoinHandle<(End, String)>,
    broker: Broker,
}

struct Broker {
    stream: DuplexStream,
    came: BytesMut,
}

async fn command(commands: &mut Commands) -> Incoming {
    loop {
        if let Arrived::Message(message) = commands.next().await.unwrap() {
            return *message;
        }
    }
}

impl Tested {
    /// Opens a connection; `capacity`: how many bytes are on their way at most.
    fn start(capacity: usize) -> Self {
        let timing = Timing { keep_alive: KEEP_ALIVE, ..Timing::default() };
        let config = LinkConfig { filters: vec!["ilink/send/#".to_owned()], timing, ..LinkConfig::minimal(1) };
        let (mut task, publisher, commands) = prepare(config, CancellationToken::new()).unwrap();
        let (ours, stream) = duplex(capacity);
        let connection = tokio::spawn(async move {
            let dialer = std::sync::Arc::clone(&task.dialer);
            let mut connection = Connection::<V5>::open(&mut task);
            connection.wire = Wire::over(&dialer, ready(Ok(Box::new(ours) as Box<dyn Stream>)));
            let end = connection.run().await.end;
            let words = match &end {
                End::Lost(Failure::Because(words)) => words.clone(),
                _ => String::new(),
            };
            (end, words)
        });
        Self { publisher, commands, connection, broker: Broker { stream, came: BytesMut::new() } }
    }

    async fn up(capacity: usize) -> Self {
        let mut tested = Self::start(capacity);
        tested.broker.accept().await;
        for _ in 0..5 {
            let request = tested.broker.next().await;
            tested.broker.grant(request).await;
        }
        tested
    }
}

impl Broker {
    /// The next packet. Cancel-safe.
    async fn next(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.came, None) {
                return packet;
            }
            if self.stream.read_buf(&mut self.came).await.unwrap() == 0 {
                // Whoever expects that hears of it first.
                sleep(Duration::from_hours(24)).await;
                panic!("the link has closed the connection");
            }
        }
    }

    /// A connection that the link has closed takes nothing.
    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        let _ = self.stream.write_all(&bytes).await;
    }

    async fn accept(&mut self) {
        assert!(matches!(self.next().await, Packet::Connect(..)));
        self.send(Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: None,
        }))
        .await;
    }

    /// Answers a SUBSCRIBE, UNSUBSCRIBE or PINGREQ.
    async fn grant(&mut self, request: Packet) {
        let answer = match request {
            Packet::Subscribe(subscribe) => {
                let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })
            }
            Packet::Unsubscribe(unsubscribe) => {
                let reasons = vec![UnsubAckReason::Success];
                Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None })
            }
            Packet::PingReq(_) => Packet::PingResp(PingResp),
            other => panic!("{other:?}"),
        };
        self.send(answer).await;
    }

    /// The packet id of the next publish; pings are answered meanwhile.
    async fn publish(&mut self) -> u16 {
        loop {
            match self.next().await {
                Packet::Publish(publish) => return publish.pkid,
                other => self.grant(other).await,
            }
        }
    }

    async fn ack(&mut self, pkid: u16) {
        self.send(Packet::PubAck(PubAck::new(pkid, None))).await;
    }
}

fn publication(len: usize) -> Publication {
    Publication::raw("a".to_owned(), vec![b'x'; len])
}

/// A message of so many bytes, as it is sent.
fn message(len: usize) -> BytesMut {
    let publish =
        Publish { pkid: 1, ..Publish::new("ilink/send/user/1/text", QoS::AtLeastOnce, vec![b'x'; len], None) };
    let mut bytes = BytesMut::new();
    Packet::Publish(publish).write(&mut bytes, None).unwrap();
    bytes
}

const ACKED: Delivery = Delivery::Acked { no_subscribers: false };

#[tokio::test(start_paused = true)]
async fn a_packet_may_take_long_to_arrive_and_what_comes_behind_it_too() {
    let mut tested = Tested::up(64 * 1024).await;
    let (since, publisher) = (Instant::now(), tested.publisher.clone());
    let ours = publisher.publish(publication(1)).await;
    let pkid = tested.broker.publish().await;
    // Ten keep alives long.
    for piece in message(10_000).chunks(100) {
        tested.broker.stream.write_all(piece).await.unwrap();
        sleep(KEEP_ALIVE / 10).await;
    }
    assert!(since.elapsed() >= 9 * KEEP_ALIVE, "{:?}", since.elapsed());
    tested.broker.ack(pkid).await;
    assert_eq!(ours.await, ACKED);
    assert_eq!(command(&mut tested.commands).await.payload.len(), 10_000);
    // The broker heard from us all the while, and answers only now.
    let mut pings = 0;
    while let Ok(packet) = timeout(Duration::from_secs(1), tested.broker.next()).await {
        tested.broker.grant(packet).await;
        pings += 1;
    }
    assert!(pings >= 9, "{pings}");
    assert!(!tested.connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_packet_may_take_long_to_be_written() {
    let mut tested = Tested::up(100).await;
    let (since, publisher) = (Instant::now(), tested.publisher.clone());
    let ours = publisher.publish(publication(10_000)).await;
    while tested.broker.came.len() < 9900 {
        sleep(KEEP_ALIVE / 10).await;
        let read = tested.broker.stream.read_buf(&mut tested.broker.came).await.unwrap();
        assert!((1..=100).contains(&read), "{read}");
    }
    assert!(since.elapsed() >= 9 * KEEP_ALIVE, "{:?}", since.elapsed());
    let pkid = tested.broker.publish().await;
    tested.broker.ack(pkid).await;
    assert_eq!(ours.await, ACKED);
    assert!(!tested.connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_subscribe_may_wait_behind_a_backlog() {
    let mut tested = Tested::start(64 * 1024);
    tested.broker.accept().await;
    for _ in 0..5 {
        let request = loop {
            match tested.broker.next().await {
                Packet::PingReq(_) => tested.broker.grant(Packet::PingReq(rumqttc::v5::mqttbytes::v5::PingReq)).await,
                request => break request,
            }
        };
        for piece in message(1000).chunks(10) {
            tested.broker.stream.write_all(piece).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        tested.broker.grant(request).await;
    }
    assert_eq!(command(&mut tested.commands).await.payload.len(), 1000);
    assert!(!tested.connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_pings_only_is_given_up() {
    let mut tested = Tested::start(64 * 1024);
    tested.broker.accept().await;
    let since = Instant::now();
    let answering = async {
        loop {
            if let ping @ Packet::PingReq(_) = tested.broker.next().await {
                tested.broker.grant(ping).await;
            }
        }
    };
    let ended = tokio::select! {
        ended = tested.connection => ended.unwrap(),
        () = answering => unreachable!(),
    };
    assert!(ended.1.ends_with("answers pings, but does not acknowledge what it gets"), "{ended:?}");
    assert!(since.elapsed() < KEEP_ALIVE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_puback_that_is_left_out_is_missed_although_others_come() {
    let mut tested = Tested::up(64 * 1024).await;
    let publisher = tested.publisher.clone();
    let _left_out = publisher.publish(publication(1)).await;
    tested.broker.publish().await;
    let since = Instant::now();
    let publishing = tokio::spawn(async move {
        loop {
            drop(publisher.publish(publication(1)).await);
            sleep(Duration::from_secs(1)).await;
        }
    });
    let answering = async {
        for _ in 0..1000 {
            let pkid = tested.broker.publish().await;
            tested.broker.ack(pkid).await;
        }
    };
    let ended = tokio::select! {
        ended = tested.connection => ended.unwrap(),
        () = answering => panic!("it is not missed"),
    };
    publishing.abort();
    assert!(ended.1.ends_with("answers pings, but does not acknowledge what it gets"), "{ended:?}");
    assert!(since.elapsed() < 3 * KEEP_ALIVE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_and_does_not_read_is_given_up_in_the_end() {
    let mut tested = Tested::up(1000).await;
    let publisher = tested.publisher.clone();
    let _stuck = publisher.publish(publication(10_000)).await;
    let flooding = async {
        loop {
            let publish = Publish::new("ilink/send/user/1/text", QoS::AtMostOnce, "x", None);
            tested.broker.send(Packet::Publish(publish)).await;
            sleep(Duration::from_secs(10)).await;
        }
    };
    let ended = tokio::select! {
        ended = tested.connection => ended.unwrap(),
        () = flooding => unreachable!(),
    };
    assert!(ended.1.contains("answers nothing any more"), "{ended:?}");
}
