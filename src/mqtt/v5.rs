//! MQTT 5 over rumqttc.

use rumqttc::tokio_rustls::rustls::ClientConfig;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, Publish, PublishProperties,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{self, AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, TlsError, Transport};
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config::address;
use super::delivery::Ack;
use super::explanations::{ConnectRefusal, Explain, Failure};
use super::incoming::{Incoming, RECEIVE_MAXIMUM};
use super::wire::{
    Accepted, CONNECT_LIMIT, Dialer, Event, LARGEST_PACKET, REQUESTS, Subscription, WIRE_WINDOW, Wire, keep_alive_of,
};
use crate::local::Publication;
use crate::os::tls::spelled;

/// The longest life that a device can give a command, in seconds: as `ttl` in its JSON.
const LONGEST_EXPIRY: u32 = 30 * 24 * 60 * 60;

pub(super) struct V5(AsyncClient);

impl Wire for V5 {
    type Poller = EventLoop;

    fn open(dialer: &Dialer) -> (Self, EventLoop) {
        let (client, event_loop) = AsyncClient::new(options(dialer), REQUESTS);
        (Self(client), event_loop)
    }

    fn publish(&self, p: &Publication, expiry: Option<u32>) -> bool {
        let (topic, payload) = (p.topic.as_str(), p.payload.clone());
        self.0.try_publish_with_properties(topic, QoS::AtLeastOnce, p.retain, payload, properties(p, expiry)).is_ok()
    }

    fn ack(&self, pkid: u16) -> bool {
        let publish = Publish { qos: QoS::AtLeastOnce, pkid, ..Publish::default() };
        self.0.try_ack(&publish).is_ok()
    }

    fn subscribe(&self, filters: &[(String, Subscription)]) -> bool {
        let filters = filters.iter().map(|(filter, kind)| match kind {
            Subscription::Look => Filter::new(filter, QoS::AtMostOnce),
            Subscription::Commands | Subscription::Routes => Filter {
                nolocal: *kind == Subscription::Routes,
                preserve_retain: true,
                retain_forward_rule: RetainForwardRule::OnNewSubscribe,
                ..Filter::new(filter, QoS::AtLeastOnce)
            },
        });
        self.0.try_subscribe_many(filters).is_ok()
    }

    fn unsubscribe(&self, filter: &str) -> bool {
        self.0.try_unsubscribe(filter).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }

    fn packet_size(p: &Publication, expiry: Option<u32>) -> usize {
        let properties = properties(p, expiry);
        // The packet id is not assigned yet: rumqttc counts its two bytes only then.
        let publish = Publish {
            pkid: 1,
            payload: p.payload.clone(),
            ..Publish::new(p.topic.as_str(), QoS::AtLeastOnce, "", Some(properties))
        };
        publish.size()
    }

    async fn poll(event_loop: &mut EventLoop, dialer: &Dialer) -> Result<Event, Failure> {
        let event = event_loop.poll().await.map_err(|e| failure(e, dialer.explain()))?;
        if let v5::Event::Incoming(Packet::ConnAck(_)) = &event {
            // The broker may have set the keep alive; 0 means none, which rumqttc would take for "ping without pause". More than
            // ours is no use to us: pings are how we find out that the broker has gone.
            let ours = keep_alive_of(&dialer.config);
            if event_loop.options.keep_alive().is_zero() || event_loop.options.keep_alive() > ours {
                event_loop.options.set_keep_alive(ours);
            }
        }
        Ok(convert(event, event_loop))
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
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(config.session_expiry);
    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
    let any_size = dialer.takes_any_size.load(Ordering::Relaxed);
    // rumqttc has one number for what it tells the broker and for what it takes.
    let largest = u32::try_from(LARGEST_PACKET).unwrap_or(u32::MAX);
    properties.max_packet_size = Some(if any_size { largest } else { config.max_packet });
    let will = &config.will;
    options
        .set_clean_start(dialer.leaves_session.load(Ordering::Relaxed))
        .set_manual_acks(true)
        .set_keep_alive(keep_alive_of(config))
        .set_connection_timeout(CONNECT_LIMIT.as_secs())
        .set_outgoing_inflight_upper_limit(WIRE_WINDOW)
        .set_connect_properties(properties)
        .set_network_options(network)
        .set_last_will(LastWill::new(will.topic.as_str(), will.payload.to_vec(), QoS::AtLeastOnce, will.retain, None));
    if let Some((user, password)) = &config.credentials {
        options.set_credentials(user, password.expose_secret());
    }
    if let Some(tls) = &dialer.tls {
        options.set_transport(tls_transport(tls));
    }
    options
}

pub(super) fn tls_transport(config: &Arc<ClientConfig>) -> Transport {
    Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(config)))
}

fn properties(p: &Publication, expiry: Option<u32>) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: p.utf8.then_some(1),
        message_expiry_interval: expiry,
        correlation_data: p.correlation_data.clone(),
        user_properties: p.user_properties.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        content_type: p.content_type.map(str::to_owned),
        ..PublishProperties::default()
    }
}

fn convert(event: v5::Event, event_loop: &EventLoop) -> Event {
    let packet = match event {
        v5::Event::Outgoing(Outgoing::Publish(pkid)) => return Event::Sent(pkid),
        v5::Event::Outgoing(Outgoing::AwaitAck(pkid)) => {
            return Event::Broken(format!("it did not acknowledge packet {pkid} in its turn"));
        }
        v5::Event::Outgoing(Outgoing::PubAck(_)) => return Event::AckSent,
        v5::Event::Outgoing(Outgoing::PingReq) => return Event::PingSent,
        v5::Event::Outgoing(_) => return Event::Other,
        v5::Event::Incoming(packet) => packet,
    };
    match packet {
        Packet::ConnAck(connack) => Event::Connected(accepted(&connack, event_loop)),
        Packet::Publish(publish) => message(publish),
        Packet::PubAck(puback) => Event::Acked(puback.pkid, ack(puback.reason)),
        Packet::SubAck(suback) => {
            let granted = suback.return_codes.iter().map(|code| matches!(code, SubscribeReasonCode::Success(_)));
            Event::Subscribed(granted.collect())
        }
        Packet::UnsubAck(_) => Event::Unsubscribed,
        Packet::PingResp(_) => Event::PingAnswered,
        // Acknowledgements of QoS 2, which we neither use nor subscribe with, and what only clients send.
        _ => Event::Broken("it sent a packet that has no place here".to_owned()),
    }
}

fn accepted(connack: &ConnAck, event_loop: &EventLoop) -> Accepted {
    let properties = connack.properties.as_ref();
    let maximum_packet = properties.and_then(|p| p.max_packet_size).and_then(|n| usize::try_from(n).ok());
    let keep_alive = event_loop.options.keep_alive();
    let theirs = properties.and_then(|p| p.server_keep_alive).unwrap_or_default();
    Accepted {
        session_present: connack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        maximum_packet: maximum_packet.unwrap_or(LARGEST_PACKET),
        qos_1: properties.and_then(|p| p.max_qos) != Some(0),
        retain: properties.and_then(|p| p.retain_available) != Some(0),
        keep_alive,
        ask_every: (u64::from(theirs) > keep_alive.as_secs()).then_some(keep_alive),
        session_expiry: properties.and_then(|p| p.session_expiry_interval),
    }
}

fn message(publish: Publish) -> Event {
    let qos = match publish.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => return Event::Broken("it sent QoS 2 to a QoS 1 subscription".to_owned()),
    };
    // Mosquitto checks topics, other brokers may not. An empty one stands for a topic alias, which we do not allow.
    let topic = match String::from_utf8(publish.topic.to_vec()) {
        Ok(topic) if !topic.is_empty() => topic,
        _ if qos == 0 => return Event::Other,
        _ => return Event::Unreadable(publish.pkid),
    };
    let properties = publish.properties.unwrap_or_default();
    Event::Message(Box::new(Incoming {
        topic,
        payload: publish.payload,
        qos,
        retain: publish.retain,
        dup: publish.dup,
        pkid: publish.pkid,
        connection: 0,
        arrival: 0,
        session_present: false,
        message_expiry: properties.message_expiry_interval.map(|seconds| seconds.min(LONGEST_EXPIRY)),
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
        content_type: properties.content_type,
        ack: None,
    }))
}

fn ack(reason: PubAckReason) -> Ack {
    match reason {
        PubAckReason::Success => Ack::Done { no_subscribers: false },
        PubAckReason::NoMatchingSubscribers => Ack::Done { no_subscribers: true },
        PubAckReason::NotAuthorized => Ack::NotAuthorized,
        PubAckReason::TopicNameInvalid => Ack::TopicInvalid,
        PubAckReason::PayloadFormatInvalid => Ack::PayloadInvalid,
        PubAckReason::QuotaExceeded => Ack::QuotaExceeded,
        PubAckReason::UnspecifiedError => Ack::Failed("unspecified error"),
        PubAckReason::ImplementationSpecificError => Ack::Failed("implementation specific error"),
        PubAckReason::PacketIdentifierInUse => Ack::Failed("packet identifier in use"),
    }
}

fn failure(error: ConnectionError, explain: &Explain) -> Failure {
    match error {
        ConnectionError::MqttState(error) => state_failure(error, explain),
        ConnectionError::Timeout(_) => explain.no_answer(),
        ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => explain.io(&error),
        ConnectionError::Tls(TlsError::TLS(error)) => explain.tls(&error),
        ConnectionError::ConnectionRefused(code) => explain.refused(refusal(code)),
        ConnectionError::NotConnAck(_) => Failure::Protocol("another packet came instead of CONNACK".to_owned()),
        error => explain.other(&error),
    }
}

fn state_failure(error: StateError, explain: &Explain) -> Failure {
    use rumqttc::v5::mqttbytes::Error as Codec;
    match error {
        // An empty packet that is no ping: DISCONNECT without a reason, which the codec does not read.
        StateError::ConnectionAborted | StateError::Deserialization(Codec::PayloadRequired) => Failure::Closed,
        StateError::Io(error) | StateError::Deserialization(Codec::Io(error)) => explain.io(&error),
        StateError::Deserialization(Codec::PayloadSizeLimitExceeded { pkt_size, .. }) => Failure::TooLarge(pkt_size),
        StateError::Deserialization(error) => Failure::Undecodable(error.to_string()),
        StateError::AwaitPingResp => explain.stalled(),
        StateError::ServerDisconnect { reason_code, .. } => explain.disconnected(&format!("{reason_code:?}")),
        error => Failure::Protocol(error.to_string()),
    }
}

fn refusal(code: ConnectReturnCode) -> ConnectRefusal {
    use ConnectReturnCode as Code;
    match code {
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => ConnectRefusal::Version,
        Code::BadClientId | Code::ClientIdentifierNotValid => ConnectRefusal::ClientId,
        Code::BadUserNamePassword => ConnectRefusal::Credentials,
        Code::NotAuthorized => ConnectRefusal::NotAuthorized,
        Code::ServiceUnavailable | Code::ServerUnavailable | Code::ServerBusy => ConnectRefusal::Unavailable,
        Code::RetainNotSupported => ConnectRefusal::RetainUnsupported,
        Code::Banned => ConnectRefusal::Other("this client is banned there".to_owned()),
        other => ConnectRefusal::Other(spelled(&format!("{other:?}"))),
    }
}
