//! Reads the MQTT 5 packets on the bridge's connection to its broker: only the few whose order and fate are to be proved.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::labels;
use crate::proxy::{Read, Tap, Trouble};
use crate::records::{Connection, Delivery, Outcome, Place, Publish, Recorder, Reply};

/// One connection.
pub(crate) struct MqttTap {
    recorder: Arc<Recorder>,
    connection: usize,
    up: Stream,
    down: Stream,
    /// The bridge's publishes by packet id.
    publishes: HashMap<u16, usize>,
    /// The broker's.
    deliveries: HashMap<u16, usize>,
    /// Pings that the broker has not answered: the bridge's own, or one in the place of a publish that is refused.
    pings: VecDeque<Option<Refused>>,
}

/// A publish that the broker does not get: a ping goes in its place, and the refusal in that of its answer. So the bridge is
/// answered when the broker has read everything before.
struct Refused {
    pkid: u16,
    code: u8,
    publish: Option<usize>,
}

const PING: [u8; 2] = [0xc0, 0];

/// One way.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// How many were let pass.
    passed: u64,
    /// What to note once so many bytes have been handed on.
    pending: VecDeque<(u64, Note)>,
}

#[derive(Clone, Copy)]
enum Note {
    Acked(usize),
    Delivered(usize),
}

impl MqttTap {
    /// Of this member of a cluster; 0: there is one bridge.
    pub(crate) fn new(recorder: &Arc<Recorder>, member: usize) -> Self {
        let opened = recorder.now();
        let mut records = recorder.lock();
        records.connections.push(Connection { member, opened, ..Connection::default() });
        let connection = records.connections.len() - 1;
        drop(records);
        let (publishes, deliveries) = (HashMap::new(), HashMap::new());
        let recorder = Arc::clone(recorder);
        let (up, down, pings) = (Stream::default(), Stream::default(), VecDeque::new());
        Self { recorder, connection, up, down, publishes, deliveries, pings }
    }

    /// What this trouble makes of a whole packet of the bridge's, which is recorded already.
    fn trouble(&mut self, first: u8, body: &[u8], trouble: Trouble) -> Fate {
        let Some(packet) = Some(first >> 4).filter(|kind| *kind == 3).and_then(|_| Packet::read(first, body)) else {
            return Fate::Passes;
        };
        let code = match (trouble, place(packet.topic)) {
            (Trouble::Die, Some(_)) => return Fate::Ends,
            (Trouble::Busy(code), _) | (Trouble::RefuseOnce(code), Some(Place::Event | Place::Recv)) => code,
            _ => return Fate::Passes,
        };
        let publish = self.publishes.remove(&packet.pkid);
        self.pings.push_back(Some(Refused { pkid: packet.pkid, code, publish }));
        Fate::Refused
    }

    /// A PINGRESP of the broker's: what the bridge gets instead, if the ping was not its own.
    fn refusal(&mut self) -> Option<([u8; 5], Option<Note>)> {
        let Refused { pkid, code, publish } = self.pings.pop_front()??;
        let note = publish.map(|publish| {
            let reply = Reply { code: code.into(), handed_on: None };
            self.recorder.lock().publishes[publish].acked = Some(reply);
            Note::Acked(publish)
        });
        let [high, low] = pkid.to_be_bytes();
        Some(([0x40, 3, high, low, code], note))
    }

    fn packet(&mut self, up: bool, first: u8, body: &[u8]) -> Option<Note> {
        match (first >> 4, up) {
            (2, false) => {
                let session_present = body.first().is_some_and(|flags| flags & 1 == 1);
                // A refusal is no session.
                let accepted = body.get(1) == Some(&0);
                let mut records = self.recorder.lock();
                records.connections[self.connection].session_present = accepted.then_some(session_present);
                None
            }
            (3, _) => {
                let packet = Packet::read(first, body)?;
                if up { self.published(&packet) } else { self.delivered(&packet) }
            }
            (4, _) => {
                let pkid = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
                if up {
                    let delivery = self.deliveries.remove(&pkid)?;
                    let at = self.recorder.now();
                    self.recorder.lock().deliveries[delivery].acked = Some(at);
                    return None;
                }
                let publish = self.publishes.remove(&pkid)?;
                let reply = Reply { code: body.get(2).copied().unwrap_or(0).into(), handed_on: None };
                self.recorder.lock().publishes[publish].acked = Some(reply);
                Some(Note::Acked(publish))
            }
            _ => None,
        }
    }

    fn published(&mut self, packet: &Packet<'_>) -> Option<Note> {
        let place = place(packet.topic)?;
        let json: Value = match place {
            Place::Recv | Place::Presence | Place::Ack => Value::Null,
            _ => serde_json::from_slice(packet.payload).unwrap_or_default(),
        };
        let label = match place {
            Place::Event => labels::of_push(&json),
            Place::Recv => labels::of_bytes(packet.payload),
            Place::Result => json["ref"].as_str().map(str::to_owned),
            Place::Reply => packet.correlation.and_then(labels::of_bytes),
            Place::Presence | Place::Ack => None,
        };
        let result = json["status"].as_str().map(|status| Outcome {
            status: status.to_owned(),
            code: json["code"].as_i64(),
            attempts: json["attempts"].as_u64().unwrap_or(0),
        });
        let id = json["id"].as_str().or(packet.user_id).unwrap_or_default().to_owned();
        let mut records = self.recorder.lock();
        let stamp = json["received_at"].as_str().and_then(|at| humantime::parse_rfc3339(at).ok());
        let off = stamp.and_then(|at| at.elapsed().map_or_else(|ahead| Some(ahead.duration()), Some));
        // Nothing waits that long here: more is the clock's doing.
        records.stepped_stamps += u64::from(off.is_some_and(|off| off.as_secs() > 25));
        if let Some(label) = label.as_ref().filter(|_| result.is_some()) {
            records.with_result.insert(label.clone());
        }
        records.publishes.push(Publish {
            connection: self.connection,
            at: self.recorder.now(),
            place,
            topic: packet.topic.to_owned(),
            id,
            label: label.unwrap_or_default(),
            late: json["late"] == true,
            result,
            acked: None,
        });
        self.publishes.insert(packet.pkid, records.publishes.len() - 1);
        None
    }

    fn delivered(&mut self, packet: &Packet<'_>) -> Option<Note> {
        let label = labels::of_command(packet.payload)?;
        let at = self.recorder.now();
        let mut records = self.recorder.lock();
        let (connection, pkid, dup) = (self.connection, packet.pkid, packet.dup);
        records.deliveries.push(Delivery { connection, at, pkid, dup, label, handed_on: None, acked: None });
        let number = records.deliveries.len() - 1;
        self.deliveries.insert(packet.pkid, number);
        Some(Note::Delivered(number))
    }
}

impl Tap for MqttTap {
    fn read(&mut self, up: bool, bytes: &[u8], mut trouble: Trouble) -> Read {
        let mut seen = Read::default();
        let mut stream = std::mem::take(if up { &mut self.up } else { &mut self.down });
        stream.bytes.extend_from_slice(bytes);
        while let Some((header, length)) = frame(&stream.bytes) {
            if stream.bytes.len() < header + length {
                break;
            }
            let rest = stream.bytes.split_off(header + length);
            let packet = std::mem::replace(&mut stream.bytes, rest);
            let mut note = self.packet(up, packet[0], &packet[header..]);
            // Whole packets only, so that one can be replaced.
            match (packet[0] >> 4, up) {
                (12, true) => {
                    self.pings.push_back(None);
                    seen.on.extend_from_slice(&packet);
                }
                (13, false) => match self.refusal() {
                    Some((refusal, refused)) => {
                        note = refused;
                        seen.on.extend_from_slice(&refusal);
                    }
                    None => seen.on.extend_from_slice(&packet),
                },
                (_, true) => match self.trouble(packet[0], &packet[header..], trouble) {
                    Fate::Ends => {
                        seen.end = true;
                        break;
                    }
                    Fate::Refused => {
                        seen.on.extend_from_slice(&PING);
                        if matches!(trouble, Trouble::RefuseOnce(_)) {
                            seen.spent = true;
                            trouble = Trouble::None;
                        }
                    }
                    Fate::Passes => seen.on.extend_from_slice(&packet),
                },
                (_, false) => seen.on.extend_from_slice(&packet),
            }
            if let Some(note) = note {
                stream.pending.push_back((stream.passed + seen.on.len() as u64, note));
            }
        }
        stream.passed += seen.on.len() as u64;
        *(if up { &mut self.up } else { &mut self.down }) = stream;
        seen
    }

    fn handed_on(&mut self, up: bool, total: u64) {
        let stream = if up { &mut self.up } else { &mut self.down };
        let at = Some(self.recorder.now());
        while let Some((_, note)) = stream.pending.pop_front_if(|(end, _)| *end <= total) {
            let mut records = self.recorder.lock();
            match note {
                Note::Acked(publish) => {
                    if let Some(reply) = &mut records.publishes[publish].acked {
                        reply.handed_on = at;
                    }
                }
                Note::Delivered(delivery) => records.deliveries[delivery].handed_on = at,
            }
        }
    }

    fn closed(&mut self, _cut: bool) {
        let closed = Some(self.recorder.now());
        self.recorder.lock().connections[self.connection].closed = closed;
    }
}

/// What becomes of a packet.
enum Fate {
    Passes,
    Refused,
    /// The connection ends at it.
    Ends,
}

/// Where a publish of ours goes, if that is of interest.
fn place(topic: &str) -> Option<Place> {
    let topic = topic.strip_prefix("ilink/")?;
    Some(match topic.split('/').next()? {
        "event" => Place::Event,
        "recv" => Place::Recv,
        "presence" => Place::Presence,
        "reply" => Place::Reply,
        "by" if topic.split('/').nth(2) == Some("ack") => Place::Ack,
        "result" | "by" => Place::Result,
        _ => return None,
    })
}

/// Sizes of a packet's fixed header and of the rest, once the header is there.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (used, length) = variable(bytes.get(1..)?)?;
    Some((1 + used, length))
}

/// A variable byte integer: the bytes it takes, and its value.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((at + 1, value));
        }
    }
    None
}

/// A QoS 1 PUBLISH.
struct Packet<'a> {
    dup: bool,
    pkid: u16,
    topic: &'a str,
    correlation: Option<&'a [u8]>,
    /// The user property `id`.
    user_id: Option<&'a str>,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(first: u8, body: &'a [u8]) -> Option<Self> {
        if first & 0b110 == 0 {
            return None;
        }
        let (topic, rest) = text(body)?;
        let (pkid, rest) = rest.split_at_checked(2)?;
        let (used, length) = variable(rest)?;
        let (mut properties, payload) = rest.get(used..)?.split_at_checked(length)?;
        let mut packet = Self {
            dup: first & 0b1000 != 0,
            pkid: u16::from_be_bytes([pkid[0], pkid[1]]),
            topic: std::str::from_utf8(topic).ok()?,
            correlation: None,
            user_id: None,
            payload,
        };
        while let Some((kind, rest)) = properties.split_first() {
            properties = match kind {
                0x01 => rest.get(1..)?,
                0x02 => rest.get(4..)?,
                0x03 | 0x08 => text(rest)?.1,
                0x09 => {
                    let (data, rest) = text(rest)?;
                    packet.correlation = Some(data);
                    rest
                }
                0x0b => rest.get(variable(rest)?.0..)?,
                0x23 => rest.get(2..)?,
                0x26 => {
                    let (name, rest) = text(rest)?;
                    let (value, rest) = text(rest)?;
                    if name == b"id" {
                        packet.user_id = std::str::from_utf8(value).ok();
                    }
                    rest
                }
                _ => return None,
            };
        }
        Some(packet)
    }
}

/// Bytes after their length.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(u16::from_be_bytes([length[0], length[1]]).into())
}
