//! As much of an MQTT 3.1.1 client as a cheap subscriber and a cheap publisher need, blocking, QoS 1.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const NEVER: u16 = 0;

/// A connected client.
pub(crate) struct Client {
    stream: TcpStream,
    /// Read and not parsed yet, from `parsed` on.
    input: Vec<u8>,
    parsed: usize,
    output: Vec<u8>,
    next_id: u16,
}

/// A packet that arrived: its type and what follows the fixed header, as a range of the input.
struct Packet {
    kind: u8,
    from: usize,
    to: usize,
}

impl Client {
    /// Connects; with `keep` the broker keeps the session of this name.
    pub(crate) fn connect(port: u16, name: &str, keep: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, input: Vec::new(), parsed: 0, output: Vec::new(), next_id: 1 };
        let clean = if keep { 0 } else { 2 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, clean];
        body.extend(NEVER.to_be_bytes());
        text(&mut body, name);
        client.packet(0x10, &body, &[]);
        client.flush()?;
        client.next()?;
        Ok(client)
    }

    /// Subscribes with QoS 1.
    pub(crate) fn subscribe(&mut self, filters: &[String]) -> io::Result<()> {
        let mut body = vec![0, 1];
        for filter in filters {
            text(&mut body, filter);
            body.push(1);
        }
        self.packet(0x82, &body, &[]);
        self.flush()
    }

    /// Reads what has come and hands each message's payload to `hear`, then acknowledges all of them at once.
    pub(crate) fn hear(&mut self, mut hear: impl FnMut(&[u8])) -> io::Result<()> {
        let mut packet = Some(self.next()?);
        while let Some(Packet { kind, from, to }) = packet {
            if kind >> 4 == PUBLISH {
                let body = &self.input[from..to];
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (id, payload) = if kind & 0x06 == 0 {
                    (None, &body[2 + topic..])
                } else {
                    (Some([body[2 + topic], body[3 + topic]]), &body[4 + topic..])
                };
                hear(payload);
                if let Some(id) = id {
                    self.output.extend([PUBACK << 4, 2]);
                    self.output.extend(id);
                }
            }
            packet = self.parse();
        }
        self.flush()
    }

    /// Publishes with QoS 1; sent with the next [`Self::flush`].
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8]) {
        let mut head = Vec::with_capacity(topic.len() + 4);
        text(&mut head, topic);
        head.extend(self.next_id.to_be_bytes());
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.packet(0x32, &head, payload);
    }

    /// Waits for acknowledgements and gives how many came.
    pub(crate) fn acknowledged(&mut self) -> io::Result<u64> {
        let mut acknowledged = 0;
        let mut packet = Some(self.next()?);
        while let Some(Packet { kind, .. }) = packet {
            acknowledged += u64::from(kind >> 4 == PUBACK);
            packet = self.parse();
        }
        Ok(acknowledged)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    fn packet(&mut self, kind: u8, head: &[u8], payload: &[u8]) {
        self.output.push(kind);
        let mut length = head.len() + payload.len();
        while length >= 128 {
            self.output.push((length % 128) as u8 | 128);
            length /= 128;
        }
        self.output.push(length as u8);
        self.output.extend(head);
        self.output.extend(payload);
    }

    /// The next packet, waiting for it if it must.
    fn next(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.parse() {
                return Ok(packet);
            }
            self.input.drain(..self.parsed);
            self.parsed = 0;
            let had = self.input.len();
            self.input.resize(had + 64 * 1024, 0);
            let read = self.stream.read(&mut self.input[had..]);
            self.input.truncate(had + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next packet, if all of it is there.
    fn parse(&mut self) -> Option<Packet> {
        let input = &self.input[self.parsed..];
        let kind = *input.first()?;
        let (mut length, mut at) = (0, 1);
        loop {
            let byte = *input.get(at)?;
            length |= usize::from(byte & 127) << (7 * (at - 1));
            at += 1;
            if byte < 128 {
                break;
            }
        }
        let from = self.parsed + at;
        let to = from + length;
        if to > self.input.len() {
            return None;
        }
        self.parsed = to;
        Some(Packet { kind, from, to })
    }
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).expect("short names").to_be_bytes());
    into.extend(text.as_bytes());
}
