//! What a bridge has promised up to a moment, read off its recorded conversations: with iLink's pushes, with iLink's API, with
//! the broker.

use std::collections::{BTreeSet, HashMap};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use serde_json::Value;

use super::recording::{Descriptor, Event};

/// A publish of the bridge that waits for its PUBACK.
#[derive(Debug, Clone)]
enum Published {
    Raw(String),
    Envelope(String),
    Result(String),
    Other,
}

#[derive(Default)]
struct Conversation {
    received: BytesMut,
    sent: BytesMut,
    is_mqtt: bool,
    /// The text of the push that is being answered.
    push: Option<String>,
    /// The call that must not be repeated and is under way.
    once: Option<String>,
    /// The message that is under way.
    called: Option<String>,
    published: HashMap<u16, Published>,
    commands: HashMap<u16, String>,
}

/// The promises, by the text of a push and the `ref` of a command.
#[derive(Default)]
pub(crate) struct Promises {
    conversations: HashMap<Descriptor, Conversation>,
    pub(crate) pushes_received: BTreeSet<String>,
    pub(crate) pushes_answered: BTreeSet<String>,
    raw_acked: BTreeSet<String>,
    envelope_acked: BTreeSet<String>,
    pub(crate) commands_received: BTreeSet<String>,
    pub(crate) commands_acked: BTreeSet<String>,
    /// The call's outcome was told to the broker.
    pub(crate) results_known: BTreeSet<String>,
    pub(crate) results_acked: BTreeSet<String>,
    /// Calls that must not be repeated, from the moment at which iLink may have read them until it refuses one.
    pub(crate) once_called: BTreeSet<String>,
    pub(crate) called_twice: Vec<String>,
    /// Messages, from the moment at which iLink may have read them until it refuses one.
    pub(crate) called: BTreeSet<String>,
    /// URL and handshake token that iLink was told.
    pub(crate) registered: Option<(String, String)>,
    /// Tokens that iLink gave.
    pub(crate) tokens: BTreeSet<String>,
}

impl Promises {
    /// Whether the broker has all of a push.
    pub(crate) fn is_delivered(&self, push: &str) -> bool {
        self.raw_acked.contains(push) && self.envelope_acked.contains(push)
    }

    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::SocketOpened(by) | Event::SocketClosed(by) => {
                self.conversations.remove(by);
            }
            Event::Received(by, data) => self.converse(*by, data, false),
            Event::Sent(by, data) => self.converse(*by, data, true),
            _ => {}
        }
    }

    fn converse(&mut self, by: Descriptor, data: &[u8], sent: bool) {
        let mut conversation = self.conversations.remove(&by).unwrap_or_default();
        let starts = conversation.received.is_empty() && conversation.sent.is_empty();
        // An MQTT conversation begins with our CONNECT.
        conversation.is_mqtt |= starts && sent && data.first() == Some(&0x10);
        if sent { &mut conversation.sent } else { &mut conversation.received }.extend_from_slice(data);
        if conversation.is_mqtt {
            self.mqtt(&mut conversation, sent);
        } else {
            self.http(&mut conversation, sent);
        }
        self.conversations.insert(by, conversation);
    }

    fn mqtt(&mut self, conversation: &mut Conversation, sent: bool) {
        loop {
            let stream = if sent { &mut conversation.sent } else { &mut conversation.received };
            if stream.is_empty() {
                return;
            }
            let packet = match Packet::read(stream, None) {
                Ok(packet) => packet,
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => return,
                // Our DISCONNECT, without a reason; taken off the stream.
                Err(rumqttc::v5::mqttbytes::Error::PayloadRequired) => continue,
                Err(error) => panic!("not MQTT: {error}"),
            };
            match (packet, sent) {
                (Packet::Publish(publish), true) => {
                    let published = self.published(&publish);
                    conversation.published.insert(publish.pkid, published);
                }
                (Packet::PubAck(ack), false) => match conversation.published.remove(&ack.pkid) {
                    Some(Published::Raw(text)) => drop(self.raw_acked.insert(text)),
                    Some(Published::Envelope(text)) => drop(self.envelope_acked.insert(text)),
                    Some(Published::Result(reference)) => drop(self.results_acked.insert(reference)),
                    Some(Published::Other) | None => {}
                },
                (Packet::Publish(publish), false) => {
                    if let Some(reference) = reference(&publish.payload) {
                        self.commands_received.insert(reference.clone());
                        conversation.commands.insert(publish.pkid, reference);
                    }
                }
                (Packet::PubAck(ack), true) => {
                    self.commands_acked.extend(conversation.commands.remove(&ack.pkid));
                }
                _ => {}
            }
        }
    }

    fn published(&mut self, publish: &Publish) -> Published {
        let topic = std::str::from_utf8(&publish.topic).expect("UTF-8");
        if topic.starts_with("ilink/recv/user/") {
            return Published::Raw(String::from_utf8(publish.payload.to_vec()).expect("a text"));
        }
        if topic.starts_with("ilink/event/") {
            let envelope: Value = serde_json::from_slice(&publish.payload).expect("JSON");
            return Published::Envelope(envelope["content"].as_str().expect("a text").to_owned());
        }
        if topic.starts_with("ilink/result/") {
            let reference = reference(&publish.payload).expect("every command has a ref");
            self.results_known.insert(reference.clone());
            return Published::Result(reference);
        }
        Published::Other
    }

    fn http(&mut self, conversation: &mut Conversation, sent: bool) {
        let stream = if sent { &mut conversation.sent } else { &mut conversation.received };
        let Some((head, body)) = message(stream) else { return };
        if head.starts_with("POST") {
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            if sent {
                conversation.once = self.call(&head, &body);
                conversation.called = text(&body["content"]);
                self.called.extend(conversation.called.clone());
            } else {
                conversation.push = self.push(&body);
            }
        } else if sent && head.contains(" 200 ") && body == br#"{"code":0}"# {
            self.pushes_answered.extend(conversation.push.take());
        } else if !sent && let Ok(reply) = serde_json::from_slice::<Value>(&body) {
            self.tokens.extend(reply["access_token"].as_str().map(str::to_owned));
            if let Some(refused) = conversation.once.take().filter(|_| reply["code"] != 0) {
                self.once_called.remove(&refused);
            }
            if let Some(refused) = conversation.called.take().filter(|_| reply["code"] != 0) {
                self.called.remove(&refused);
            }
        }
    }

    fn push(&mut self, body: &Value) -> Option<String> {
        let text = text(&body["content"])?;
        self.pushes_received.insert(text.clone());
        Some(text)
    }

    /// Gives the name of a call that must not be repeated.
    fn call(&mut self, head: &str, body: &Value) -> Option<String> {
        if head.contains("/set_config") && body["url"].is_string() && body["token"].is_string() {
            let field = |name: &str| body[name].as_str().unwrap().to_owned();
            self.registered = Some((field("url"), field("token")));
        }
        let group = body["group_name"].as_str().map(str::to_owned);
        // By convention of this test what must not be sent twice says so.
        let once = group.or_else(|| text(&body["content"])).filter(|text| text.starts_with("once"))?;
        if !self.once_called.insert(once.clone()) {
            self.called_twice.push(once.clone());
        }
        Some(once)
    }
}

/// Takes a whole HTTP message from the front of a stream: head and body.
fn message(stream: &mut BytesMut) -> Option<(String, Vec<u8>)> {
    let end = stream.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&stream[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let total = end + length.unwrap_or(0);
    if stream.len() < total {
        return None;
    }
    let message = stream.split_to(total);
    Some((head, message[end..].to_vec()))
}

fn reference(payload: &[u8]) -> Option<String> {
    serde_json::from_slice::<Value>(payload).ok()?["ref"].as_str().map(str::to_owned)
}

/// Base64 of a text, decoded.
fn text(content: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(content.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}
