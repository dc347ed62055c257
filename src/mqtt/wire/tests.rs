use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, Publish};
use tokio::io::{DuplexStream, duplex};

use super::super::config::{LinkConfig, Timing};
use super::super::delivery::Ack;
use super::super::v5::V5;
use super::*;

/// A connection that was accepted, and the broker's end of it. In memory: with the clock paused, time would pass while the
/// kernel of a busy machine carries a packet over.
async fn connected() -> (Wire<V5>, DuplexStream) {
    let (ours, mut broker) = duplex(64 * 1024);
    let dialer = Arc::new(Dialer::new(LinkConfig::minimal(1)).unwrap());
    let mut wire = Wire::<V5>::over(&dialer, async { Ok(Box::new(ours) as Box<dyn Stream>) });
    let broker = async {
        let connect = read(&mut broker).await;
        assert!(matches!(connect.as_slice(), [Packet::Connect(..)]), "{connect:?}");
        let connack = ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: None };
        broker.write_all(&bytes(&Packet::ConnAck(connack))).await.unwrap();
        broker
    };
    let (event, broker) = tokio::join!(wire.poll(), broker);
    assert!(matches!(event, Ok(Event::Connected(_))), "{event:?}");
    (wire, broker)
}

fn bytes(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    bytes
}

/// What one read brings.
async fn read(broker: &mut DuplexStream) -> Vec<Packet> {
    let mut came = BytesMut::with_capacity(64 * 1024);
    broker.read_buf(&mut came).await.unwrap();
    std::iter::from_fn(|| (!came.is_empty()).then(|| Packet::read(&mut came, None).unwrap())).collect()
}

fn publication() -> Publication {
    Publication::raw("a".to_owned(), "x")
}

#[tokio::test]
async fn what_is_to_be_sent_is_written_at_once_and_in_order() {
    let (mut wire, mut broker) = connected().await;
    wire.publish(1, &publication(), None);
    wire.ack(7);
    wire.publish(2, &publication(), None);
    wire.unsubscribe("b");
    assert!(!wire.is_written());
    assert!(matches!(wire.poll().await, Ok(Event::Written)));
    assert!(wire.is_written());
    let packets = read(&mut broker).await;
    let [Packet::Publish(a), Packet::PubAck(ack), Packet::Publish(b), Packet::Unsubscribe(unsubscribe)] =
        packets.as_slice()
    else {
        panic!("{packets:?}");
    };
    assert_eq!((a.pkid, ack.pkid, b.pkid), (1, 7, 2));
    assert!(unsubscribe.pkid > LAST_PUBLISH_ID, "it is never the packet id of a publish");
}

#[tokio::test]
async fn polls_that_are_given_up_lose_nothing() {
    let (mut wire, mut broker) = connected().await;
    let mut come = Vec::new();
    let sends: Vec<u8> = (1..=3).flat_map(|pkid| bytes(&Packet::PubAck(PubAck::new(pkid, None)))).collect();
    for byte in sends {
        broker.write_all(&[byte]).await.unwrap();
        while let Ok(event) = timeout(Duration::from_millis(5), wire.poll()).await {
            come.push(event.unwrap());
        }
    }
    assert!(matches!(come.as_slice(), [Event::Acked(1, _), Event::Acked(2, _), Event::Acked(3, _)]), "{come:?}");
}

#[tokio::test]
async fn a_puback_is_read_whatever_its_reason() {
    let (mut wire, mut broker) = connected().await;
    let long_reason = [vec![0x40, 0x88, 0x01, 0, 5, 0x87, 0x84, 0x01, 0x1f, 0, 0x81], vec![b'x'; 0x81]].concat();
    let sends =
        [&[0x40, 3, 0, 1, 0x95][..], &[0x40, 4, 0, 2, 0xfe, 0], &[0x40, 3, 0, 3, 0x10], &[0x40, 2, 0, 4], &long_reason];
    broker.write_all(&sends.concat()).await.unwrap();
    let mut come = Vec::new();
    for _ in &sends {
        match wire.poll().await {
            Ok(Event::Acked(pkid, ack)) => come.push((pkid, ack)),
            other => panic!("{other:?} after {come:?}"),
        }
    }
    let unnamed = Ack::Failed("a reason that MQTT does not name for it");
    let done = |no_subscribers| Ack::Done { no_subscribers };
    let expected = [(1, Ack::TooLarge), (2, unnamed), (3, done(true)), (4, done(false)), (5, Ack::NotAuthorized)];
    assert_eq!(come, expected);
}

#[tokio::test]
async fn only_a_publish_can_be_a_message_that_comes_again() {
    for (packet, comes_again) in [
        (&[0x40, 1, 0][..], false),
        (&[0x90, 3, 0, 1, 0x77], false),
        (&[0xe0, 2, 0x77, 0], false),
        (&[0x32, 4, 0, 9, b'a', b'b'], true),
    ] {
        let (mut wire, mut broker) = connected().await;
        broker.write_all(packet).await.unwrap();
        match wire.poll().await {
            Err(Failure::Undecodable(_)) => assert!(comes_again, "{packet:x?}"),
            Err(Failure::Protocol(_)) => assert!(!comes_again, "{packet:x?}"),
            other => panic!("{other:?} after {packet:x?}"),
        }
    }
}

#[tokio::test]
async fn pubacks_that_had_come_count_after_the_end() {
    let (mut wire, mut broker) = connected().await;
    broker.write_all(&bytes(&Packet::PubAck(PubAck::new(1, None)))).await.unwrap();
    broker.write_all(&bytes(&Packet::PubAck(PubAck::new(2, None)))).await.unwrap();
    drop(broker);
    let mut come = Vec::new();
    while come.len() < 2 {
        come.extend(wire.harvest());
        tokio::task::yield_now().await;
    }
    assert!(matches!(come.as_slice(), [Event::Acked(1, _), Event::Acked(2, _)]), "{come:?}");
}

#[tokio::test]
async fn without_room_no_more_is_taken_until_all_is_written() {
    let (mut wire, mut broker) = connected().await;
    let giant = Publication::raw("a".to_owned(), vec![0; 32 * 1024 * 1024]);
    assert!(wire.has_room());
    wire.publish(1, &giant, None);
    assert!(!wire.has_room());
    let reading = tokio::spawn(async move {
        let mut total = 0;
        while let Ok(n @ 1..) = broker.read_buf(&mut BytesMut::with_capacity(1024 * 1024)).await {
            total += n;
        }
        total
    });
    assert!(matches!(wire.poll().await, Ok(Event::Written)));
    assert!(wire.has_room() && wire.unsent.capacity() <= ROOM, "{}", wire.unsent.capacity());
    drop(wire);
    assert!(reading.await.unwrap() > 32 * 1024 * 1024);
}

#[tokio::test]
async fn a_ping_that_is_not_answered_ends_the_connection() {
    let (mut wire, mut broker) = connected().await;
    tokio::time::pause();
    let since = Instant::now();
    for _ in 0..2 {
        assert!(matches!(wire.poll().await, Ok(Event::PingSent(_))));
        assert!(matches!(wire.poll().await, Ok(Event::Written)));
        assert_eq!(read(&mut broker).await.len(), 1);
        broker.write_all(&bytes(&Packet::PingResp(PingResp))).await.unwrap();
        assert!(matches!(wire.poll().await, Ok(Event::PingAnswered(_))));
    }
    assert_eq!(since.elapsed().as_secs(), 2 * Timing::default().keep_alive.as_secs());
    assert!(matches!(wire.poll().await, Ok(Event::PingSent(_))));
    assert!(matches!(wire.poll().await, Ok(Event::Written)));
    let failure = wire.poll().await.unwrap_err();
    assert_eq!(failure, wire.dialer.explain().stalled());
}

#[tokio::test]
async fn what_came_while_the_process_stood_still_is_read_before_it_is_missed() {
    let (mut wire, mut broker) = connected().await;
    tokio::time::pause();
    assert!(matches!(wire.poll().await, Ok(Event::PingSent(1))));
    assert!(matches!(wire.poll().await, Ok(Event::Written)));
    broker.write_all(&bytes(&Packet::PingResp(PingResp))).await.unwrap();
    tokio::time::advance(2 * Timing::default().keep_alive).await;
    assert!(matches!(wire.poll().await, Ok(Event::PingSent(2))));
    assert!(matches!(wire.poll().await, Ok(Event::PingAnswered(1))));
}

#[tokio::test]
async fn a_ping_is_answered_by_its_own_answer() {
    let (mut wire, mut broker) = connected().await;
    assert_eq!((wire.ping(), wire.ping()), (1, 2));
    for _ in 0..3 {
        broker.write_all(&bytes(&Packet::PingResp(PingResp))).await.unwrap();
    }
    let mut answered = Vec::new();
    while answered.len() < 3 {
        match wire.poll().await.unwrap() {
            Event::PingAnswered(number) => answered.push(Some(number)),
            Event::Other => answered.push(None),
            other => assert!(matches!(other, Event::Written), "{other:?}"),
        }
    }
    assert_eq!(answered, [Some(1), Some(2), None], "nobody asked for the third");
}

#[tokio::test]
async fn nothing_follows_a_disconnect() {
    let (mut wire, mut broker) = connected().await;
    wire.disconnect();
    wire.ack(1);
    wire.ping();
    assert!(matches!(wire.poll().await, Ok(Event::Written)));
    drop(wire);
    let mut came = Vec::new();
    broker.read_to_end(&mut came).await.unwrap();
    assert_eq!(came, [0xE0, 0]);
}

#[tokio::test]
async fn the_memory_of_a_large_packet_is_given_back_with_it() {
    const LARGE: usize = 2 * 1024 * 1024;
    let (mut wire, mut broker) = connected().await;
    let large = Publish { pkid: 1, ..Publish::new("a", QoS::AtLeastOnce, vec![0; LARGE], None) };
    let mut sent = bytes(&Packet::Publish(large));
    // Then a whole packet, and one of which only a part comes.
    sent.extend_from_slice(&bytes(&Packet::PubAck(PubAck::new(7, None))));
    sent.extend_from_slice(&[0x40]);
    let sending = tokio::spawn(async move {
        broker.write_all(&sent).await.unwrap();
        broker
    });
    let Ok(Event::Message(message)) = wire.poll().await else { panic!("no message") };
    assert_eq!(message.payload.len(), LARGE);
    assert!(matches!(wire.poll().await, Ok(Event::Acked(7, _))));
    let _broker = sending.await.unwrap();
    // Whoever kept the memory would be its only owner now, and could have it back.
    drop(message);
    assert!(!wire.came.try_reclaim(LARGE / 2), "{}", wire.came.capacity());
}

#[tokio::test]
async fn the_kernel_holds_little_that_the_broker_has_not_taken() {
    let (mut wire, _broker) = connected().await;
    wire.publish(1, &Publication::raw("a".to_owned(), vec![0; 32 * 1024 * 1024]), None);
    tokio::time::pause();
    // Nobody reads; the next that happens is the keep alive's tick.
    let failure = wire.poll().await.unwrap_err();
    assert_eq!(failure, wire.dialer.explain().stalled());
    let State::Open(open) = &wire.state else { panic!("it was open") };
    // Beside our own buffer, the receiver's.
    assert!(open.written < 1024 * 1024, "{}", open.written);
}
