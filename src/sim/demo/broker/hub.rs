//! The sessions of all clients, the retained messages and the last wills; and who gets which message.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Packet, PingResp, PubAck, PubAckReason, PubComp,
    PubCompReason, PubRec, PubRecReason, Publish, PublishProperties, RetainForwardRule, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
};
use tokio::sync::mpsc;

use super::session::{Connection, Message, Session, Subscription};
use super::wire::{self, Connect, WINDOW};
use crate::local::filter::{MAX_STRING, is_valid_filter, matches};

/// Far more than a demo has; what is above is refused, so that no client can fill the memory.
const MAX_SESSIONS: usize = 1000;
const MAX_SUBSCRIPTIONS: usize = 1000;
const MAX_RETAINED: usize = 10_000;

/// A client's present connection.
#[derive(Debug)]
pub(super) struct Joined {
    client: String,
    number: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client said so: its will is dropped.
    Left,
    /// The client is gone, or wants its will to be published.
    Lost,
    /// The client did what it must not.
    Failed(DisconnectReasonCode),
}

/// See the head.
#[derive(Debug, Default)]
pub(super) struct Hub {
    sessions: HashMap<String, Session>,
    retained: BTreeMap<String, Message>,
    connections: u64,
}

impl Hub {
    /// A client joins: the CONNACK, and whatever an earlier connection left, go to `outbox`.
    pub(super) fn connect(
        &mut self,
        connect: Connect,
        outbox: mpsc::Sender<Packet>,
    ) -> Result<Joined, ConnectReturnCode> {
        self.sessions.retain(|_, session| !session.is_over());
        let (client, assigned) = if connect.client_id.is_empty() {
            let random = getrandom::u64().map_err(|_| ConnectReturnCode::ServerUnavailable)?;
            let client = format!("demo-{random:016x}");
            (client.clone(), Some(client))
        } else {
            (connect.client_id, None)
        };
        let will_is_valid = connect.will.as_ref().is_none_or(|will| topic_of(&will.publish).is_some());
        if !will_is_valid {
            return Err(ConnectReturnCode::TopicNameInvalid);
        }
        self.take_over(&client, connect.clean);
        if self.sessions.len() >= MAX_SESSIONS && !self.sessions.contains_key(&client) {
            return Err(ConnectReturnCode::QuotaExceeded);
        }
        let present = self.sessions.contains_key(&client);
        self.connections += 1;
        let number = self.connections;
        let session = self.sessions.entry(client.clone()).or_default();
        session.expiry = connect.session_expiry;
        session.will = connect.will;
        session.lost_at = None;
        session.connection =
            Some(Connection { number, outbox, window: connect.window, max_packet: connect.max_packet });
        session.send(wire::welcome(present, assigned));
        session.resume();
        Ok(Joined { client, number })
    }

    /// Ends an earlier connection of the same client, and its session if it is not to be kept.
    fn take_over(&mut self, client: &str, clean: bool) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        if let Some(earlier) = session.connection.take() {
            let reason_code = DisconnectReasonCode::SessionTakenOver;
            earlier.send(Packet::Disconnect(Disconnect { reason_code, properties: None }));
        }
        // A will that was to wait is for a client that does not come back: this one has.
        let ends = clean || session.expiry == 0;
        let will = session.will.take().filter(|will| ends || will.delay.is_zero());
        if ends {
            self.sessions.remove(client);
        }
        if let Some(will) = will {
            self.publish(&will.publish, client);
        }
    }

    /// A connection is over. Returns after which time its will is due, if it is.
    pub(super) fn ended(&mut self, joined: &Joined, ended: &Ended) -> Option<Duration> {
        let session = self.session(joined)?;
        session.connection = None;
        session.lost_at = Some(Instant::now());
        if matches!(ended, Ended::Left) {
            session.will = None;
        }
        let expiry = Duration::from_secs(session.expiry.into());
        let delay = session.will.as_ref().map(|will| will.delay.min(expiry));
        if delay.is_none() && session.is_over() {
            self.sessions.remove(&joined.client);
        }
        delay
    }

    /// The will of a client that has not come back.
    pub(super) fn publish_will(&mut self, joined: &Joined) {
        let lost = self.sessions.get_mut(&joined.client).filter(|session| session.connection.is_none());
        let Some(will) = lost.and_then(|session| session.will.take()) else { return };
        self.publish(&will.publish, &joined.client);
        self.sessions.retain(|_, session| !session.is_over());
    }

    fn session(&mut self, joined: &Joined) -> Option<&mut Session> {
        let is_this = |session: &&mut Session| {
            session.connection.as_ref().is_some_and(|connection| connection.number == joined.number)
        };
        self.sessions.get_mut(&joined.client).filter(is_this)
    }

    /// Does what a packet asks for; Some when the connection is to end.
    pub(super) fn packet(&mut self, joined: &Joined, packet: Packet) -> Option<Ended> {
        let Some(session) = self.session(joined) else { return Some(Ended::Lost) };
        let answered = match packet {
            Packet::Publish(publish) => return self.take_publish(joined, &publish),
            Packet::Subscribe(subscribe) => return self.subscribe(joined, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                let answer = unsubscribed(session, &unsubscribe);
                session.send(answer)
            }
            Packet::PubAck(ack) => {
                session.done(ack.pkid);
                true
            }
            Packet::PubComp(ack) => {
                session.done(ack.pkid);
                true
            }
            Packet::PubRec(ack) => session.received_by_client(&ack),
            Packet::PubRel(ack) => {
                let known = session.received.remove(&ack.pkid);
                let reason = if known { PubCompReason::Success } else { PubCompReason::PacketIdentifierNotFound };
                session.send(Packet::PubComp(PubComp { reason, ..PubComp::new(ack.pkid, None) }))
            }
            Packet::PingReq(_) => session.send(Packet::PingResp(PingResp)),
            Packet::Disconnect(disconnect) => {
                session.expiry = wire::expiry_of(disconnect.properties).unwrap_or(session.expiry);
                let left = disconnect.reason_code == DisconnectReasonCode::NormalDisconnection;
                return Some(if left { Ended::Left } else { Ended::Lost });
            }
            _ => return Some(Ended::Failed(DisconnectReasonCode::ProtocolError)),
        };
        (!answered).then_some(Ended::Lost)
    }

    fn take_publish(&mut self, joined: &Joined, publish: &Publish) -> Option<Ended> {
        let session = self.session(joined)?;
        if publish.properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some()) {
            return Some(Ended::Failed(DisconnectReasonCode::TopicAliasInvalid));
        }
        if topic_of(publish).is_none() {
            return Some(Ended::Failed(DisconnectReasonCode::TopicNameInvalid));
        }
        let is_new = publish.qos != QoS::ExactlyOnce || session.received.insert(publish.pkid);
        if session.received.len() > usize::from(WINDOW) {
            return Some(Ended::Failed(DisconnectReasonCode::ReceiveMaximumExceeded));
        }
        let found = !is_new || self.publish(publish, &joined.client);
        let id = publish.pkid;
        let answer = match publish.qos {
            QoS::AtMostOnce => return None,
            QoS::AtLeastOnce => {
                let reason = if found { PubAckReason::Success } else { PubAckReason::NoMatchingSubscribers };
                Packet::PubAck(PubAck { reason, ..PubAck::new(id, None) })
            }
            QoS::ExactlyOnce => {
                let reason = if found { PubRecReason::Success } else { PubRecReason::NoMatchingSubscribers };
                Packet::PubRec(PubRec { reason, ..PubRec::new(id, None) })
            }
        };
        let answered = self.session(joined).is_some_and(|session| session.send(answer));
        (!answered).then_some(Ended::Lost)
    }

    /// Gives a message to whoever wants it, and keeps it if it is to be retained. False when nobody wanted it.
    fn publish(&mut self, publish: &Publish, from: &str) -> bool {
        let Some(topic) = topic_of(publish) else { return false };
        let message = Message::new(Publish { dup: false, pkid: 0, ..publish.clone() });
        if publish.retain {
            if publish.payload.is_empty() {
                self.retained.remove(topic);
            } else if self.retained.len() < MAX_RETAINED || self.retained.contains_key(topic) {
                self.retained.insert(topic.to_owned(), message.clone());
            }
        }
        let mut found = false;
        for (client, session) in &mut self.sessions {
            let wanted = session.subscriptions.iter().filter(|subscription| {
                matches(&subscription.filter.path, topic) && !(subscription.filter.nolocal && client == from)
            });
            if let Some(message) = for_subscriptions(&message, wanted) {
                found = true;
                session.give(message);
            }
        }
        found
    }

    fn subscribe(&mut self, joined: &Joined, subscribe: Subscribe) -> Option<Ended> {
        let identifier = subscribe.properties.and_then(|properties| properties.id);
        if identifier == Some(0) {
            return Some(Ended::Failed(DisconnectReasonCode::ProtocolError));
        }
        let session = self.session(joined)?;
        let (mut codes, mut to_send) = (Vec::new(), Vec::new());
        for filter in subscribe.filters {
            let is_new = session.subscriptions.iter().all(|known| known.filter.path != filter.path);
            let code = judge(&filter, is_new && session.subscriptions.len() >= MAX_SUBSCRIPTIONS);
            codes.push(code);
            if matches!(code, SubscribeReasonCode::Success(_)) {
                let send = match filter.retain_forward_rule {
                    RetainForwardRule::OnEverySubscribe => true,
                    RetainForwardRule::OnNewSubscribe => is_new,
                    RetainForwardRule::Never => false,
                };
                if send {
                    to_send.push(filter.path.clone());
                }
                session.subscriptions.retain(|known| known.filter.path != filter.path);
                session.subscriptions.push(Subscription { filter, identifier });
            }
        }
        let answered =
            session.send(Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes: codes, properties: None }));
        for filter in to_send {
            self.send_retained(joined, &filter);
        }
        (!answered).then_some(Ended::Lost)
    }

    fn send_retained(&mut self, joined: &Joined, filter: &str) {
        self.retained.retain(|_, message| !message.is_over());
        let found = self.retained.iter().filter(|(topic, _)| matches(filter, topic));
        let messages: Vec<Message> = found.map(|(_, message)| message.clone()).collect();
        let Some(session) = self.session(joined) else { return };
        for message in messages {
            let subscription = session.subscriptions.iter().filter(|known| known.filter.path == filter);
            if let Some(mut message) = for_subscriptions(&message, subscription) {
                message.publish.retain = true;
                session.give(message);
            }
        }
    }
}

/// The topic of a message that may be published.
fn topic_of(publish: &Publish) -> Option<&str> {
    let topic = std::str::from_utf8(&publish.topic).ok()?;
    let valid = !topic.is_empty() && topic.len() <= MAX_STRING && !topic.contains(['+', '#', '\0']);
    valid.then_some(topic)
}

/// The one copy of a message for all subscriptions of a client that want it; None if none does.
fn for_subscriptions<'a>(message: &Message, wanted: impl Iterator<Item = &'a Subscription>) -> Option<Message> {
    let mut qos = None;
    let (mut retain, mut identifiers) = (false, Vec::new());
    for subscription in wanted {
        qos = qos.max(Some((subscription.filter.qos as u8).min(message.publish.qos as u8)));
        retain |= subscription.filter.preserve_retain && message.publish.retain;
        identifiers.extend(subscription.identifier);
    }
    let mut message = message.clone();
    message.publish.qos = match qos? {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    message.publish.retain = retain;
    if !identifiers.is_empty() || message.publish.properties.is_some() {
        let properties = message.publish.properties.get_or_insert_with(PublishProperties::default);
        properties.subscription_identifiers = identifiers;
    }
    Some(message)
}

fn judge(filter: &Filter, is_full: bool) -> SubscribeReasonCode {
    if !is_valid_filter(&filter.path) {
        SubscribeReasonCode::TopicFilterInvalid
    } else if filter.path.starts_with("$share/") {
        SubscribeReasonCode::SharedSubscriptionsNotSupported
    } else if is_full {
        SubscribeReasonCode::QuotaExceeded
    } else {
        SubscribeReasonCode::Success(filter.qos)
    }
}

fn unsubscribed(session: &mut Session, unsubscribe: &Unsubscribe) -> Packet {
    let reasons = unsubscribe.filters.iter().map(|filter| {
        let before = session.subscriptions.len();
        session.subscriptions.retain(|known| known.filter.path != *filter);
        if session.subscriptions.len() < before {
            UnsubAckReason::Success
        } else {
            UnsubAckReason::NoSubscriptionExisted
        }
    });
    let reasons = reasons.collect();
    Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None })
}
