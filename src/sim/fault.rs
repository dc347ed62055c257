//! Faults: ordered by `POST /sim/fault`, met by the calls that follow. Among them are answers as servers, proxies and
//! broken machines really give them. Each of these odd answers belongs to a call that was executed: a client that takes
//! it for no answer makes the call again, and a person gets the message twice.

use std::io::{self, Write as _};
use std::time::Duration;

use axum::body::{Body, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::records::Path;

/// What a fault does with a call; the call is executed only by `Delay` and `Odd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// Answers this result code.
    Code(i64),
    /// Closes the connection without an answer.
    Drop,
    /// Never answers.
    Hang,
    /// Answers with this HTTP status.
    Status(u16),
    /// Answers 200 and something that is not JSON.
    Garbage,
    /// Executes the call at once and answers late.
    Delay,
    /// Executes the call and writes the answer oddly.
    Odd(Odd),
    /// Answers as who stands in front of the service: a page with this HTTP status, and perhaps `Retry-After` in seconds.
    Gateway(u16, Option<u32>),
    /// Sends the caller elsewhere.
    Redirect,
}

/// A fault in force.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fault {
    /// Which calls it meets; none: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Path>,
    pub(super) mode: Mode,
    #[serde(skip)]
    pub(super) delay: Duration,
    /// How many calls it still meets; none: until cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u32>,
}

/// The order as it comes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    #[serde(default)]
    path: Option<String>,
    mode: String,
    code: Option<i64>,
    delay_s: Option<f64>,
    retry_after_s: Option<u32>,
    times: Option<u32>,
}

/// The faults in force, oldest first; each call meets the first that fits.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Takes an order; says in words what is wrong with it.
    pub(super) fn order(&mut self, order: &Order) -> Result<(), String> {
        let path = match order.path.as_deref().map(|path| path.trim_start_matches('/')) {
            None | Some("*") => None,
            Some(name) => Some(Path::find(name).ok_or_else(|| format!("path {name:?} is none of the seven calls"))?),
        };
        if order.mode == "clear" {
            self.0.retain(|fault| path.is_some() && fault.path != path);
            return Ok(());
        }
        let mode = match order.mode.as_str() {
            "code" => Mode::Code(order.code.ok_or("mode \"code\" needs a \"code\"")?),
            "drop" => Mode::Drop,
            "hang" => Mode::Hang,
            "status" => Mode::Status(order.status(500)?),
            "gateway" => Mode::Gateway(order.status(503)?, order.retry_after_s),
            "redirect" => Mode::Redirect,
            "garbage" => Mode::Garbage,
            "delay" if order.delay_s.is_some() => Mode::Delay,
            "delay" => return Err("mode \"delay\" needs \"delay_s\"".to_owned()),
            other => Mode::Odd(Odd::ALL.into_iter().find(|odd| odd.as_str() == other).ok_or_else(|| no_mode(other))?),
        };
        let delay = Duration::try_from_secs_f64(order.delay_s.unwrap_or(0.0))
            .ok()
            .filter(|delay| *delay <= Duration::from_hours(1))
            .ok_or("delay_s must be 0–3600")?;
        let left = Some(order.times.unwrap_or(1)).filter(|times| *times > 0);
        self.0.push(Fault { path, mode, delay, left });
        Ok(())
    }

    /// The fault that a call of `path` meets, counted.
    pub(super) fn meet(&mut self, path: Path) -> Option<Fault> {
        let at = self.0.iter().position(|fault| fault.path.is_none_or(|own| own == path))?;
        let fault = self.0.get_mut(at)?;
        let met = fault.clone();
        match &mut fault.left {
            Some(1) => drop(self.0.remove(at)),
            Some(left) => *left -= 1,
            None => {}
        }
        Some(met)
    }
}

impl Order {
    /// The HTTP status that was ordered.
    fn status(&self, default: i64) -> Result<u16, String> {
        let status = u16::try_from(self.code.unwrap_or(default)).ok().filter(|status| (200..=999).contains(status));
        status.ok_or_else(|| format!("mode {:?} needs an HTTP status of 200–999 in \"code\"", self.mode))
    }
}

fn no_mode(name: &str) -> String {
    let odd = Odd::ALL.map(Odd::as_str).join(", ");
    format!("mode {name:?} is none of code, drop, hang, status, garbage, delay, gateway, redirect, {odd}, clear")
}

impl Mode {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Code(_) => "code",
            Self::Drop => "drop",
            Self::Hang => "hang",
            Self::Status(_) => "status",
            Self::Garbage => "garbage",
            Self::Delay => "delay",
            Self::Odd(odd) => odd.as_str(),
            Self::Gateway(..) => "gateway",
            Self::Redirect => "redirect",
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Order {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_fault_meets_its_calls_as_often_as_ordered() {
        let mut faults = Faults::default();
        faults.order(&order(r#"{"path":"/send_msg","mode":"code","code":1016,"times":2}"#)).unwrap();
        faults.order(&order(r#"{"path":"*","mode":"garbage","times":0}"#)).unwrap();
        assert_eq!(faults.meet(Path::SetConfig).unwrap().mode, Mode::Garbage);
        assert_eq!(faults.meet(Path::SendMsg).unwrap().mode, Mode::Code(1016));
        assert_eq!(faults.meet(Path::SendMsg).unwrap().mode, Mode::Code(1016));
        assert_eq!(faults.meet(Path::SendMsg).unwrap().mode, Mode::Garbage);
        faults.order(&order(r#"{"mode":"clear"}"#)).unwrap();
        assert!(faults.meet(Path::SendMsg).is_none());
    }

    #[test]
    fn clearing_one_path_leaves_the_others() {
        let mut faults = Faults::default();
        faults.order(&order(r#"{"path":"send_msg","mode":"drop","times":0}"#)).unwrap();
        faults.order(&order(r#"{"path":"ham_user","mode":"status","times":0}"#)).unwrap();
        faults.order(&order(r#"{"path":"send_msg","mode":"clear"}"#)).unwrap();
        assert!(faults.meet(Path::SendMsg).is_none());
        assert_eq!(faults.meet(Path::HamUser).unwrap().mode, Mode::Status(500));
    }

    #[test]
    fn a_bad_order_is_refused_in_words() {
        for (json, word) in [
            (r#"{"path":"send","mode":"drop"}"#, "send"),
            (r#"{"path":"send_msg","mode":"explode"}"#, "explode"),
            (r#"{"path":"send_msg","mode":"code"}"#, "code"),
            (r#"{"path":"send_msg","mode":"delay"}"#, "delay_s"),
            (r#"{"path":"send_msg","mode":"delay","delay_s":-1}"#, "delay_s"),
            (r#"{"path":"send_msg","mode":"status","code":99}"#, "status"),
            (r#"{"path":"send_msg","mode":"gateway","code":99}"#, "gateway"),
        ] {
            let wrong = Faults::default().order(&order(json)).unwrap_err();
            assert!(wrong.contains(word), "{json}: {wrong}");
        }
    }
}
