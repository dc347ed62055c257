//! One POST to iLink with a typed outcome: a [`Reply`], or why there is none and whether iLink may have read the
//! request.
//!
//! The session decides which request is sent, with which token, and whether it is repeated.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::cause::Peer;
use super::http::{self, NotLeading, Options};
use super::redact;
use super::transport::{self, TransportError};
use crate::observe::counters::Counters;
use crate::os::lease::Lease;
use crate::os::tls;
use crate::protocol::{Reply, Request};

/// No reply of this API is near this; a longer one is not read on.
const MAX_REPLY: usize = 4 * 1024 * 1024;
/// What a failing status may bring: iLink's JSON is short, and the pages of proxies are not read.
const MAX_FAILURE: usize = 64 * 1024;
/// From this status on, an answer does not say what it says with 200.
const FAILED: u16 = 300;

/// Establishing a connection may take half of the whole time-out, and at most this: a failure to connect must be known as
/// one, so it must not run into the whole time-out, after which nobody can say whether the request was read.
const MAX_CONNECT: Duration = Duration::from_secs(5);

/// Idle connections are closed before the service does: a request on a connection that is just being closed fails without
/// an answer.
const POOL_IDLE: Duration = Duration::from_secs(20);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How the API is reached.
#[derive(Clone)]
pub struct ClientConfig {
    /// `ilink.api`.
    pub api: Url,
    /// `ilink.timeout`: how long one call may take in all.
    pub timeout: Duration,
    /// `ilink.proxy`.
    pub proxy: Option<Url>,
    /// `ilink.tls.ca`: a PEM file of roots that are trusted besides the system's.
    pub extra_ca: Option<PathBuf>,
}

/// Shows hosts alone: the proxy's URL may hold a password.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("api", &self.api.host_str())
            .field("timeout", &self.timeout)
            .field("proxy", &self.proxy.as_ref().map(Url::host_str))
            .field("extra_ca", &self.extra_ca)
            .finish()
    }
}

/// The client could not be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of `ilink.tls.ca` holds no certificates, or cannot be read.
    #[error("ilink.tls.ca: {path}: {cause}", path = path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// There is nothing to judge the service's certificate by.
    #[error("no root certificates to trust: install the system's (package ca-certificates) or set ilink.tls.ca")]
    NoRoots,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// What the session needs of a client. [`Client`] is the one there is; the session's own tests script another.
pub trait Post: Send + Sync + 'static {
    /// Posts `request`, with `token` in the query if the request wants one.
    fn post<'a>(
        &'a self,
        request: &'a Request,
        token: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send + 'a>>;
}

/// The HTTP client. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: http::Client,
    api: Url,
    peer: Arc<Peer>,
    counters: Arc<Counters>,
    lease: Lease,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Client {
    /// Builds the client; reads the trusted roots.
    ///
    /// # Errors
    ///
    /// If `ilink.tls.ca` cannot be used, or no roots are found for an `https` API.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let connect = (config.timeout / 2).min(MAX_CONNECT);
        let http = http::Client::new(Options {
            tls: tls::client_config(roots(config)?)?,
            proxy: config.proxy.clone(),
            connect,
            timeout: config.timeout,
            keep: Some(POOL_IDLE),
        });
        let peer = Peer::new(&config.api, config.proxy.as_ref(), connect, config.timeout);
        let (api, counters) = (config.api.clone(), Arc::default());
        Ok(Self { http, api, peer: Arc::new(peer), counters, lease: Lease::always() })
    }

    /// From now on, posts nothing once `lease` is over.
    #[must_use]
    pub fn under(self, lease: Lease) -> Self {
        Self { http: self.http.under(lease.clone()), lease, ..self }
    }

    /// From now on, counts and times its requests there.
    #[must_use]
    pub fn counting(self, counters: Arc<Counters>) -> Self {
        Self { counters, ..self }
    }

    /// Posts `request`, with `token` in the query if the request wants one, and reads the reply.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if there is no connection, no answer in time, a status of 300 or more, or an answer that is not a
    /// JSON object with a `code`.
    pub async fn post(&self, request: &Request, token: Option<&SecretString>) -> Result<Reply, TransportError> {
        let began = Instant::now();
        let reply = self.while_leading(self.exchange(request, token)).await;
        let outcome = reply.as_ref().map_err(TransportError::is_ambiguous);
        self.counters.series.request(request.path, outcome, began.elapsed());
        reply
    }

    /// Carries on with `exchange` while the lease holds. That nothing leaves after that is seen to where bytes leave, in the HTTP
    /// client: so whether any had left is known there, and heard first.
    async fn while_leading<T>(
        &self,
        exchange: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let cause = || NotLeading { partly: true }.to_string();
        if !self.lease.holds() {
            return Err(TransportError::Unsent { cause: cause() });
        }
        // Whichever is dropped has nothing to keep.
        tokio::select! {
            biased;
            exchanged = exchange => exchanged,
            () = self.lease.over() => Err(TransportError::Unanswered { cause: cause() }),
        }
    }

    /// Asks for nothing, only to hear what time it is there; none if the service does not say.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if there is no answer. Any status is one.
    pub async fn time(&self) -> Result<Option<SystemTime>, TransportError> {
        let answer = self.http.get(self.api.as_str()).await.map_err(|error| self.peer.explain(&error))?;
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
    }

    async fn exchange(&self, request: &Request, token: Option<&SecretString>) -> Result<Reply, TransportError> {
        let body = serde_json::to_vec(&request.body)
            .map_err(|e| TransportError::Unsent { cause: format!("the request cannot be written: {e}") })?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, JSON)]);
        let url = self.url(request, token);
        let answer = self.http.post(url.as_str(), headers, body).await.map_err(|error| self.peer.explain(&error))?;
        let status = answer.status;
        if status.as_u16() >= FAILED {
            let retry_after = transport::retry_after(&answer.headers, SystemTime::now());
            let (body, _) = answer.read(MAX_FAILURE).await;
            // Gateways write JSON with a code as well; §6 tells whose it is.
            let code = Reply::decode(&body).map(|reply| reply.code).ok().filter(|code| code.is_listed());
            return Err(match code {
                Some(code) => self.peer.contradicted(status, code),
                None => self.peer.status(status, retry_after),
            });
        }
        let (body, end) = answer.read(MAX_REPLY).await;
        // An object that is whole is an answer, also when more was announced.
        let reply = Reply::decode(&body).map_err(|_| match end {
            Err(cut) => self.peer.cut_short(&cut),
            Ok(()) => self.peer.not_a_reply(),
        })?;
        Ok(redact::masked(reply, request, token))
    }

    /// The URL of a call. It holds the token: it goes nowhere but into the request.
    fn url(&self, request: &Request, token: Option<&SecretString>) -> Url {
        let mut url = self.api.clone();
        let path = format!("{}/{}", self.api.path().trim_end_matches('/'), request.path);
        url.set_path(&path);
        if let (true, Some(token)) = (request.with_token, token) {
            url.query_pairs_mut().append_pair("access_token", token.expose_secret());
        }
        url
    }
}

impl Post for Client {
    fn post<'a>(
        &'a self,
        request: &'a Request,
        token: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send + 'a>> {
        Box::pin(Self::post(self, request, token))
    }
}

/// The system's roots and those of `ilink.tls.ca`.
fn roots(config: &ClientConfig) -> Result<rustls::RootCertStore, ClientError> {
    let mut roots = tls::system_roots();
    if let Some(path) = &config.extra_ca {
        let failed = |cause: String| ClientError::ExtraCa { path: path.clone(), cause };
        tls::add_roots(&mut roots, path).map_err(failed)?;
    }
    if roots.is_empty() && config.api.scheme() == "https" {
        return Err(ClientError::NoRoots);
    }
    Ok(roots)
}
