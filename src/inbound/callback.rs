//! The callback's two handlers: `GET` is iLink's handshake (manual §3.1), `POST` is a push (§4).
//!
//! Nothing else of a request is read unless its path ends with the secret. The reason of a refusal is counted; the peer only
//! gets a status code. For iLink any status is an answer, and it does not repeat an answered push. So a push that could not be
//! stored gets no answer at all ([`NoAnswer`]).

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::room::Held;
use super::store::Store;
use crate::cloud::{Handshake, HandshakeLog};
use crate::http;
use crate::http::answered::{Answer, Armed};
use crate::http::listener::{NoAnswer, Visit};
use crate::observe::counters::{Counters, PushOutcome, Unanswered};
use crate::observe::log::Seldom;
use crate::os::clock;
use crate::protocol::signature::{self, Accepted, Variant};
use crate::protocol::{Kind, Push, Uid, lenient};

/// The limit for the body to arrive, once there is room for it; iLink itself waits 5 s for the whole exchange (manual §2.2).
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that leaves later than this is too late: iLink has closed the connection by then (manual §2.2).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of a refused request is read.
const LINGER: Duration = Duration::from_secs(1);
const DONE: &str = r#"{"code":0}"#;

/// The callback's part of the configuration.
pub struct CallbackConfig {
    /// The secrets that the path may end with: one, or two while a new one is being registered.
    pub path_secrets: watch::Receiver<Vec<SecretString>>,
    /// The token with which handshakes are signed.
    pub handshake_token: SecretString,
    /// Which signatures are accepted.
    pub accepted: Accepted,
    /// The largest push body, in bytes.
    pub max_body: usize,
    /// Our uid.
    pub uid: Uid,
    /// Whether pushes for another uid are refused.
    pub strict_to_uid: bool,
}

/// When the last push was stored, and which warnings were given already.
#[derive(Default)]
pub struct LastSeen {
    push_ms: AtomicU64,
    unreadable: AtomicBool,
    other_uid: AtomicBool,
    wrong_signature: Seldom,
    too_large: Seldom,
}

impl LastSeen {
    /// Wall-clock milliseconds of the last push that was stored.
    pub fn push_ms(&self) -> Option<u64> {
        Some(self.push_ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0)
    }
}

/// Notes in the handshake log whether the answer to a handshake left, or was dropped.
struct HandshakeAnswer {
    log: HandshakeLog,
    variant: Variant,
    arrived: Instant,
    left: bool,
}

impl HandshakeAnswer {
    fn left(mut self) {
        self.left = true;
    }
}

impl Drop for HandshakeAnswer {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        self.log.note(if self.left { Handshake::Answered(self.variant, took) } else { Handshake::Abandoned(took) });
    }
}

/// The callback.
pub struct Callback {
    config: CallbackConfig,
    store: Arc<Store>,
    handshakes: HandshakeLog,
    counters: Arc<Counters>,
    seen: Arc<LastSeen>,
}

impl Callback {
    /// A callback that stores pushes in `store` and notes handshakes in `handshakes`.
    #[must_use]
    pub fn new(
        config: CallbackConfig,
        store: Arc<Store>,
        handshakes: HandshakeLog,
        counters: Arc<Counters>,
        seen: Arc<LastSeen>,
    ) -> Self {
        Self { config, store, handshakes, counters, seen }
    }

    /// Answers one request of `visit`'s connection that came from `client`.
    ///
    /// # Errors
    /// If it is a push that could not be stored.
    pub async fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        client: IpAddr,
        visit: &Visit,
    ) -> Result<Response<Answer>, NoAnswer>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let response = if self.is_ours(head.uri.path()) {
            let _vouched = visit.vouch();
            match head.method {
                Method::GET => self.handshake(head.uri.query().unwrap_or_default(), &visit.armed),
                Method::POST => self.push(&head, &mut body, client, &visit.armed).await?,
                _ => {
                    self.counters.callback_rejected_method.add();
                    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED);
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
                    response
                }
            }
        } else {
            self.counters.callback_rejected_path.add();
            if head.method == Method::GET {
                self.handshakes.note(Handshake::WrongPath);
            }
            debug!(%client, "refused a request: the path is not the callback's");
            refusal(StatusCode::NOT_FOUND)
        };
        // Whoever waits for "100 Continue" has not sent a body yet.
        if !response.status().is_success() && !head.headers.contains_key(EXPECT) {
            linger(&mut body, self.config.max_body).await;
        }
        Ok(response)
    }

    /// Notes a request of a client that may not call, or whose address cannot be read. If it was a handshake, the handshake log
    /// tells so.
    pub(super) fn refused_address<B>(&self, request: &Request<B>, client: Option<IpAddr>) {
        self.counters.callback_rejected_address.add();
        if request.method() == Method::GET && self.is_ours(request.uri().path()) {
            self.handshakes.note(Handshake::WrongAddress(client));
        }
    }

    /// Whether the last non-empty segment of `path` is the secret. Proxies may have removed segments before it.
    fn is_ours(&self, path: &str) -> bool {
        let last = path.rsplit('/').find(|segment| !segment.is_empty()).unwrap_or_default();
        self.config.path_secrets.borrow().iter().any(|secret| http::is_secret(last.as_bytes(), secret))
    }

    fn handshake(&self, query: &str, armed: &Armed) -> Response<Answer> {
        let arrived = Instant::now();
        let (mut signature, mut timestamp, mut echostr) = (None, None, None);
        // The registered URL may have a query of its own, to which iLink appends: the last value of a name counts.
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "signature" => signature = Some(value),
                "timestamp" => timestamp = Some(value),
                "echostr" => echostr = Some(value),
                _ => {}
            }
        }
        let (Some(signature), Some(timestamp), Some(echostr)) = (signature, timestamp, echostr) else {
            self.counters.callback_rejected_parameters.add();
            self.handshakes.note(Handshake::Incomplete);
            return refusal(StatusCode::BAD_REQUEST);
        };
        let token = self.config.handshake_token.expose_secret();
        let Some(variant) = signature::verify(self.config.accepted, token, &timestamp, &echostr, &signature) else {
            self.counters.callback_rejected_signature.add();
            self.handshakes.note(Handshake::WrongSignature);
            if self.seen.wrong_signature.may() {
                warn!(
                    "refused a handshake: its signature is wrong (another token is registered, or callback.signature pins another variant)"
                );
            }
            return refusal(StatusCode::FORBIDDEN);
        };
        self.counters.handshakes_answered.add();
        if self.handshakes.variant() != Some(variant) {
            info!(%variant, "answered iLink's handshake");
        }
        let noted = HandshakeAnswer { log: self.handshakes.clone(), variant, arrived, left: false };
        let answer = Answer::new(echostr.into_owned()).then(armed, Box::new(move || noted.left()));
        let mut response = Response::new(answer);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    async fn push<B>(
        self: &Arc<Self>,
        head: &Parts,
        body: &mut B,
        client: IpAddr,
        armed: &Armed,
    ) -> Result<Response<Answer>, NoAnswer>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let arrived = Instant::now();
        let body = match self.read(head, body).await {
            Ok(body) => body,
            Err(ReadError::TooLarge) => {
                self.counters.callback_rejected_size.add();
                if self.seen.too_large.may() {
                    warn!(%client, max_body = self.config.max_body, "refused a push: its body is larger than callback.max_body, which could be raised");
                }
                return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Err(ReadError::Broken) => {
                self.counters.callback_rejected_malformed.add();
                return Err(NoAnswer);
            }
            Err(ReadError::Slow) => {
                self.counters.callback_rejected_slow.add();
                return Err(NoAnswer);
            }
            Err(ReadError::NoRoom) => return Err(NoAnswer),
        };
        if body.bytes().is_empty() {
            debug!(%client, "a push without a body: there is nothing to store");
            return Ok(json(Answer::new(DONE)));
        }
        let (body, kind, to_uid) = self.understand(body, client)?;
        if let Some(refused) = self.check_receiver(to_uid.as_ref()) {
            self.counters.series.push(kind, PushOutcome::Refused);
            return Ok(refused);
        }
        let ticket = self.store.store(body, kind).await?;
        let took = arrived.elapsed();
        self.seen.push_ms.store(clock::wall_now_ms(), Ordering::Relaxed);
        self.counters.series.push_stored(took);
        debug!(kind = kind.as_str(), ?took, "stored a push");
        let mut answer = Answer::new(DONE);
        // After this time iLink has gone, and will repeat the push.
        if let Some(ticket) = ticket.filter(|_| took < ANSWER_TIMEOUT) {
            let leaving = Store::leaving(ticket);
            let in_time = move || {
                if arrived.elapsed() < ANSWER_TIMEOUT {
                    leaving.left();
                }
            };
            answer = answer.then(armed, Box::new(in_time));
        }
        self.store.may_answer(kind)?;
        Ok(json(answer))
    }

    /// Reads the body, once there is room in memory for it.
    async fn read<B>(&self, head: &Parts, body: &mut B) -> Result<Held, ReadError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let max = self.config.max_body;
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(ReadError::TooLarge);
        }
        let announced = announced.and_then(|length| usize::try_from(length).ok());
        // A body without a Content-Length may be as large as any.
        let place = self.store.room(announced.unwrap_or(max)).await.map_err(|_| ReadError::NoRoom)?;
        let read = timeout(BODY_TIMEOUT, collect(body, announced.unwrap_or_default(), max)).await;
        Ok(Held::new(read.map_err(|_| ReadError::Slow)??, place))
    }

    /// Finds the kind and the receiver of the push in `body`, and returns the bytes to store with them. A body that cannot be
    /// read is stored as a push, too: iLink would not send it again.
    fn understand(&self, body: Held, client: IpAddr) -> Result<(Held, Kind, Option<Uid>), Unanswered> {
        if let Some(unpacked) = lenient::gunzip(body.bytes(), self.config.max_body)
            && let Ok((kind, to_uid)) = Push::heading(&unpacked)
        {
            return Ok((self.store.exchanged(body, unpacked.into())?, kind, to_uid));
        }
        let (kind, to_uid) = Push::heading(body.bytes()).unwrap_or_else(|_| {
            self.counters.callback_rejected_json.add();
            if !self.seen.unreadable.swap(true, Ordering::Relaxed) {
                warn!(%client, bytes = body.bytes().len(), "a push is not a JSON object: it is kept, and comes as event/other with body_base64 (further ones are only counted)");
            }
            (Kind::Other, None)
        });
        Ok((body, kind, to_uid))
    }

    fn check_receiver(&self, to_uid: Option<&Uid>) -> Option<Response<Answer>> {
        let other = to_uid.filter(|to_uid| **to_uid != self.config.uid)?;
        if self.config.strict_to_uid {
            self.counters.callback_rejected_uid.add();
            return Some(refusal(StatusCode::FORBIDDEN));
        }
        self.counters.pushes_for_other_uid.add();
        if !self.seen.other_uid.swap(true, Ordering::Relaxed) {
            warn!(to_uid = other.as_str(), uid = %self.config.uid, "accepted a push for a uid other than ours (callback.strict_to_uid = true refuses them; further ones are only counted)");
        }
        None
    }
}

enum ReadError {
    TooLarge,
    Broken,
    Slow,
    NoRoom,
}

impl From<Unanswered> for NoAnswer {
    fn from(_: Unanswered) -> Self {
        Self
    }
}

/// Reads the whole body, of at most `max` and probably `expected` bytes.
async fn collect<B>(body: &mut B, expected: usize, max: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = BytesMut::new();
    while let Some(data) = next_data(body).await {
        let data = data?;
        if read.len() + data.len() > max {
            return Err(ReadError::TooLarge);
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        // Reserve all at once: growing in steps would take up to twice as much memory.
        read.reserve(data.len().max(expected.saturating_sub(read.len())));
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

async fn next_data<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, ReadError>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map_err(|_| ReadError::Broken).map(|frame| frame.into_data().unwrap_or_default()))
}

/// Reads the rest of a request for a moment before it is refused: a connection that is closed with unread bytes is reset, and
/// the peer might not see the status.
async fn linger<B: Body<Data = Bytes> + Unpin>(body: &mut B, max_body: usize) {
    let mut left = max_body.saturating_mul(4);
    let drain = async {
        while let Some(Ok(data)) = next_data(body).await {
            left = left.saturating_sub(data.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}

/// A refusal: the connection is closed after it.
pub(super) fn refusal(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::new(Bytes::new()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn json(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
