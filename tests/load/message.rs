//! The messages: each says its run, its number and when it was sent, and is padded to a size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a message's head; a multiple of three, so that its base64 stands for itself.
pub(crate) const HEAD: usize = 36;
/// The same in base64.
pub(crate) const HEAD_BASE64: usize = HEAD / 3 * 4;

/// What a message says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Tells the messages of one step from late copies of another's.
    pub(crate) run: u32,
    /// Counted from 0.
    pub(crate) number: u64,
    /// When it was sent, see [`now`].
    pub(crate) sent_ns: u64,
}

impl Head {
    pub(crate) fn new(run: u32, number: u64) -> Self {
        Self { run, number, sent_ns: now() }
    }

    pub(crate) fn bytes(self) -> [u8; HEAD] {
        let text = format!("L{:06}.{:010}.{:016}.", self.run % 1_000_000, self.number, self.sent_ns);
        text.as_bytes().try_into().expect("fields of fixed width")
    }

    /// The head at the beginning of a message; none if it is no message of ours.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message.get(..HEAD)?).ok()?;
        let mut fields = text.strip_prefix('L')?.split('.');
        let run = fields.next()?.parse().ok()?;
        Some(Self { run, number: fields.next()?.parse().ok()?, sent_ns: fields.next()?.parse().ok()? })
    }

    /// The same of base64.
    pub(crate) fn read_base64(message: &[u8]) -> Option<Self> {
        let mut head = [0; HEAD];
        STANDARD.decode_slice(message.get(..HEAD_BASE64)?, &mut head).ok()?;
        Self::read(&head)
    }
}

/// A whole message of `size` bytes, at least its head.
pub(crate) fn message(head: Head, size: usize) -> Vec<u8> {
    let mut message = head.bytes().to_vec();
    message.resize(size.max(HEAD), b'x');
    message
}

/// Nanoseconds of the clock that all processes of a machine share.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// An HTTP request with a push, whose head, sender and time are written anew for each; all else is there once.
#[derive(Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    sender_at: usize,
    content_at: usize,
}

impl Request {
    /// A text push of this content size.
    pub(crate) fn new(path: &str, to_uid: &str, size: usize) -> Self {
        let before = format!(r#"{{"to_uid":"{to_uid}","from_uid":""#);
        let between = r#"000000","msg_type":1,"content":""#;
        let content = STANDARD.encode(message(Head { run: 0, number: 0, sent_ns: 0 }, size));
        let after = r#"","create_time":1457408202}"#;
        let length = before.len() + between.len() + content.len() + after.len();
        let http = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let sender_at = http.len() + before.len();
        let content_at = sender_at + between.len();
        Self { bytes: [&http, before.as_str(), between, &content, after].concat().into_bytes(), sender_at, content_at }
    }

    /// The request for this message.
    pub(crate) fn bytes(&mut self, head: Head, sender: u64) -> &[u8] {
        let sender = format!("{:06}", 100_000 + sender % 900_000);
        self.bytes[self.sender_at..self.sender_at + 6].copy_from_slice(sender.as_bytes());
        let content = &mut self.bytes[self.content_at..self.content_at + HEAD_BASE64];
        STANDARD.encode_slice(head.bytes(), content).expect("heads are of one size");
        &self.bytes
    }
}
