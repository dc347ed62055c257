//! Bytes to packets and back, on rumqttc's codecs: inside, the broker knows only MQTT 5's packets.
//!
//! Those of MQTT 3.1.1 are turned into them and back here, so nothing else asks which version a client speaks. The few
//! packets of MQTT 5 that the codec reads only in their long form are handled here too.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::mqttbytes::{Error as V4Error, QoS as V4QoS};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode,
    Filter, LastWill, Packet, PingReq, PubAck, PubComp, PubRec, PubRel, Publish, PublishProperties, Subscribe,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

/// What the broker takes, and tells MQTT 5 clients that it takes.
const MAX_PACKET: u32 = 16 * 1024 * 1024;
/// Messages at QoS 1 and 2 that a client may have under way to the broker; also that the broker has under way to a client
/// that names no limit.
pub(super) const WINDOW: u16 = 256;

const DISCONNECT: u8 = 0xE0;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

/// A CONNECT of either version.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean: bool,
    /// One and a half times what the client promised; None: it promised nothing.
    pub(super) keep_alive: Option<Duration>,
    /// How long its session outlives a connection, in seconds; `u32::MAX`: for ever.
    pub(super) session_expiry: u32,
    pub(super) window: u16,
    /// The largest packet that it takes, in bytes.
    pub(super) max_packet: u32,
    pub(super) will: Option<Will>,
}

/// What is published when a client is lost.
#[derive(Debug)]
pub(super) struct Will {
    pub(super) publish: Publish,
    pub(super) delay: Duration,
}

/// Cuts the first packet off, if all of it has come.
pub(super) fn take_frame(received: &mut BytesMut) -> Result<Option<BytesMut>, DisconnectReasonCode> {
    match v5::check(received.iter(), Some(MAX_PACKET)) {
        Ok(header) => Ok(Some(received.split_to(header.frame_length()))),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(Error::PayloadSizeLimitExceeded { .. }) => Err(DisconnectReasonCode::PacketTooLarge),
        Err(_) => Err(DisconnectReasonCode::MalformedPacket),
    }
}

/// Where the protocol's level stands: behind the fixed header and the name `MQTT` with its length.
fn level(frame: &[u8]) -> Option<u8> {
    let length_bytes = frame.iter().skip(1).take_while(|byte| **byte >= 0x80).count() + 1;
    frame.get(1 + length_bytes + 2 + "MQTT".len()).copied()
}

/// Reads a connection's first packet: what its client speaks, and what it wants or why it cannot have it.
pub(super) fn read_connect(mut frame: BytesMut) -> (Version, Result<Connect, ConnectReturnCode>) {
    let version = if level(&frame) == Some(5) { Version::V5 } else { Version::V311 };
    let length = frame.len();
    let connect = match version {
        Version::V5 => match Packet::read(&mut frame, Some(MAX_PACKET)) {
            Ok(Packet::Connect(connect, will, _)) => from_v5(connect, will),
            _ => Err(ConnectReturnCode::ProtocolError),
        },
        Version::V311 => match v4::Packet::read(&mut frame, length) {
            Ok(v4::Packet::Connect(connect)) => from_v311(connect),
            Err(V4Error::InvalidProtocolLevel(_) | V4Error::InvalidProtocol) => {
                Err(ConnectReturnCode::RefusedProtocolVersion)
            }
            _ => Err(ConnectReturnCode::ProtocolError),
        },
    };
    (version, connect)
}

fn from_v5(connect: v5::Connect, will: Option<LastWill>) -> Result<Connect, ConnectReturnCode> {
    let properties = connect.properties.unwrap_or_default();
    if properties.authentication_method.is_some() {
        return Err(ConnectReturnCode::BadAuthenticationMethod);
    }
    if properties.receive_maximum == Some(0) || properties.max_packet_size == Some(0) {
        return Err(ConnectReturnCode::ProtocolError);
    }
    Ok(Connect {
        client_id: connect.client_id,
        clean: connect.clean_start,
        keep_alive: keep_alive(connect.keep_alive),
        session_expiry: properties.session_expiry_interval.unwrap_or(0),
        window: properties.receive_maximum.unwrap_or(WINDOW).min(WINDOW),
        max_packet: properties.max_packet_size.unwrap_or(u32::MAX),
        will: will.map(will_of),
    })
}

fn will_of(will: LastWill) -> Will {
    let properties = will.properties.map(|told| {
        let delay = told.delay_interval.unwrap_or(0);
        let properties = PublishProperties {
            payload_format_indicator: told.payload_format_indicator,
            message_expiry_interval: told.message_expiry_interval,
            response_topic: told.response_topic,
            correlation_data: told.correlation_data,
            user_properties: told.user_properties,
            content_type: told.content_type,
            ..PublishProperties::default()
        };
        (delay, properties)
    });
    let (delay, properties) = properties.unzip();
    let publish = Publish {
        qos: will.qos,
        retain: will.retain,
        topic: will.topic,
        payload: will.message,
        properties,
        ..Publish::default()
    };
    Will { publish, delay: Duration::from_secs(delay.unwrap_or(0).into()) }
}

fn from_v311(connect: v4::Connect) -> Result<Connect, ConnectReturnCode> {
    if connect.client_id.is_empty() && !connect.clean_session {
        return Err(ConnectReturnCode::BadClientId);
    }
    let will = connect.last_will.map(|will| Will {
        publish: Publish {
            qos: qos(will.qos),
            retain: will.retain,
            topic: will.topic.into(),
            payload: will.message,
            ..Publish::default()
        },
        delay: Duration::ZERO,
    });
    Ok(Connect {
        client_id: connect.client_id,
        clean: connect.clean_session,
        keep_alive: keep_alive(connect.keep_alive),
        session_expiry: if connect.clean_session { 0 } else { u32::MAX },
        window: WINDOW,
        max_packet: u32::MAX,
        will,
    })
}

fn keep_alive(seconds: u16) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()) * 3 / 2)
}

fn qos(qos: V4QoS) -> QoS {
    match qos {
        V4QoS::AtMostOnce => QoS::AtMostOnce,
        V4QoS::AtLeastOnce => QoS::AtLeastOnce,
        V4QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn qos_v311(qos: QoS) -> V4QoS {
    match qos {
        QoS::AtMostOnce => V4QoS::AtMostOnce,
        QoS::AtLeastOnce => V4QoS::AtLeastOnce,
        QoS::ExactlyOnce => V4QoS::ExactlyOnce,
    }
}

/// Reads a packet behind the CONNECT.
pub(super) fn read(mut frame: BytesMut, version: Version) -> Result<Packet, DisconnectReasonCode> {
    let length = frame.len();
    match version {
        Version::V5 => {
            // A DISCONNECT may leave out its properties, or its reason too; the codec wants both.
            match *frame {
                [DISCONNECT, 0] => return Ok(disconnect()),
                [DISCONNECT, 1, reason] => frame = BytesMut::from([DISCONNECT, 2, reason, 0].as_slice()),
                _ => {}
            }
            Packet::read(&mut frame, Some(MAX_PACKET)).map_err(|_| DisconnectReasonCode::MalformedPacket)
        }
        Version::V311 => match v4::Packet::read(&mut frame, length).map(packet_of) {
            Ok(Some(packet)) => Ok(packet),
            Ok(None) => Err(DisconnectReasonCode::ProtocolError),
            Err(_) => Err(DisconnectReasonCode::MalformedPacket),
        },
    }
}

fn disconnect() -> Packet {
    Packet::Disconnect(Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection, properties: None })
}

fn packet_of(packet: v4::Packet) -> Option<Packet> {
    Some(match packet {
        v4::Packet::Publish(publish) => Packet::Publish(Publish {
            dup: publish.dup,
            qos: qos(publish.qos),
            retain: publish.retain,
            topic: publish.topic.into(),
            pkid: publish.pkid,
            payload: publish.payload,
            properties: None,
        }),
        v4::Packet::PubAck(ack) => Packet::PubAck(PubAck::new(ack.pkid, None)),
        v4::Packet::PubRec(ack) => Packet::PubRec(PubRec::new(ack.pkid, None)),
        v4::Packet::PubRel(ack) => Packet::PubRel(PubRel::new(ack.pkid, None)),
        v4::Packet::PubComp(ack) => Packet::PubComp(PubComp::new(ack.pkid, None)),
        v4::Packet::Subscribe(subscribe) => Packet::Subscribe(Subscribe {
            pkid: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|filter| Filter::new(filter.path, qos(filter.qos))).collect(),
            properties: None,
        }),
        v4::Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { pkid: unsubscribe.pkid, filters: unsubscribe.topics, properties: None })
        }
        v4::Packet::PingReq => Packet::PingReq(PingReq),
        v4::Packet::Disconnect => disconnect(),
        v4::Packet::Connect(_)
        | v4::Packet::ConnAck(_)
        | v4::Packet::SubAck(_)
        | v4::Packet::UnsubAck(_)
        | v4::Packet::PingResp => return None,
    })
}

/// Appends a packet's bytes. What the codec refuses, or the client's version does not have, is left out.
pub(super) fn write(packet: Packet, version: Version, bytes: &mut BytesMut) {
    let before = bytes.len();
    let written = match (version, packet) {
        // The codec leaves out the length of properties that are not there, which some clients wait for.
        (Version::V5, Packet::Disconnect(Disconnect { reason_code, properties: None })) => {
            bytes.put_slice(&[DISCONNECT, 2, reason_code as u8, 0]);
            true
        }
        (Version::V5, packet) => packet.write(bytes, None).is_ok(),
        (Version::V311, packet) => packet_v311(packet)
            .is_none_or(|packet| packet.write(bytes, usize::try_from(MAX_PACKET).unwrap_or(usize::MAX)).is_ok()),
    };
    if !written {
        bytes.truncate(before);
    }
}

fn packet_v311(packet: Packet) -> Option<v4::Packet> {
    Some(match packet {
        Packet::ConnAck(ack) => v4::Packet::ConnAck(v4::ConnAck::new(code_v311(ack.code), ack.session_present)),
        Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: qos_v311(publish.qos),
            retain: publish.retain,
            topic: String::from_utf8(publish.topic.to_vec()).ok()?,
            pkid: publish.pkid,
            payload: publish.payload,
        }),
        Packet::PubAck(ack) => v4::Packet::PubAck(v4::PubAck::new(ack.pkid)),
        Packet::PubRec(ack) => v4::Packet::PubRec(v4::PubRec::new(ack.pkid)),
        Packet::PubRel(ack) => v4::Packet::PubRel(v4::PubRel::new(ack.pkid)),
        Packet::PubComp(ack) => v4::Packet::PubComp(v4::PubComp::new(ack.pkid)),
        Packet::SubAck(ack) => {
            let codes = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => v4::SubscribeReasonCode::Success(qos_v311(qos)),
                _ => v4::SubscribeReasonCode::Failure,
            });
            v4::Packet::SubAck(v4::SubAck::new(ack.pkid, codes.collect()))
        }
        Packet::UnsubAck(ack) => v4::Packet::UnsubAck(v4::UnsubAck::new(ack.pkid)),
        Packet::PingResp(_) => v4::Packet::PingResp,
        _ => return None,
    })
}

fn code_v311(code: ConnectReturnCode) -> v4::ConnectReturnCode {
    match code {
        ConnectReturnCode::Success => v4::ConnectReturnCode::Success,
        ConnectReturnCode::RefusedProtocolVersion => v4::ConnectReturnCode::RefusedProtocolVersion,
        ConnectReturnCode::BadClientId => v4::ConnectReturnCode::BadClientId,
        _ => v4::ConnectReturnCode::ServiceUnavailable,
    }
}

/// A CONNACK that says no.
pub(super) fn refusal(code: ConnectReturnCode) -> Packet {
    Packet::ConnAck(ConnAck { session_present: false, code, properties: None })
}

/// A CONNACK that says yes, and what this broker can do. `assigned`: the id of a client that named none.
pub(super) fn welcome(session_present: bool, assigned: Option<String>) -> Packet {
    let properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: Some(WINDOW),
        max_qos: None,
        retain_available: None,
        // Clients know what fits; above 268,435,455 some call the packet malformed.
        max_packet_size: Some(MAX_PACKET),
        assigned_client_identifier: assigned,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: Some(0),
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success, properties: Some(properties) })
}

/// How long a DISCONNECT wants its session to be kept, in seconds.
pub(super) fn expiry_of(properties: Option<DisconnectProperties>) -> Option<u32> {
    properties.and_then(|properties| properties.session_expiry_interval)
}
