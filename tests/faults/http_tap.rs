//! Reads the HTTP/1.1 exchanges on the other two connections.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::labels;
use crate::proxy::{Read, Tap, Trouble};
use crate::records::{Call, Recorder, Reply, SECOND, Time};

/// A sender that leaves later than this after its try began has lost its patience.
const GIVING_UP: Time = 4 * SECOND;

/// Which connection it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The bridge's calls.
    Api,
    /// iLink's pushes.
    Callback,
}

pub(crate) struct HttpTap {
    recorder: Arc<Recorder>,
    what: What,
    member: usize,
    up: Stream,
    down: Stream,
    /// Requests that wait for their responses, as numbers of calls, or of pushes and their tries.
    waiting: VecDeque<Exchange>,
    answered: VecDeque<(u64, usize)>,
}

#[derive(Clone, Copy)]
struct Exchange {
    end: u64,
    number: Option<(usize, usize)>,
    handed_on: bool,
}

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    parsed: u64,
}

/// A whole request or response.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = |line: &'a str| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name));
    head.lines().find_map(line).map(|(_, value)| value.trim())
}

impl Stream {
    fn next(&mut self) -> Option<Message> {
        let end = self.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let length: usize = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if self.bytes.len() < end + length {
            return None;
        }
        let rest = self.bytes.split_off(end + length);
        let message = std::mem::replace(&mut self.bytes, rest);
        self.parsed += message.len() as u64;
        Some(Message { head, body: message[end..].to_vec() })
    }
}

impl HttpTap {
    /// Of this member of a cluster; 0: there is one bridge.
    pub(crate) fn new(recorder: &Arc<Recorder>, what: What, member: usize) -> Self {
        Self {
            recorder: Arc::clone(recorder),
            what,
            member,
            up: Stream::default(),
            down: Stream::default(),
            waiting: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    fn request(&mut self, message: &Message) {
        let number = match self.what {
            What::Api => {
                let path = message.head.split_whitespace().nth(1).unwrap_or_default();
                // To a proxy, whole URLs are sent.
                let path =
                    path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
                let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
                let label = labels::of_call(&body).unwrap_or_default();
                let at = self.recorder.now();
                let mut records = self.recorder.lock();
                records.calls.push(Call { member: self.member, at, path, label, handed_on: None, answer: None });
                Some((records.calls.len() - 1, 0))
            }
            // What is not of the load's own sending (handshakes, the service's own pushes) has no such header.
            What::Callback => message.header("x-try").and_then(|value| {
                let (push, made) = value.split_once('.')?;
                Some((push.parse().ok()?, made.parse().ok()?))
            }),
        };
        self.waiting.push_back(Exchange { end: self.up.parsed, number, handed_on: false });
    }

    fn response(&mut self, message: &Message) {
        let Some(Exchange { number: Some((number, made)), .. }) = self.waiting.pop_front() else { return };
        let status: u16 = message.head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut records = self.recorder.lock();
        if self.what == What::Callback {
            if let Some(made) = records.pushes[number].tries.get_mut(made) {
                made.may_be_answered = true;
            }
            return;
        }
        let code = code(&message.body).filter(|_| status == 200).unwrap_or(-1);
        records.calls[number].answer = Some(Reply { code, handed_on: None });
        self.answered.push_back((self.down.parsed, number));
    }
}

/// The code of a reply, however oddly it is written; none if it is not whole, or says none.
fn code(body: &[u8]) -> Option<i64> {
    let mut unpacked = Vec::new();
    if body.starts_with(b"\x1f\x8b") {
        GzDecoder::new(body).read_to_end(&mut unpacked).ok()?;
    } else {
        unpacked.extend_from_slice(body);
    }
    let text = String::from_utf8_lossy(&unpacked);
    let text = text.trim_matches(['\0', '\u{feff}', '\r', '\n', ' ']);
    let (_, code) = text.strip_suffix('}')?.split_once("\"code\":")?;
    let code = code.trim_start_matches(['"', ' ']);
    let end = code.find(|letter: char| !letter.is_ascii_digit() && letter != '-').unwrap_or(code.len());
    code[..end].parse().ok()
}

impl Tap for HttpTap {
    fn read(&mut self, up: bool, bytes: &[u8], _trouble: Trouble) -> Read {
        let stream = if up { &mut self.up } else { &mut self.down };
        stream.bytes.extend_from_slice(bytes);
        while let Some(message) = if up { self.up.next() } else { self.down.next() } {
            if up { self.request(&message) } else { self.response(&message) }
        }
        Read { on: bytes.to_vec(), ..Read::default() }
    }

    fn handed_on(&mut self, up: bool, total: u64) {
        let at = Some(self.recorder.now());
        if up {
            for exchange in self.waiting.iter_mut().filter(|exchange| exchange.end <= total && !exchange.handed_on) {
                exchange.handed_on = true;
                if let (What::Api, Some((number, _))) = (self.what, exchange.number) {
                    self.recorder.lock().calls[number].handed_on = at;
                }
            }
            return;
        }
        while let Some((_, number)) = self.answered.pop_front_if(|(end, _)| *end <= total) {
            if let Some(answer) = &mut self.recorder.lock().calls[number].answer {
                answer.handed_on = at;
            }
        }
    }

    fn closed(&mut self, cut: bool) {
        if self.what == What::Api {
            return;
        }
        let now = self.recorder.now();
        // The bridge may have answered into a socket that the proxy no longer read: when the proxy cut it, or when its sender
        // gave up, whose 5 s began sooner than the bridge's.
        for exchange in self.waiting.iter().filter(|exchange| exchange.handed_on) {
            if let Some((push, made)) = exchange.number
                && let Some(made) = self.recorder.lock().pushes[push].tries.get_mut(made)
            {
                made.may_be_answered |= cut || now > made.at + GIVING_UP;
            }
        }
    }
}
