//! The HTTP client: for calls to iLink, for the test of the callback by `check --connect`, and for the simulator's
//! pushes.
//!
//! It follows no redirects, never repeats a request that may have been read, and ignores the environment's proxy
//! variables, because iLink ties a uid to one address (1003). It does not trust the server: the head's size is bounded
//! by `MAX_HEAD`, the body's by the caller, and the time of the whole exchange by [`Options`].

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{self, Builder};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service;
use url::Url;

use crate::os::causes;
use crate::os::lease::Lease;

/// The longest head of an answer, and how much of one is looked at in a turn: interim answers (1xx) may come without end, and
/// hyper goes on reading them while there are any.
const MAX_HEAD: usize = 16 * 1024;

/// A connection whose peer has gone without a word is noticed after a few of these.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("ilink2mqtt/", env!("CARGO_PKG_VERSION")));
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

type BoxError = Box<dyn StdError + Send + Sync>;

/// How a client reaches its servers.
pub struct Options {
    /// What it makes of their certificates.
    pub tls: Arc<rustls::ClientConfig>,
    /// The way to all of them: `http://` or `https://`, with a user and a password if it wants them.
    pub proxy: Option<Url>,
    /// How long a connection may take to stand.
    pub connect: Duration,
    /// How long an exchange may take in all.
    pub timeout: Duration,
    /// How long an idle connection is kept for the next request. None: each request has a connection of its own.
    pub keep: Option<Duration>,
}

/// An exchange failed. The texts of causes are the libraries' own, and none holds the URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The time ran out.
    #[error("no answer in time")]
    TimedOut,
    /// The request cannot be written.
    #[error("the request cannot be written: {0}")]
    Request(hyper::http::Error),
    /// No connection stood, or it ended without an answer.
    #[error(transparent)]
    Exchange(#[from] legacy::Error),
    /// The answer broke off.
    #[error(transparent)]
    Body(#[from] hyper::Error),
}

impl Error {
    /// Whether no connection stood.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Exchange(error) if error.is_connect())
    }

    /// The first cause of a type.
    #[must_use]
    pub fn find<E: StdError + 'static>(&self) -> Option<&E> {
        causes::find(self)
    }

    /// The texts of the error and its causes, outermost first.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        causes::links(self).map(ToString::to_string)
    }

    /// The text of the cause of all.
    #[must_use]
    pub fn innermost(&self) -> String {
        causes::innermost(self)
    }
}

/// No connection stood within [`Options::connect`].
#[derive(Debug, thiserror::Error)]
#[error("the connection was not established in time")]
pub struct ConnectTimedOut;

/// Nothing may leave any more: the lease is over.
#[derive(Debug, thiserror::Error)]
#[error("this bridge does not lead its cluster any more")]
pub struct NotLeading {
    /// Whether a part of the request had left before.
    pub partly: bool,
}

/// The client. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    pool: legacy::Client<Connector, Full<Bytes>>,
    connector: Connector,
    keep: Option<Duration>,
    timeout: Duration,
}

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let proxy = options.proxy.as_ref().and_then(Proxy::read).map(Arc::new);
        let connector = Connector { tls: options.tls, proxy, limit: options.connect, lease: Lease::always() };
        Self::of(connector, options.keep, options.timeout)
    }

    /// One with connections of its own, on which nothing leaves once `lease` is over.
    #[must_use]
    pub fn under(&self, lease: Lease) -> Self {
        Self::of(Connector { lease, ..self.connector.clone() }, self.keep, self.timeout)
    }

    fn of(connector: Connector, keep: Option<Duration>, timeout: Duration) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).http1_max_buf_size(MAX_HEAD);
        match keep {
            Some(keep) => builder.pool_idle_timeout(keep),
            None => builder.pool_max_idle_per_host(0),
        };
        Self { pool: builder.build(connector.clone()), connector, keep, timeout }
    }

    /// Asks for a URL.
    ///
    /// # Errors
    /// If no answer begins in time.
    pub async fn get(&self, url: &str) -> Result<Answer, Error> {
        self.send(Method::GET, url, HeaderMap::new(), Bytes::new()).await
    }

    /// Posts a body with these headers.
    ///
    /// # Errors
    /// If no answer begins in time.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.send(Method::POST, url, headers, body.into()).await
    }

    async fn send(&self, method: Method, url: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.parse().map_err(|error| Error::Request(hyper::http::Error::from(error)))?;
        *request.headers_mut() = headers;
        let tunnelled = request.uri().scheme_str() == Some("https");
        let user = self.connector.proxy.as_ref().and_then(|proxy| proxy.user.clone()).filter(|_| !tunnelled);
        let lines = [Some((USER_AGENT, AGENT)), Some((ACCEPT, ANYTHING)), user.map(|user| (PROXY_AUTHORIZATION, user))];
        request.headers_mut().extend(lines.into_iter().flatten());
        let response = timeout_at(deadline, self.pool.request(request)).await.map_err(|_| Error::TimedOut)??;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, deadline })
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The HTTP headers.
    pub headers: HeaderMap,
    body: Incoming,
    deadline: Instant,
}

/// The end of a body that was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// It is longer than the caller's limit.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// It did not come, or not in time.
    #[error(transparent)]
    Broken(#[from] Error),
}

impl Answer {
    /// What arrives of the body, `limit` bytes at most, and whether that is all of it. Of one that announces to be longer
    /// nothing is read.
    pub async fn read(mut self, limit: usize) -> (Vec<u8>, Result<(), Cut>) {
        let mut read = Vec::new();
        if self.body.size_hint().lower() > limit as u64 {
            return (read, Err(Cut::TooLong(limit)));
        }
        loop {
            let frame = match timeout_at(self.deadline, self.body.frame()).await {
                Err(_) => return (read, Err(Error::TimedOut.into())),
                Ok(None) => return (read, Ok(())),
                Ok(Some(Err(error))) => return (read, Err(Error::Body(error).into())),
                Ok(Some(Ok(frame))) => frame,
            };
            // What is no data are trailers.
            let Ok(data) = frame.into_data() else { continue };
            let room = limit - read.len();
            read.extend(data.iter().take(room));
            if data.len() > room {
                return (read, Err(Cut::TooLong(limit)));
            }
        }
    }
}

/// Where a proxy is, and as whom we come.
struct Proxy {
    uri: Uri,
    user: Option<HeaderValue>,
}

impl Proxy {
    fn read(url: &Url) -> Option<Self> {
        let any = Uri::from_static("http://any");
        let found = Matcher::builder().all(url.as_str()).build().intercept(&any)?;
        Some(Self { uri: found.uri().clone(), user: found.basic_auth().cloned() })
    }
}

/// Makes the connections: straight, by a proxy that passes requests on, or through its tunnel.
#[derive(Clone)]
struct Connector {
    tls: Arc<rustls::ClientConfig>,
    proxy: Option<Arc<Proxy>>,
    limit: Duration,
    lease: Lease,
}

impl Connector {
    async fn connect(self, to: Uri) -> Result<Wire, BoxError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        let mut straight = HttpsConnector::from((tcp, self.tls.clone()));
        let Some(proxy) = self.proxy else {
            return Ok(Wire::new(straight.call(to).await?, false, self.lease));
        };
        if to.scheme_str() != Some("https") {
            return Ok(Wire::new(straight.call(proxy.uri.clone()).await?, true, self.lease));
        }
        let mut tunnel = Tunnel::new(proxy.uri.clone(), straight);
        if let Some(user) = &proxy.user {
            tunnel = tunnel.with_auth(user.clone());
        }
        let tunnelled = HttpsConnector::from((tunnel, self.tls)).call(to).await?;
        Ok(Wire::new(tunnelled, false, self.lease))
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connector, limit) = (self.clone(), self.limit);
        Box::pin(async move {
            timeout(limit, connector.connect(to)).await.unwrap_or_else(|_| Err(Box::new(ConnectTimedOut)))
        })
    }
}

trait Stream: Read + Write + Connection + Send + Unpin {}
impl<T: Read + Write + Connection + Send + Unpin> Stream for T {}

/// A connection of whatever kind. hyper writes requests to a proxy that passes them on in another form.
struct Wire {
    stream: Box<dyn Stream>,
    proxied: bool,
    lease: Lease,
    /// Something has left since the last answer.
    left: bool,
    /// The stream may still hold some of it: TLS does.
    unflushed: bool,
}

impl Wire {
    fn new(stream: impl Stream + 'static, proxied: bool, lease: Lease) -> Self {
        Self { stream: Box::new(stream), proxied, lease, left: false, unflushed: false }
    }

    /// Looked at right before each write: a process may have been suspended since the request was made.
    fn may_write(&self) -> io::Result<()> {
        if self.lease.holds() { Ok(()) } else { Err(io::Error::other(NotLeading { partly: self.left })) }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.left &= read.is_pending();
        read
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_write()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            (self.left, self.unflushed) = (true, true);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            self.may_write()?;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unflushed &= flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
