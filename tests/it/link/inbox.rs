//! Received messages and their acknowledgements.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ilink2mqtt::mqtt::LinkConfig;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PingResp, PubAckReason, Publish, PublishProperties};

use super::{Tested, config};
use crate::support::scripted_broker::{Peer, ScriptedBroker, limits};

const TOPIC: &str = "ilink/send/user/1/text";

/// The packet ids that the link acknowledges, `n` of them; its publishes are answered.
async fn acknowledged(peer: &mut Peer, n: usize) -> Vec<u16> {
    let mut pkids = Vec::new();
    while pkids.len() < n {
        match peer.read().await.expect("the link stays connected") {
            Packet::PubAck(puback) => pkids.push(puback.pkid),
            Packet::Publish(publish) => peer.ack(publish.pkid, PubAckReason::Success).await,
            other => panic!("{other:?}"),
        }
    }
    pkids
}

#[tokio::test]
async fn acknowledgements_go_in_the_order_of_arrival() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    for pkid in [5, 3, 9] {
        peer.message(TOPIC, pkid, false).await;
    }
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(tested.command().await.ack.unwrap());
    }
    // The last first.
    for token in tokens.into_iter().rev() {
        tested.link.publisher.ack(token);
    }
    assert_eq!(acknowledged(&mut peer, 3).await, [5, 3, 9]);
}

#[tokio::test]
async fn a_token_of_an_earlier_connection_acknowledges_nothing() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(LinkConfig { expect_session: true, ..config(broker.port()) });
    let mut peer = broker.up().await;
    peer.message(TOPIC, 7, false).await;
    let old = tested.command().await;
    assert!(!old.session_present);
    drop(peer);
    // Another message under the same packet id, and then a repeat, which comes before the subscriptions of a lasting session.
    let (mut peer, _) = broker.accept(true, limits()).await;
    peer.message("ilink/send/user/2/text", 7, false).await;
    peer.message(TOPIC, 8, true).await;
    peer.up().await;
    let new = tested.command().await;
    let repeat = tested.command().await;
    assert!(new.connection > old.connection && new.session_present);
    assert_eq!((new.pkid, new.topic.as_str()), (7, "ilink/send/user/2/text"));
    assert_eq!((repeat.pkid, repeat.dup), (8, true));
    let publisher = &tested.link.publisher;
    publisher.ack(old.ack.unwrap());
    publisher.ack(repeat.ack.unwrap());
    // The stale token has been seen when the next one, sent after it, has its effect.
    publisher.ack(new.ack.unwrap());
    assert_eq!(acknowledged(&mut peer, 2).await, [7, 8]);
    assert_eq!(tested.link.counters.stale_acks.load(Ordering::Relaxed), 1);
    assert_eq!(tested.sessions_lost(), 1, "at the first connect, as one was expected");
}

#[tokio::test]
async fn a_new_session_is_told_from_a_continued_one() {
    let broker = ScriptedBroker::bind().await;
    // Also where none was expected: keys of an earlier run may be about another session.
    let mut tested = Tested::start(config(broker.port()));
    let mut began = Vec::new();
    for session_present in [true, false, true, false] {
        let (mut peer, _) = broker.accept(session_present, limits()).await;
        peer.up().await;
        peer.message(TOPIC, 7, false).await;
        let connection = tested.command().await.connection;
        began.push((connection, tested.link.state.borrow().session_began));
    }
    assert_eq!(began, [(1, 0), (2, 2), (3, 2), (4, 4)]);
}

#[tokio::test]
async fn a_flood_is_dropped_at_qos_0_and_taken_at_qos_1() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    for _ in 0..3000 {
        peer.send(Packet::Publish(Publish::new(TOPIC, QoS::AtMostOnce, "x", None))).await;
    }
    // Many more than the receive maximum that we told.
    for pkid in 1..=6000 {
        peer.message(TOPIC, pkid, false).await;
    }
    let reading = tokio::spawn(async move { (acknowledged(&mut peer, 6000).await, peer) });
    let counters = std::sync::Arc::clone(&tested.link.counters);
    crate::support::eventually("the flood", async || {
        (counters.commands.load(Ordering::Relaxed) == 2048 + 6000).then_some(())
    })
    .await;
    let commands: Vec<_> = std::iter::from_fn(|| tested.waiting()).collect();
    assert_eq!(commands.iter().filter(|command| command.qos == 0).count(), 2048);
    assert_eq!(counters.commands_dropped.load(Ordering::Relaxed), 3000 - 2048);
    for command in commands {
        if let Some(token) = command.ack {
            tested.link.publisher.ack(token);
        }
    }
    assert_eq!(reading.await.unwrap().0, (1..=6000).collect::<Vec<_>>());
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn what_comes_at_once_at_qos_0_is_dropped_only_if_nobody_takes_it() {
    const MESSAGES: usize = 10_000;
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    let mut message = bytes::BytesMut::new();
    Publish::new("a", QoS::AtMostOnce, "", None).write(&mut message).unwrap();
    peer.send_bytes(&message.repeat(MESSAGES)).await;
    for _ in 0..MESSAGES {
        assert_eq!(tested.command().await.topic, "a");
    }
    assert_eq!(tested.link.counters.commands_dropped.load(Ordering::Relaxed), 0);
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn what_is_too_large_for_the_memory_comes_again() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    let large =
        |pkid| Packet::Publish(Publish { pkid, ..Publish::new(TOPIC, QoS::AtLeastOnce, vec![0; 1_000_000], None) });
    let reading = tokio::spawn(async move {
        for pkid in 1..=80 {
            peer.send(large(pkid)).await;
        }
        let (mut acked, mut acked_at_ping) = (0, None);
        while let Some(packet) = peer.read_any().await {
            match packet {
                Packet::PubAck(puback) => {
                    acked += 1;
                    assert_eq!(puback.pkid, acked);
                }
                Packet::Publish(publish) => peer.ack(publish.pkid, PubAckReason::Success).await,
                Packet::PingReq(_) => {
                    acked_at_ping = Some(acked);
                    peer.send(Packet::PingResp(PingResp)).await;
                }
                other => panic!("{other:?}"),
            }
        }
        // A reset could have overtaken the last ones.
        assert_eq!(acked_at_ping, Some(acked), "it asks whether they have arrived, and waits for the answer");
        acked
    });
    let counters = std::sync::Arc::clone(&tested.link.counters);
    crate::support::eventually("the flood", async || {
        let (taken, left) = (&counters.commands, &counters.commands_overlooked);
        (taken.load(Ordering::Relaxed) + left.load(Ordering::Relaxed) == 80).then_some(())
    })
    .await;
    let taken: Vec<_> = std::iter::from_fn(|| tested.waiting()).collect();
    assert_eq!(taken.len(), 67, "64 MiB");
    // The connection lives on for those that were taken; then a new one is opened for the rest.
    for command in taken {
        tested.link.publisher.ack(command.ack.unwrap());
    }
    assert_eq!(reading.await.unwrap(), 67);
    let mut peer = broker.up().await;
    peer.message(TOPIC, 68, true).await;
    let again = tested.command().await;
    assert!(again.dup && again.pkid == 68);
    tested.link.publisher.ack(again.ack.unwrap());
    assert_eq!(acknowledged(&mut peer, 1).await, [68]);
}

// A flood that is acknowledged while the connection is still being set up leaves room for the subscriptions.
#[tokio::test]
async fn a_flood_does_not_keep_the_subscriptions_from_being_sent() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let peer = broker.up().await;
    tested.until(|state| state.connected).await;
    drop(peer);
    let (mut peer, _) = broker.accept(true, limits()).await;
    for pkid in 1..=3000 {
        peer.message(TOPIC, pkid, true).await;
    }
    // The broker reads nothing before all of it is ready to be acknowledged.
    for _ in 0..3000 {
        let token = tested.command().await.ack.unwrap();
        tested.link.publisher.ack(token);
    }
    let (mut pkids, mut subscribes) = (Vec::new(), 0);
    while pkids.len() < 3000 || subscribes < 2 {
        match peer.read().await.expect("the link stays connected") {
            Packet::PubAck(puback) => pkids.push(puback.pkid),
            Packet::Subscribe(subscribe) => {
                subscribes += 1;
                peer.granted(&subscribe).await;
            }
            Packet::Unsubscribe(unsubscribe) => peer.left(&unsubscribe).await,
            Packet::Publish(publish) => peer.ack(publish.pkid, PubAckReason::Success).await,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pkids, (1..=3000).collect::<Vec<_>>());
    assert_eq!(tested.connects(), 2);
}

#[tokio::test]
async fn a_topic_that_is_no_text_is_acknowledged_and_forgotten() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    for (pkid, topic) in [(1, &b"ilink/send/\xff"[..]), (2, b"")] {
        let bytes = bytes::Bytes::copy_from_slice(topic);
        let publish = Publish { topic: bytes, pkid, ..Publish::new("", QoS::AtLeastOnce, "x", None) };
        peer.send(Packet::Publish(publish)).await;
    }
    assert_eq!(acknowledged(&mut peer, 2).await, [1, 2]);
    peer.message(TOPIC, 3, false).await;
    assert_eq!(tested.command().await.pkid, 3);
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn a_flood_before_the_account_check_is_done_stops_nothing() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let (mut peer, _) = broker.accept(true, limits()).await;
    peer.message(TOPIC, 1, true).await;
    for _ in 0..3000 {
        peer.send(Packet::Publish(Publish::new(TOPIC, QoS::AtMostOnce, "x", None))).await;
    }
    for pkid in 2..=90 {
        let large = vec![0; 1_000_000];
        peer.send(Packet::Publish(Publish { pkid, ..Publish::new(TOPIC, QoS::AtLeastOnce, large, None) })).await;
    }
    peer.up().await;
    let reading = tokio::spawn(async move { while peer.read().await.is_some() {} });
    // What found room is handed over, QoS 1 and 0; once that is acknowledged, a new connection brings the rest.
    let mut seen = Vec::new();
    while tested.link.counters.commands_overlooked.load(Ordering::Relaxed) == 0 || seen.is_empty() {
        let command = tested.command().await;
        if let Some(token) = command.ack {
            seen.push(command.pkid);
            tested.link.publisher.ack(token);
        }
    }
    // One attempt, which must not be given up half-way.
    let mut next_connection = std::pin::pin!(broker.accept(true, limits()));
    let (mut peer, _) = loop {
        // The rest of what was held.
        while let Some(command) = tested.waiting() {
            if let Some(token) = command.ack {
                seen.push(command.pkid);
                tested.link.publisher.ack(token);
            }
        }
        if let Ok(next) = tokio::time::timeout(Duration::from_millis(20), &mut next_connection).await {
            break next;
        }
    };
    reading.await.unwrap();
    assert_eq!(seen.first(), Some(&1));
    let next = u16::try_from(seen.len()).unwrap() + 1;
    assert_eq!(seen, (1..next).collect::<Vec<_>>());
    assert!((60..90).contains(&next), "{next}");
    peer.message(TOPIC, next, true).await;
    peer.up().await;
    assert_eq!(tested.command().await.pkid, next);
}

#[tokio::test]
async fn a_broker_that_ignores_our_maximum_packet_size_is_put_up_with() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let large = vec![b'x'; 2 * 1024 * 1024];
    let mut peer = broker.up().await;
    let publish =
        |dup| Packet::Publish(Publish { pkid: 7, dup, ..Publish::new(TOPIC, QoS::AtLeastOnce, large.clone(), None) });
    let sending = tokio::spawn({
        let packet = publish(false);
        async move {
            peer.send(packet).await;
            while peer.read().await.is_some() {}
        }
    });
    // Refused once, it would come again with every connection, and nothing behind it ever would.
    let (mut peer, connect) = broker.accept(true, limits()).await;
    sending.await.unwrap();
    assert!(connect.properties.unwrap().max_packet_size.unwrap() > 200 * 1024 * 1024);
    peer.up().await;
    peer.send(publish(true)).await;
    peer.message(TOPIC, 8, false).await;
    assert_eq!(tested.command().await.payload.len(), large.len());
    assert_eq!(tested.command().await.pkid, 8);
}

#[tokio::test]
async fn only_a_probe_is_no_command() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    for (pkid, topic) in
        ["ilink/call/self_test/x", "ilink/call/self_test/a/b", "ilink/call/self_test/"].iter().enumerate()
    {
        peer.message(topic, u16::try_from(pkid).unwrap() + 1, false).await;
    }
    assert_eq!(tested.command().await.topic, "ilink/call/self_test/a/b");
    assert_eq!(tested.command().await.topic, "ilink/call/self_test/");
}

/// What a broker passes on that does not check properties: one that is not UTF-8.
fn undecodable() -> bytes::BytesMut {
    let properties = PublishProperties { content_type: Some("MARK".to_owned()), ..PublishProperties::default() };
    let publish = Publish { pkid: 1, ..Publish::new(TOPIC, QoS::AtLeastOnce, "x", Some(properties)) };
    let mut bytes = bytes::BytesMut::new();
    publish.write(&mut bytes).unwrap();
    let at = bytes.windows(4).position(|four| four == b"MARK").unwrap();
    bytes[at] = 0xFF;
    bytes
}

// Somebody's garbage now and then is not in the way of what waits in the session, which must not be lost for it.
#[tokio::test]
async fn a_session_is_not_given_up_for_what_ended_connections_that_stood() {
    let broker = ScriptedBroker::bind().await;
    let mut settings = LinkConfig { expect_session: true, ..config(broker.port()) };
    settings.timing.stable_after = Duration::ZERO;
    let tested = Tested::start(settings);
    for _ in 0..8 {
        let (mut peer, connect) = broker.accept(true, limits()).await;
        assert!(!connect.clean_start);
        peer.up().await;
        peer.send_bytes(&undecodable()).await;
        while peer.read().await.is_some() {}
    }
    assert_eq!(tested.sessions_lost(), 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_does_not_stop_all_others_for_ever() {
    let broker = ScriptedBroker::bind().await;
    let mut tested = Tested::start(LinkConfig { expect_session: true, ..config(broker.port()) });
    let bytes = undecodable();
    let mut connections = 0;
    loop {
        let (mut peer, connect) = broker.accept(true, limits()).await;
        if connect.clean_start {
            break;
        }
        connections += 1;
        assert!(connections < 20, "it goes on for ever");
        peer.up().await;
        peer.send_bytes(&bytes).await;
        peer.message(TOPIC, 2, false).await;
        while peer.read().await.is_some() {}
    }
    // That connection was lost at once. The next one begins another session, too, or goes on in it.
    let (mut peer, _) = broker.accept(false, limits()).await;
    peer.up().await;
    peer.message(TOPIC, 3, false).await;
    assert_eq!(tested.command().await.pkid, 3);
    assert_eq!(tested.sessions_lost(), 1);
}
