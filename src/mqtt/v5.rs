//! MQTT 5.

mod publish;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Filter, LastWill, Login, Packet, PingReq, PubAck, Publish, PublishProperties, RetainForwardRule, Subscribe,
    SubscribeReasonCode, Unsubscribe, check,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use secrecy::ExposeSecret;

use super::delivery::Ack;
use super::dialer::Dialer;
use super::explanations::{ConnectRefusal, Failure};
use super::incoming::{Incoming, RECEIVE_MAXIMUM};
use super::packets::{Accepted, Event, LARGEST_PACKET, READ_STEP, Subscription, Version, out_of_place, undecodable};
use crate::local::Publication;
use crate::os::tls::spelled;

/// The packet type of a PUBACK.
const PUBACK: u8 = 4;
/// The longest expiry that a device can give a command, in seconds: the same as for `ttl` in JSON.
const LONGEST_EXPIRY: u32 = 30 * 24 * 60 * 60;

pub(super) enum V5 {}

impl Version for V5 {
    type Packet = Packet;

    fn connect(dialer: &Dialer) -> Packet {
        let config = &dialer.config;
        let connect = Connect {
            keep_alive: u16::try_from(dialer.keep_alive().as_secs()).unwrap_or(u16::MAX),
            client_id: config.client_id.clone(),
            clean_start: dialer.leaves_session.load(Ordering::Relaxed),
            properties: Some(ConnectProperties {
                session_expiry_interval: Some(config.session_expiry),
                receive_maximum: Some(RECEIVE_MAXIMUM),
                max_packet_size: Some(takes_at_most(dialer)),
                ..ConnectProperties::new()
            }),
        };
        let will = &config.will;
        let will = LastWill::new(will.topic.as_str(), will.payload.to_vec(), QoS::AtLeastOnce, will.retain, None);
        let login = config.credentials.as_ref().map(|(user, password)| Login::new(user, password.expose_secret()));
        Packet::Connect(connect, Some(will), login)
    }

    fn publish(pkid: u16, p: &Publication, expiry: Option<u32>) -> Packet {
        Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: p.retain,
            topic: p.topic.clone().into(),
            pkid,
            payload: p.payload.clone(),
            properties: Some(properties(p, expiry)),
        })
    }

    fn ack(pkid: u16) -> Packet {
        Packet::PubAck(PubAck::new(pkid, None))
    }

    fn subscribe(pkid: u16, filters: &[(String, Subscription)]) -> Packet {
        let filters = filters.iter().map(|(filter, kind)| match kind {
            Subscription::Look => Filter::new(filter, QoS::AtMostOnce),
            Subscription::Commands | Subscription::Routes => Filter {
                nolocal: *kind == Subscription::Routes,
                preserve_retain: true,
                retain_forward_rule: RetainForwardRule::OnNewSubscribe,
                ..Filter::new(filter, QoS::AtLeastOnce)
            },
        });
        Packet::Subscribe(Subscribe { pkid, ..Subscribe::new_many(filters, None) })
    }

    fn unsubscribe(pkid: u16, filter: &str) -> Packet {
        Packet::Unsubscribe(Unsubscribe { pkid, ..Unsubscribe::new(filter, None) })
    }

    fn ping() -> Packet {
        Packet::PingReq(PingReq)
    }

    fn disconnect() -> Packet {
        Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection))
    }

    fn size(packet: &Packet) -> usize {
        packet.size()
    }

    fn write(packet: &Packet, largest: usize, out: &mut BytesMut) -> Result<(), Failure> {
        let written = packet.write(out, u32::try_from(largest).ok());
        written.map(drop).map_err(|error| Failure::Protocol(error.to_string()))
    }

    /// Written without the packet that the codec wants: that is a copy of the topic and of every property, a dozen pieces of
    /// memory for each message.
    fn write_publish(
        pkid: u16,
        p: &Publication,
        expiry: Option<u32>,
        largest: usize,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        publish::write(pkid, p, expiry, largest, out)
    }

    fn read(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure> {
        // A DISCONNECT with a reason and without properties, as Mosquitto sends it. The codec would not see the reason.
        if let [0xE0, 1, code, ..] = came[..]
            && let Ok(reason) = DisconnectReasonCode::try_from(code)
        {
            came.advance(3);
            return Ok(Some(disconnected(reason, dialer)));
        }
        let Some(first) = came.first().copied() else { return Ok(None) };
        if first >> 4 == PUBACK {
            return puback(came, dialer);
        }
        loop {
            let before = came.len();
            return match Packet::read(came, Some(takes_at_most(dialer))) {
                Ok(packet) => event(packet, dialer).map(Some),
                // The packet was complete, but its properties are cut off. It cannot be understood: skip it.
                Err(Error::InsufficientBytes(_)) if came.len() < before => continue,
                Err(Error::InsufficientBytes(missing)) => {
                    came.reserve(missing.min(READ_STEP));
                    Ok(None)
                }
                // An empty packet that is no PINGRESP: a DISCONNECT without a reason, which the codec does not read.
                Err(Error::PayloadRequired) => Err(Failure::Closed),
                Err(Error::PayloadSizeLimitExceeded { pkt_size, .. }) => Err(Failure::TooLarge(pkt_size)),
                Err(error) => Err(undecodable(first, error.to_string())),
            };
        }
    }
}

/// The maximum packet size that we tell the broker, and enforce.
fn takes_at_most(dialer: &Dialer) -> u32 {
    let any_size = dialer.takes_any_size.load(Ordering::Relaxed);
    if any_size { u32::try_from(LARGEST_PACKET).unwrap_or(u32::MAX) } else { dialer.config.max_packet }
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

fn event(packet: Packet, dialer: &Dialer) -> Result<Event, Failure> {
    Ok(match packet {
        Packet::ConnAck(ConnAck { code: ConnectReturnCode::Success, session_present, properties }) => {
            Event::Connected(accepted(session_present, properties.as_ref(), dialer))
        }
        Packet::ConnAck(refused) => return Err(dialer.explain().refused(refusal(refused.code))),
        Packet::Publish(publish) => message(publish),
        Packet::SubAck(suback) => {
            let granted = suback.return_codes.iter().map(|code| matches!(code, SubscribeReasonCode::Success(_)));
            Event::Subscribed(granted.collect())
        }
        Packet::UnsubAck(_) => Event::Unsubscribed,
        Packet::PingResp(_) => Event::PingAnswered(0),
        Packet::Disconnect(packet) => disconnected(packet.reason_code, dialer),
        _ => Event::Ended(out_of_place()),
    })
}

fn disconnected(reason: DisconnectReasonCode, dialer: &Dialer) -> Event {
    Event::Ended(dialer.explain().disconnected(&format!("{reason:?}")))
}

fn accepted(session_present: bool, properties: Option<&ConnAckProperties>, dialer: &Dialer) -> Accepted {
    let ours = dialer.keep_alive();
    let theirs = properties.and_then(|p| p.server_keep_alive).map(|seconds| Duration::from_secs(seconds.into()));
    let maximum_packet = properties.and_then(|p| p.max_packet_size).and_then(|n| usize::try_from(n).ok());
    Accepted {
        session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        maximum_packet: maximum_packet.unwrap_or(LARGEST_PACKET),
        qos_1: properties.and_then(|p| p.max_qos) != Some(0),
        retain: properties.and_then(|p| p.retain_available) != Some(0),
        keep_alive: theirs.filter(|theirs| !theirs.is_zero() && *theirs < ours).unwrap_or(ours),
        session_expiry: properties.and_then(|p| p.session_expiry_interval),
    }
}

fn message(publish: Publish) -> Event {
    let qos = match publish.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => return Event::Ended(Failure::Protocol("it sent QoS 2 to a QoS 1 subscription".to_owned())),
    };
    // Mosquitto checks topics, other brokers may not. An empty topic means a topic alias, which we do not allow.
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
        message_expiry: properties.message_expiry_interval.map(|seconds| seconds.min(LONGEST_EXPIRY)),
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
        content_type: properties.content_type,
        ..Incoming::default()
    }))
}

/// A PUBACK, with any reason code: the codec takes those alone that MQTT allows in it, and Mosquitto answers a publish over its
/// `message_size_limit` with another.
fn puback(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure> {
    let length = match check(came.iter(), Some(takes_at_most(dialer))) {
        Ok(header) => header.frame_length(),
        Err(Error::InsufficientBytes(missing)) => {
            came.reserve(missing.min(READ_STEP));
            return Ok(None);
        }
        Err(error) => return Err(Failure::Protocol(error.to_string())),
    };
    let mut packet = came.split_to(length);
    // The remaining length: its last byte is the one without the highest bit.
    let header = 2 + packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count();
    packet.advance(header);
    let Ok(pkid) = packet.try_get_u16() else {
        return Err(Failure::Protocol("it sent a PUBACK without a packet id".to_owned()));
    };
    Ok(Some(Event::Acked(pkid, ack(packet.first().copied().unwrap_or_default()))))
}

/// What a reason code means (MQTT 5 §3.4.2.1).
fn ack(reason: u8) -> Ack {
    match reason {
        0x10 => Ack::Done { no_subscribers: true },
        ..0x80 => Ack::Done { no_subscribers: false },
        0x87 => Ack::NotAuthorized,
        0x90 => Ack::TopicInvalid,
        0x95 => Ack::TooLarge,
        0x97 => Ack::QuotaExceeded,
        0x99 => Ack::PayloadInvalid,
        0x80 => Ack::Failed("unspecified error"),
        0x83 => Ack::Failed("implementation specific error"),
        0x91 => Ack::Failed("packet identifier in use"),
        _ => Ack::Failed("a reason that MQTT does not name for it"),
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
