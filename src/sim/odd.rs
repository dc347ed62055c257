//! Answers as servers, proxies and broken machines really give them. Each belongs to a call that was executed: whoever takes
//! such an answer for none makes the call again, and a person gets a copy.

use std::io;
use std::io::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// How an answer is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Odd {
    /// `{"code":"0"}`.
    StringCode,
    /// `{"code":0.0}`.
    IntegralCode,
    /// A byte order mark before the object.
    Bom,
    /// A NUL behind it.
    Nul,
    /// Gzip, which nobody asked for.
    Gzip,
    /// A string in GBK.
    Gbk,
    /// An array within an array, a hundred thousand times.
    Deep,
    /// A page instead of an object.
    Page,
    /// The first half.
    CutShort,
    /// 30 MB.
    Long,
    /// A string that does not end.
    Endless,
}

/// "Done", in GBK.
const GBK: &[u8] = b"\xb3\xc9\xb9\xa6";
const LONG: usize = 30_000_000;
/// Between two pieces of an answer.
const PAUSE: Duration = Duration::from_millis(50);

impl Odd {
    /// Every one of them.
    pub(super) const ALL: [Self; 11] = [
        Self::StringCode,
        Self::IntegralCode,
        Self::Bom,
        Self::Nul,
        Self::Gzip,
        Self::Gbk,
        Self::Deep,
        Self::Page,
        Self::CutShort,
        Self::Long,
        Self::Endless,
    ];

    /// The name of the mode.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::StringCode => "string_code",
            Self::IntegralCode => "integral_code",
            Self::Bom => "bom",
            Self::Nul => "nul",
            Self::Gzip => "gzip",
            Self::Gbk => "gbk",
            Self::Deep => "deep",
            Self::Page => "page",
            Self::CutShort => "cut_short",
            Self::Long => "long",
            Self::Endless => "endless",
        }
    }

    /// The body that says `reply`, and how long it claims to be, if that is not what it is.
    pub(super) fn body(self, reply: &Map<String, Value>) -> (Body, Option<usize>) {
        let plain = Value::Object(reply.clone()).to_string().into_bytes();
        let whole = |bytes: Vec<u8>| (Body::from(bytes), None);
        match self {
            Self::StringCode => whole(with_code(reply, |code| json!(code.to_string()))),
            Self::IntegralCode => whole(with_code(reply, |code| {
                code.to_string().parse::<f64>().map_or_else(|_| code.clone(), |code| json!(code))
            })),
            Self::Bom => whole([b"\xef\xbb\xbf", plain.as_slice()].concat()),
            Self::Nul => whole([plain.as_slice(), b"\0"].concat()),
            Self::Gzip => whole(gzip(&plain).unwrap_or(plain)),
            Self::Gbk => whole(with_field(&plain, &[b"\"", GBK, b"\""].concat())),
            Self::Deep => whole(with_field(&plain, &[vec![b'['; 100_000], vec![b']'; 100_000]].concat())),
            Self::Page => whole(b"<html>done</html>".to_vec()),
            Self::Long => whole(with_field(&plain, &[b"\"", vec![b'x'; LONG].as_slice(), b"\""].concat())),
            Self::CutShort => {
                let half = Bytes::copy_from_slice(plain.get(..plain.len() / 2).unwrap_or_default());
                let end = stream::once(async {
                    // Without a pause, not even the head would leave.
                    tokio::time::sleep(PAUSE).await;
                    Err(io::Error::other("a fault cuts this answer"))
                });
                (Body::from_stream(stream::iter([Ok(half)]).chain(end)), Some(plain.len()))
            }
            Self::Endless => {
                let begin = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"{\"msg\":\""))]);
                let rest = stream::repeat(Bytes::from_static(&[b'x'; 1024])).then(|piece| async {
                    tokio::time::sleep(PAUSE).await;
                    Ok(piece)
                });
                (Body::from_stream(begin.chain(rest)), None)
            }
        }
    }
}

fn with_code(reply: &Map<String, Value>, write: impl Fn(&Value) -> Value) -> Vec<u8> {
    let mut reply = reply.clone();
    if let Some(code) = reply.get_mut("code") {
        *code = write(code);
    }
    Value::Object(reply).to_string().into_bytes()
}

/// The object with one more field, of these bytes.
fn with_field(object: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = object.strip_prefix(b"{").unwrap_or_default();
    [b"{\"msg\":", value, b",", rest].concat()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}
