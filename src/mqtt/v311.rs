//! MQTT 3.1.1: no properties, no reasons, no expiry.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use rumqttc::mqttbytes::Error;
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, PubAck, Publish, QoS, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use secrecy::ExposeSecret;

use super::delivery::Ack;
use super::dialer::Dialer;
use super::explanations::{ConnectRefusal, Failure};
use super::incoming::Incoming;
use super::packets::{Accepted, Event, LARGEST_PACKET, READ_STEP, Subscription, Version, out_of_place, undecodable};
use crate::local::Publication;

pub(super) enum V311 {}

impl Version for V311 {
    type Packet = Packet;

    fn connect(dialer: &Dialer) -> Packet {
        let config = &dialer.config;
        let will = &config.will;
        Packet::Connect(Connect {
            keep_alive: u16::try_from(dialer.keep_alive().as_secs()).unwrap_or(u16::MAX),
            clean_session: !config.persistent_session || dialer.leaves_session.load(Ordering::Relaxed),
            last_will: Some(LastWill::new(will.topic.as_str(), will.payload.to_vec(), QoS::AtLeastOnce, will.retain)),
            login: config.credentials.as_ref().map(|(user, password)| Login::new(user, password.expose_secret())),
            ..Connect::new(config.client_id.as_str())
        })
    }

    fn publish(pkid: u16, p: &Publication, _expiry: Option<u32>) -> Packet {
        let publish = Publish::from_bytes(p.topic.as_str(), QoS::AtLeastOnce, p.payload.clone());
        Packet::Publish(Publish { pkid, retain: p.retain, ..publish })
    }

    fn ack(pkid: u16) -> Packet {
        Packet::PubAck(PubAck::new(pkid))
    }

    fn subscribe(pkid: u16, filters: &[(String, Subscription)]) -> Packet {
        let filters = filters.iter().map(|(filter, kind)| {
            let qos = match kind {
                Subscription::Look => QoS::AtMostOnce,
                Subscription::Commands | Subscription::Routes => QoS::AtLeastOnce,
            };
            SubscribeFilter::new(filter.clone(), qos)
        });
        Packet::Subscribe(Subscribe { pkid, ..Subscribe::new_many(filters) })
    }

    fn unsubscribe(pkid: u16, filter: &str) -> Packet {
        Packet::Unsubscribe(Unsubscribe { pkid, ..Unsubscribe::new(filter) })
    }

    fn ping() -> Packet {
        Packet::PingReq
    }

    fn disconnect() -> Packet {
        Packet::Disconnect
    }

    fn size(packet: &Packet) -> usize {
        packet.size()
    }

    fn write(packet: &Packet, largest: usize, out: &mut BytesMut) -> Result<(), Failure> {
        packet.write(out, largest).map(drop).map_err(|error| Failure::Protocol(error.to_string()))
    }

    fn read(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure> {
        let before = came.len();
        let Some(first) = came.first().copied() else { return Ok(None) };
        match Packet::read(came, LARGEST_PACKET) {
            Ok(packet) => event(packet, dialer).map(Some),
            Err(Error::InsufficientBytes(missing)) if came.len() == before => {
                came.reserve(missing.min(READ_STEP));
                Ok(None)
            }
            Err(error) => Err(undecodable(first, error.to_string())),
        }
    }
}

fn event(packet: Packet, dialer: &Dialer) -> Result<Event, Failure> {
    Ok(match packet {
        Packet::ConnAck(ConnAck { code: ConnectReturnCode::Success, session_present }) => Event::Connected(Accepted {
            session_present,
            receive_maximum: u16::MAX,
            maximum_packet: LARGEST_PACKET,
            qos_1: true,
            retain: true,
            keep_alive: dialer.keep_alive(),
            session_expiry: None,
        }),
        Packet::ConnAck(refused) => return Err(dialer.explain().refused(refusal(refused.code))),
        Packet::Publish(publish) => message(publish),
        Packet::PubAck(puback) => Event::Acked(puback.pkid, Ack::Done { no_subscribers: false }),
        Packet::SubAck(suback) => {
            let granted = suback.return_codes.iter().map(|code| matches!(code, SubscribeReasonCode::Success(_)));
            Event::Subscribed(granted.collect())
        }
        Packet::UnsubAck(_) => Event::Unsubscribed,
        Packet::PingResp => Event::PingAnswered(0),
        _ => Event::Ended(out_of_place()),
    })
}

fn message(publish: Publish) -> Event {
    let qos = match publish.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => return Event::Ended(Failure::Protocol("it sent QoS 2 to a QoS 1 subscription".to_owned())),
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
        ..Incoming::default()
    }))
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
