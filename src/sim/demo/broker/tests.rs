use bytes::Bytes;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5::{Filter, PubAck, PubRel, Publish, PublishProperties, RetainForwardRule, Subscribe};
use rumqttc::v5::mqttbytes::{QoS, v5};

use super::wire::{Connect, Will};
use super::*;

/// A client as the hub sees it: what it is sent waits in `packets`.
struct Client {
    joined: Joined,
    packets: mpsc::Receiver<Packet>,
    present: bool,
}

fn connect(client_id: &str) -> Connect {
    Connect {
        client_id: client_id.to_owned(),
        clean: false,
        keep_alive: None,
        session_expiry: 60,
        window: 2,
        max_packet: u32::MAX,
        will: None,
    }
}

fn will(topic: &str, delay: Duration) -> Will {
    Will { publish: Publish::new(topic, QoS::AtLeastOnce, "gone", None), delay }
}

impl Client {
    fn join(hub: &mut Hub, connect: Connect) -> Self {
        let (outbox, mut packets) = mpsc::channel(OUTBOX);
        let joined = hub.connect(connect, outbox).unwrap();
        let Packet::ConnAck(ack) = packets.try_recv().unwrap() else { panic!("no CONNACK") };
        assert_eq!(ack.code, ConnectReturnCode::Success);
        Self { joined, packets, present: ack.session_present }
    }

    fn send(&self, hub: &mut Hub, packet: Packet) {
        assert!(hub.packet(&self.joined, packet).is_none());
    }

    fn subscribe(&mut self, hub: &mut Hub, filter: Filter) {
        self.send(hub, Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter], properties: None }));
        assert!(matches!(self.packets.try_recv(), Ok(Packet::SubAck(_))));
    }

    fn publish(&self, hub: &mut Hub, topic: &str, payload: &str) {
        self.send(hub, Packet::Publish(publish(topic, payload)));
    }

    /// What it is sent: topic, payload and whether it was told to have been sent before.
    fn got(&mut self) -> Vec<(u16, String, bool)> {
        let packets = std::iter::from_fn(|| self.packets.try_recv().ok());
        let publishes = packets.filter_map(|packet| match packet {
            Packet::Publish(p) => Some((p.pkid, String::from_utf8(p.payload.to_vec()).unwrap(), p.dup)),
            _ => None,
        });
        publishes.collect()
    }
}

fn publish(topic: &str, payload: &str) -> Publish {
    Publish { pkid: 9, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None) }
}

fn filter(path: &str) -> Filter {
    Filter::new(path, QoS::AtLeastOnce)
}

#[test]
fn what_is_under_way_goes_again_and_the_rest_waits_for_room() {
    let mut hub = Hub::default();
    let (mut a, b) = (Client::join(&mut hub, connect("a")), Client::join(&mut hub, connect("b")));
    a.subscribe(&mut hub, filter("#"));
    for payload in ["1", "2", "3"] {
        b.publish(&mut hub, "t", payload);
    }
    assert_eq!(a.got(), [(1, "1".to_owned(), false), (2, "2".to_owned(), false)], "its window is two");
    a.send(&mut hub, Packet::PubAck(PubAck::new(1, None)));
    assert_eq!(a.got(), [(3, "3".to_owned(), false)]);

    hub.ended(&a.joined, &Ended::Lost);
    b.publish(&mut hub, "t", "4");
    let mut a = Client::join(&mut hub, connect("a"));
    assert!(a.present);
    assert_eq!(a.got(), [(2, "2".to_owned(), true), (3, "3".to_owned(), true)]);
    a.send(&mut hub, Packet::PubAck(PubAck::new(2, None)));
    assert_eq!(a.got(), [(4, "4".to_owned(), false)]);

    hub.ended(&a.joined, &Ended::Lost);
    let mut a = Client::join(&mut hub, Connect { clean: true, ..connect("a") });
    assert!(!a.present && a.got().is_empty(), "a clean start");
}

#[test]
fn a_second_connection_of_one_client_ends_the_first() {
    let mut hub = Hub::default();
    let mut watcher = Client::join(&mut hub, connect("watcher"));
    watcher.subscribe(&mut hub, filter("will/#"));
    let with_will = |delay| Connect { will: Some(will("will/a", delay)), ..connect("a") };
    let mut first = Client::join(&mut hub, with_will(Duration::ZERO));
    let second = Client::join(&mut hub, with_will(Duration::from_secs(9)));
    let Ok(Packet::Disconnect(told)) = first.packets.try_recv() else { panic!("it is not told") };
    assert_eq!(told.reason_code, DisconnectReasonCode::SessionTakenOver);
    assert_eq!(watcher.got().len(), 1, "the first one's will");
    assert!(matches!(hub.packet(&first.joined, Packet::PingReq(v5::PingReq)), Some(Ended::Lost)));
    assert_eq!(hub.ended(&first.joined, &Ended::Lost), None, "the second one stays");

    // A will that waits is not published when the client comes back in time.
    assert_eq!(hub.ended(&second.joined, &Ended::Lost), Some(Duration::from_secs(9)));
    let third = Client::join(&mut hub, with_will(Duration::from_secs(90)));
    hub.publish_will(&second.joined);
    assert!(watcher.got().is_empty());
    // It waits no longer than the session.
    assert_eq!(hub.ended(&third.joined, &Ended::Lost), Some(Duration::from_mins(1)));
    hub.publish_will(&third.joined);
    assert_eq!(watcher.got().len(), 1);
    let fourth = Client::join(&mut hub, with_will(Duration::ZERO));
    assert_eq!(hub.ended(&fourth.joined, &Ended::Left), None, "who leaves in order has no will");
}

#[test]
fn a_message_at_qos_2_is_published_once() {
    let mut hub = Hub::default();
    let mut a = Client::join(&mut hub, connect("a"));
    a.subscribe(&mut hub, Filter { path: "t".to_owned(), ..Filter::default() });
    let message = Publish { qos: QoS::ExactlyOnce, ..publish("t", "x") };
    a.send(&mut hub, Packet::Publish(message.clone()));
    a.send(&mut hub, Packet::Publish(Publish { dup: true, ..message.clone() }));
    assert_eq!(a.got().len(), 1);
    a.send(&mut hub, Packet::PubRel(PubRel::new(9, None)));
    a.send(&mut hub, Packet::Publish(message));
    assert_eq!(a.got().len(), 1, "its id is free again");
}

#[test]
fn overlapping_subscriptions_are_one_copy() {
    let mut hub = Hub::default();
    let mut a = Client::join(&mut hub, connect("a"));
    a.subscribe(&mut hub, filter("t/#"));
    a.subscribe(&mut hub, Filter { path: "+/x".to_owned(), ..Filter::default() });
    a.publish(&mut hub, "t/x", "1");
    assert_eq!(a.got(), [(1, "1".to_owned(), false)]);
    a.subscribe(&mut hub, Filter { nolocal: true, ..filter("t/#") });
    a.send(&mut hub, Packet::PubAck(PubAck::new(1, None)));
    a.publish(&mut hub, "t/y", "2");
    assert!(a.got().is_empty(), "not its own");
}

#[test]
fn retained_messages_are_told_as_the_subscription_wants_it() {
    let mut hub = Hub::default();
    let mut a = Client::join(&mut hub, connect("a"));
    a.send(&mut hub, Packet::Publish(Publish { retain: true, ..publish("t", "kept") }));
    let with = |rule| Filter { retain_forward_rule: rule, qos: QoS::AtMostOnce, ..filter("t") };
    for (rule, copies) in [
        (RetainForwardRule::Never, 0),
        (RetainForwardRule::OnNewSubscribe, 0),
        (RetainForwardRule::OnEverySubscribe, 1),
        (RetainForwardRule::OnEverySubscribe, 1),
    ] {
        a.got();
        a.subscribe(&mut hub, with(rule));
        assert_eq!(a.got().len(), copies);
    }
    a.send(&mut hub, Packet::Publish(Publish { retain: true, ..publish("t", "") }));
    a.got();
    a.subscribe(&mut hub, with(RetainForwardRule::OnEverySubscribe));
    assert!(a.got().is_empty(), "an empty one clears it");
}

#[test]
fn a_message_is_told_the_rest_of_its_time_and_not_after_it() {
    let mut hub = Hub::default();
    let mut a = Client::join(&mut hub, connect("a"));
    a.subscribe(&mut hub, filter("t"));
    let expires = |seconds| {
        let properties = PublishProperties { message_expiry_interval: Some(seconds), ..PublishProperties::default() };
        Packet::Publish(Publish { properties: Some(properties), ..publish("t", "x") })
    };
    a.send(&mut hub, expires(0));
    assert!(a.got().is_empty());
    a.send(&mut hub, expires(100));
    let sent = std::iter::from_fn(|| a.packets.try_recv().ok()).find_map(|packet| match packet {
        Packet::Publish(publish) => publish.properties?.message_expiry_interval,
        _ => None,
    });
    assert!(sent.is_some_and(|left| (90..=100).contains(&left)), "{sent:?}");
}

#[test]
fn a_client_is_not_sent_more_than_it_takes() {
    let mut hub = Hub::default();
    let mut a = Client::join(&mut hub, Connect { max_packet: 50, ..connect("a") });
    a.subscribe(&mut hub, filter("#"));
    a.publish(&mut hub, "t", &"x".repeat(50));
    a.publish(&mut hub, "t", "fits");
    assert_eq!(a.got().into_iter().map(|(_, payload, _)| payload).collect::<Vec<_>>(), ["fits"]);
}

#[test]
fn what_is_not_allowed_ends_the_connection() {
    let mut hub = Hub::default();
    let a = Client::join(&mut hub, connect("a"));
    for topic in ["", "a/+", "#", "a\0"] {
        let ended = hub.packet(&a.joined, Packet::Publish(publish(topic, "x")));
        assert!(matches!(ended, Some(Ended::Failed(DisconnectReasonCode::TopicNameInvalid))), "{topic}");
    }
    let invalid =
        Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter("$share/g/t"), filter("a#")], properties: None });
    let mut a = Client::join(&mut hub, connect("a"));
    a.send(&mut hub, invalid);
    let Ok(Packet::SubAck(ack)) = a.packets.try_recv() else { panic!("no SUBACK") };
    let (shared, wrong) =
        (v5::SubscribeReasonCode::SharedSubscriptionsNotSupported, v5::SubscribeReasonCode::TopicFilterInvalid);
    assert_eq!(ack.return_codes, [shared, wrong]);
}

/// MQTT's own bytes, where the codec is stricter than clients are.
#[test]
fn short_forms_are_read() {
    for bytes in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        let packet = wire::read(bytes.into(), Version::V5).unwrap();
        let Packet::Disconnect(disconnect) = packet else { panic!("{packet:?}") };
        assert_eq!(disconnect.reason_code, DisconnectReasonCode::NormalDisconnection);
    }
    let Packet::Disconnect(with_will) = wire::read([0xE0, 1, 4][..].into(), Version::V5).unwrap() else { panic!() };
    assert_eq!(with_will.reason_code, DisconnectReasonCode::DisconnectWithWillMessage);
    let (version, old) = wire::read_connect(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a"[..].into());
    assert_eq!((version, old.unwrap_err()), (Version::V311, ConnectReturnCode::RefusedProtocolVersion));
}

proptest! {
    /// Whatever a client sends, it is cut and read without a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, kind in 0_u8..16, v5: bool) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let length = u8::try_from(bytes.len().min(127)).unwrap();
        let frame: Vec<u8> = [kind << 4 | 2, length].into_iter().chain(bytes.into_iter().take(127)).collect();
        let mut received = BytesMut::from(&frame[..]);
        let cut = wire::take_frame(&mut received).unwrap().unwrap();
        prop_assert_eq!(Bytes::from(cut.clone()), Bytes::from(frame));
        let _ = wire::read_connect(cut.clone());
        let _ = wire::read(cut, version);
    }
}
