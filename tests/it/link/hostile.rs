//! Brokers that break, bend or barely keep the rules.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ilink2mqtt::local::Publication;
use ilink2mqtt::mqtt::Delivery;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, PingResp, PubAck, PubAckReason};
use tokio::time::{Instant, timeout};

use super::{Random, Tested, acked, config};
use crate::support::DEADLINE;
use crate::support::scripted_broker::{Peer, ScriptedBroker, limits};

const MESSAGES: usize = 3000;

/// What the broker took responsibility for, noted before it said so.
type Taken = Arc<Mutex<HashSet<Bytes>>>;

/// Serves connection after connection, each in its own bad way.
async fn misbehave(broker: ScriptedBroker, taken: Taken, mut random: Random) {
    loop {
        let properties = ConnAckProperties { receive_max: Some(random.below::<u16>(150) + 1), ..limits() };
        let receive_max = usize::from(properties.receive_max.unwrap());
        let (mut peer, _) = broker.accept(random.below::<u8>(2) == 0, properties).await;
        if random.below::<u8>(10) == 0 {
            continue;
        }
        peer.up().await;
        connection(&mut peer, receive_max, &taken, &mut random).await;
    }
}

async fn connection(peer: &mut Peer, receive_max: usize, taken: &Taken, random: &mut Random) {
    // Not acknowledged yet, in the order they came.
    let mut open: Vec<(u16, Bytes)> = Vec::new();
    for _ in 0..random.below::<u64>(600) {
        let Some(publish) = peer.publish().await else { return };
        assert!(open.iter().all(|(pkid, _)| *pkid != publish.pkid), "packet id {} is in use", publish.pkid);
        open.push((publish.pkid, publish.payload));
        assert!(open.len() <= receive_max, "{} in flight of {receive_max}", open.len());
        match random.below::<u64>(400) {
            0 => return,
            1 => return peer.send_bytes(&[0xF7, 0x03, 1, 2, 3]).await,
            2 => return peer.send_bytes(&[0x40, 0x02, 0xFF]).await,
            // A truncated property list, which is dropped without a word: its publish stays un-acknowledged.
            3 => peer.send_bytes(&[0x40, 0x04, 0x7F, 0x00, 0x00, 0x80]).await,
            4 => return peer.ack(0x7FFF, PubAckReason::Success).await,
            5 => {
                // Out of turn.
                let (pkid, payload) = open.remove(random.below(open.len() as u64));
                taken.lock().unwrap().insert(payload);
                peer.ack(pkid, PubAckReason::Success).await;
            }
            6 => {
                let (pkid, _) = open.remove(0);
                peer.ack(pkid, PubAckReason::UnspecifiedError).await;
            }
            7 => {
                // Says twice what it took once.
                let (pkid, payload) = open.remove(0);
                taken.lock().unwrap().insert(payload);
                peer.ack(pkid, PubAckReason::Success).await;
                peer.ack(pkid, PubAckReason::Success).await;
            }
            n if n < 100 && open.len() < receive_max.saturating_sub(1) => {}
            _ => {
                // In bulk: the PUBACKs and whatever ends the connection are read at once.
                for (pkid, payload) in open.drain(..) {
                    taken.lock().unwrap().insert(payload);
                    peer.send(Packet::PubAck(PubAck::new(pkid, None))).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_acknowledged_falsely() {
    let broker = ScriptedBroker::bind().await;
    let mut settings = config(broker.port());
    settings.timing.backoff_max = Duration::from_millis(10);
    // The chaos must not be taken for messages that kill connections: here it is the broker.
    settings.timing.stable_after = Duration::ZERO;
    // What such a broker leaves un-acknowledged, the link gives up after twice this.
    settings.timing.keep_alive = Duration::from_secs(5);
    let tested = Tested::start(settings);
    let taken = Taken::default();
    let serving = tokio::spawn(misbehave(broker, Arc::clone(&taken), Random::new(0xBAD_C0DE)));
    let mut completions = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        let payload = Bytes::from(n.to_string());
        let publication = Publication::raw(format!("ilink/recv/user/{n}/text"), payload.clone());
        completions.push((payload, tested.link.publisher.publish(publication).await));
    }
    for (payload, completion) in completions {
        let Ok(mut delivery) = timeout(2 * DEADLINE, completion).await else { panic!("{payload:?} is stuck") };
        // To try again is ours.
        while let Delivery::ForNow(_) = delivery {
            delivery = tested.publish("ilink/recv/again", &payload).await;
        }
        assert_eq!(delivery, Delivery::Acked { no_subscribers: false }, "{payload:?}");
        assert!(taken.lock().unwrap().contains(&payload), "{payload:?} was never acknowledged");
    }
    assert!(tested.connects() >= 20, "only {} connections", tested.connects());
    assert!(!serving.is_finished(), "{:?}", serving.await);
}

#[tokio::test]
async fn a_receive_maximum_of_one_still_lets_messages_through() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let (mut peer, connect) = broker.accept(false, ConnAckProperties { receive_max: Some(1), ..limits() }).await;
    let asked = connect.properties.unwrap();
    assert!(!connect.clean_start && connect.client_id == "ilink2mqtt-414");
    assert_eq!((asked.session_expiry_interval, asked.max_packet_size), (Some(300), Some(1024 * 1024)));
    assert!(asked.receive_maximum.is_some() && asked.topic_alias_max.is_none());
    peer.up().await;
    let serving = tokio::spawn(async move { peer.serve().await });
    for n in 0..10 {
        assert!(acked(&tested.publish(&format!("a/{n}"), "x").await));
    }
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_broker_that_stops_reading_is_given_up() {
    let broker = ScriptedBroker::bind().await;
    let mut settings = config(broker.port());
    settings.timing.keep_alive = Duration::from_mins(1);
    let tested = Tested::start(settings);
    // The broker sets the keep alive: we ask for no less than 5 s.
    let properties = ConnAckProperties { server_keep_alive: Some(1), ..limits() };
    let (mut peer, _) = broker.accept(false, properties).await;
    peer.up().await;
    let since = Instant::now();
    // More than the sockets' buffers hold; nobody reads.
    let payload = vec![b'x'; 4 * 1024 * 1024];
    let mut completions = Vec::new();
    for _ in 0..8 {
        let publication = Publication::raw("a".to_owned(), payload.clone());
        completions.push(tested.link.publisher.publish(publication).await);
    }
    // Sooner than after our own keep alive.
    let mut again = broker.up().await;
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    let serving = tokio::spawn(async move { again.serve().await });
    for completion in completions {
        assert!(acked(&completion.await));
    }
    drop(peer);
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_is_given_up_too() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let properties = ConnAckProperties { server_keep_alive: Some(1), ..limits() };
    let (mut peer, _) = broker.accept(false, properties).await;
    peer.up().await;
    // It answers pings all the while.
    let silent = tokio::spawn(async move { while peer.publish().await.is_some() {} });
    let completion = tested.link.publisher.publish(Publication::raw("a".to_owned(), "x")).await;
    let mut again = broker.up().await;
    silent.await.unwrap();
    let serving = tokio::spawn(async move { again.serve().await });
    assert!(acked(&completion.await));
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_server_keep_alive_of_zero_does_not_mean_pings_without_pause() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let (mut peer, _) = broker.accept(false, ConnAckProperties { server_keep_alive: Some(0), ..limits() }).await;
    let mut pings = 0;
    let serving = tokio::spawn(async move {
        while let Some(packet) = peer.read_any().await {
            match packet {
                Packet::PingReq(_) => {
                    pings += 1;
                    peer.send(Packet::PingResp(PingResp)).await;
                }
                Packet::Subscribe(_) => break,
                other => panic!("{other:?}"),
            }
        }
        drop(peer);
        pings
    });
    assert!(serving.await.unwrap() <= 1);
    let mut again = broker.up().await;
    let serving = tokio::spawn(async move { again.serve().await });
    assert!(acked(&tested.publish("a", "x").await));
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_server_keep_alive_of_hours_does_not_stretch_our_own_limits() {
    let broker = ScriptedBroker::bind().await;
    let mut settings = config(broker.port());
    settings.timing.keep_alive = Duration::from_secs(5);
    let mut tested = Tested::start(settings);
    let hours = || ConnAckProperties { server_keep_alive: Some(u16::MAX), ..limits() };
    let (mut peer, _) = broker.accept(false, hours()).await;
    peer.up().await;
    tested.until(|state| state.connected).await;
    let serving = tokio::spawn(async move {
        // Nothing happens here, and yet the link asks whether this broker is there.
        for _ in 0..3 {
            loop {
                match peer.read_any().await.expect("the link keeps a connection that answers") {
                    Packet::PingReq(_) => break peer.send(Packet::PingResp(PingResp)).await,
                    Packet::Publish(publish) => peer.ack(publish.pkid, PubAckReason::Success).await,
                    other => panic!("{other:?}"),
                }
            }
        }
        // From here on it answers nothing, and does not close either.
        peer
    });
    let silent = timeout(DEADLINE, serving).await.expect("the link asks for a sign of life").unwrap();
    tested.until(|state| !state.connected).await;
    let (mut again, _) = broker.accept(false, hours()).await;
    again.up().await;
    let completion = tested.link.publisher.publish(Publication::raw("a".to_owned(), "x")).await;
    // A publish that is not acknowledged: given up as soon.
    drop(silent);
    let mut last = broker.up().await;
    let serving = tokio::spawn(async move { last.serve().await });
    assert!(acked(&completion.await));
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn garbage_at_any_point_costs_a_connection_and_nothing_else() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let completion = tested.link.publisher.publish(Publication::raw("a".to_owned(), "x")).await;
    let mut random = Random::new(0x6A5B_6A5B);
    // Instead of a CONNACK, then after one; with every packet type's first byte.
    for round in 0..200_u8 {
        let mut peer = if round % 2 == 0 { broker.tcp().await } else { broker.accept(false, limits()).await.0 };
        let mut bytes = vec![round << 3 | random.below::<u8>(8), random.below(12)];
        bytes.extend((0..random.below::<u64>(40)).map(|_| random.below::<u8>(256)));
        peer.send_bytes(&bytes).await;
    }
    let mut peer = broker.up().await;
    let serving = tokio::spawn(async move { peer.serve().await });
    assert!(acked(&completion.await));
    tested.stop().await;
    serving.await.unwrap();
}
