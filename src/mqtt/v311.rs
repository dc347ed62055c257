//! MQTT 3.1.1 over rumqttc: no properties, no reasons, no expiry.

use std::sync::atomic::Ordering;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsError,
};
use secrecy::ExposeSecret;

use super::config::address;
use super::delivery::Ack;
use super::explanations::{ConnectRefusal, Explain, Failure};
use super::incoming::Incoming;
use super::v5::tls_transport;
use super::wire::{
    Accepted, CONNECT_LIMIT, Dialer, Event, LARGEST_PACKET, REQUESTS, Subscription, WIRE_WINDOW, Wire, keep_alive_of,
};
use crate::local::Publication;

pub(super) struct V311(AsyncClient);

impl Wire for V311 {
    type Poller = EventLoop;

    fn open(dialer: &Dialer) -> (Self, EventLoop) {
        let (client, mut event_loop) = AsyncClient::new(options(dialer), REQUESTS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_LIMIT.as_secs());
        event_loop.set_network_options(network);
        (Self(client), event_loop)
    }

    fn publish(&self, p: &Publication, _expiry: Option<u32>) -> bool {
        self.0.try_publish(p.topic.as_str(), QoS::AtLeastOnce, p.retain, p.payload.clone()).is_ok()
    }

    fn ack(&self, pkid: u16) -> bool {
        let mut publish = Publish::new("", QoS::AtLeastOnce, "");
        publish.pkid = pkid;
        self.0.try_ack(&publish).is_ok()
    }

    fn subscribe(&self, filters: &[(String, Subscription)]) -> bool {
        let filters = filters.iter().map(|(filter, kind)| {
            let qos = match kind {
                Subscription::Look => QoS::AtMostOnce,
                Subscription::Commands | Subscription::Routes => QoS::AtLeastOnce,
            };
            SubscribeFilter::new(filter.clone(), qos)
        });
        self.0.try_subscribe_many(filters).is_ok()
    }

    fn unsubscribe(&self, filter: &str) -> bool {
        self.0.try_unsubscribe(filter).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }

    fn packet_size(p: &Publication, _expiry: Option<u32>) -> usize {
        // Fixed header, topic with its length, packet id, payload.
        5 + 2 + p.topic.len() + 2 + p.payload.len()
    }

    async fn poll(event_loop: &mut EventLoop, dialer: &Dialer) -> Result<Event, Failure> {
        match event_loop.poll().await {
            Ok(event) => Ok(convert(event, event_loop)),
            Err(error) => Err(failure(error, dialer.explain())),
        }
    }

    fn harvest(event_loop: &mut EventLoop) -> Vec<Event> {
        let events: Vec<_> = event_loop.state.events.drain(..).collect();
        events.into_iter().map(|event| convert(event, event_loop)).collect()
    }
}

fn options(dialer: &Dialer) -> MqttOptions {
    let config = &dialer.config;
    let (host, port) = address(dialer.broker());
    let mut options = MqttOptions::new(config.client_id.as_str(), host, port);
    let will = &config.will;
    options
        .set_clean_session(!config.persistent_session || dialer.leaves_session.load(Ordering::Relaxed))
        .set_manual_acks(true)
        .set_keep_alive(keep_alive_of(config))
        .set_inflight(WIRE_WINDOW)
        .set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET)
        .set_last_will(LastWill::new(will.topic.as_str(), will.payload.to_vec(), QoS::AtLeastOnce, will.retain));
    if let Some((user, password)) = &config.credentials {
        options.set_credentials(user, password.expose_secret());
    }
    if let Some(tls) = &dialer.tls {
        options.set_transport(tls_transport(tls));
    }
    options
}

fn convert(event: rumqttc::Event, event_loop: &EventLoop) -> Event {
    let packet = match event {
        rumqttc::Event::Outgoing(Outgoing::Publish(pkid)) => return Event::Sent(pkid),
        rumqttc::Event::Outgoing(Outgoing::AwaitAck(pkid)) => {
            return Event::Broken(format!("it did not acknowledge packet {pkid} in its turn"));
        }
        rumqttc::Event::Outgoing(Outgoing::PubAck(_)) => return Event::AckSent,
        rumqttc::Event::Outgoing(Outgoing::PingReq) => return Event::PingSent,
        rumqttc::Event::Outgoing(_) => return Event::Other,
        rumqttc::Event::Incoming(packet) => packet,
    };
    match packet {
        Packet::ConnAck(connack) => Event::Connected(Accepted {
            session_present: connack.session_present,
            receive_maximum: u16::MAX,
            maximum_packet: LARGEST_PACKET,
            qos_1: true,
            retain: true,
            keep_alive: event_loop.mqtt_options.keep_alive(),
            ask_every: None,
            session_expiry: None,
        }),
        Packet::Publish(publish) => message(publish),
        Packet::PubAck(puback) => Event::Acked(puback.pkid, Ack::Done { no_subscribers: false }),
        Packet::SubAck(suback) => {
            let granted = suback.return_codes.iter().map(|code| matches!(code, SubscribeReasonCode::Success(_)));
            Event::Subscribed(granted.collect())
        }
        Packet::UnsubAck(_) => Event::Unsubscribed,
        Packet::PingResp => Event::PingAnswered,
        _ => Event::Broken("it sent a packet that has no place here".to_owned()),
    }
}

fn message(publish: Publish) -> Event {
    let qos = match publish.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => return Event::Broken("it sent QoS 2 to a QoS 1 subscription".to_owned()),
    };
    if publish.topic.is_empty() {
        return if qos == 0 { Event::Other } else { Event::Unreadable(publish.pkid) };
    }
    Event::Message(Box::new(Incoming {
        topic: publish.topic,
        payload: publish.payload,
        qos,
        retain: publish.retain,
        dup: publish.dup,
        pkid: publish.pkid,
        connection: 0,
        arrival: 0,
        session_present: false,
        message_expiry: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
        content_type: None,
        ack: None,
    }))
}

fn failure(error: ConnectionError, explain: &Explain) -> Failure {
    match error {
        ConnectionError::MqttState(error) => state_failure(error, explain),
        ConnectionError::NetworkTimeout => explain.no_answer(),
        ConnectionError::FlushTimeout => explain.stalled(),
        ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => explain.io(&error),
        ConnectionError::Tls(TlsError::TLS(error)) => explain.tls(&error),
        ConnectionError::ConnectionRefused(code) => explain.refused(refusal(code)),
        ConnectionError::NotConnAck(_) => Failure::Protocol("another packet came instead of CONNACK".to_owned()),
        error => explain.other(&error),
    }
}

fn state_failure(error: StateError, explain: &Explain) -> Failure {
    use rumqttc::mqttbytes::Error as Codec;
    match error {
        StateError::ConnectionAborted => Failure::Closed,
        StateError::Io(error) | StateError::Deserialization(Codec::Io(error)) => explain.io(&error),
        StateError::Deserialization(error) => Failure::Undecodable(error.to_string()),
        StateError::AwaitPingResp => explain.stalled(),
        error => Failure::Protocol(error.to_string()),
    }
}

fn refusal(code: ConnectReturnCode) -> ConnectRefusal {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => ConnectRefusal::Version,
        ConnectReturnCode::BadClientId => ConnectRefusal::ClientId,
        ConnectReturnCode::BadUserNamePassword => ConnectRefusal::Credentials,
        ConnectReturnCode::NotAuthorized => ConnectRefusal::NotAuthorized,
        ConnectReturnCode::ServiceUnavailable => ConnectRefusal::Unavailable,
        ConnectReturnCode::Success => ConnectRefusal::Other("success".to_owned()),
    }
}
