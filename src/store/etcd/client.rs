//! Requests to etcd's JSON gateway: the endpoints in turn (`choice`), each with its time, and what is wrong with whoever answers.
//!
//! The gateway, because its HTTP client is here already: the crate `etcd-client` needs protoc for each build and brings tonic,
//! prost and h2, some forty crates.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Builder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Answer;
use super::choice::Choice;
use super::config::EtcdConfig;
use super::endpoint::{Endpoint, Ours};
use super::error::{EtcdError, more_telling, refusal};
use super::wire::{Carried, Found, Health, Login, Range, Status, Token, Transaction, Version};
use crate::os::lock;
use crate::os::tls::{self, FilesError};

/// How long one endpoint may take to answer.
pub(super) const EACH: Duration = Duration::from_secs(3);
/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection whose peer has gone without a word is noticed after a few of these.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const KEEP_ALIVES: u32 = 3;
/// An idle connection is kept so long.
const IDLE: Duration = Duration::from_secs(90);

/// The way to etcd.
#[derive(Debug)]
pub(super) struct Client {
    pool: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoints: Vec<Arc<Endpoint>>,
    choice: Choice,
    login: Option<(String, SecretString)>,
    token: Mutex<Option<HeaderValue>>,
}

impl Client {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let ours = Ours::default();
        let endpoints = config.endpoints.iter().map(|url| Ok(Arc::new(Endpoint::new(url, &ours)?)));
        let endpoints: Vec<_> = endpoints.collect::<Result<_, EtcdError>>()?;
        if endpoints.is_empty() {
            return Err(EtcdError::Config("cluster.endpoints is empty".to_owned()));
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        http.set_keepalive(Some(KEEP_ALIVE));
        http.set_keepalive_interval(Some(KEEP_ALIVE));
        http.set_keepalive_retries(Some(KEEP_ALIVES));
        let secured = config.endpoints.iter().any(|endpoint| endpoint.scheme() == "https");
        let tls = if secured {
            config.tls.config()
        } else {
            tls::client_config(RootCertStore::empty()).map_err(FilesError::Tls)
        };
        let pool = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(HttpsConnector::from((http, tls?)));
        let (choice, login, token) = (Choice::among(endpoints.len()), config.login.clone(), Mutex::default());
        Ok(Self { pool, endpoints, choice, login, token })
    }

    /// The endpoints, for people.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (usize, &str)> {
        self.endpoints.iter().map(|endpoint| endpoint.url.as_str()).enumerate()
    }

    /// Where requests go at present.
    pub(super) fn current(&self) -> usize {
        self.choice.current()
    }

    /// This endpoint is no good at present: requests go to others.
    pub(super) fn leave(&self, endpoint: usize) {
        self.choice.leave(endpoint);
    }

    /// Asks; at each endpoint once, beginning with the present one, until one answers. While one is silent, the next is asked
    /// besides. What is asked for must be harmless when it is carried out twice.
    pub(super) async fn ask<A: DeserializeOwned + Answer>(
        &self,
        path: &str,
        question: &impl Serialize,
        each: Duration,
    ) -> Result<A, EtcdError> {
        self.ask_around(path, question, each).await.0
    }

    /// The answer, and whether somebody else who was asked may have done it, or may do it yet.
    async fn ask_around<A: DeserializeOwned + Answer>(
        &self,
        path: &str,
        question: &impl Serialize,
        each: Duration,
    ) -> (Result<A, EtcdError>, bool) {
        let body = match encoded(question) {
            Ok(body) => body,
            Err(error) => return (Err(error), false),
        };
        let order = self.choice.order();
        let mut next = order.iter().copied().map(|endpoint| {
            let body = body.clone();
            async move {
                let begun = Instant::now();
                let answer = self.ask_at(endpoint, path, body, each).await;
                (endpoint, begun.elapsed(), answer.and_then(|answer| self.decoded(endpoint, &answer)))
            }
        });
        let mut asked: FuturesUnordered<_> = next.next().into_iter().collect();
        let (mut unknown, mut failed) = (false, None);
        loop {
            tokio::select! {
                biased;
                answer = asked.next() => match answer {
                    Some((endpoint, took, Ok(answer))) => {
                        self.choice.answered(endpoint, &order, took);
                        return (Ok(answer), unknown || !asked.is_empty());
                    }
                    Some((_, _, Err(error))) if !error.is_of_this_endpoint() => {
                        return (Err(error), unknown || !asked.is_empty());
                    }
                    Some((endpoint, _, Err(error))) => {
                        unknown |= error.is_unknown();
                        self.leave(endpoint);
                        failed = Some(more_telling(failed, error));
                        asked.extend(next.next());
                    }
                    None => break,
                },
                () = sleep(self.choice.patience()), if next.len() > 0 => asked.extend(next.next()),
            }
        }
        (Err(failed.unwrap_or(EtcdError::Config("cluster.endpoints is empty".to_owned()))), unknown)
    }

    pub(super) async fn transact(&self, transaction: &Transaction) -> Result<Carried, EtcdError> {
        self.ask("/v3/kv/txn", transaction, EACH).await
    }

    /// The same, for who must know whether it may be carried out after the answer.
    pub(super) async fn try_within(
        &self,
        transaction: &Transaction,
        each: Duration,
    ) -> (Result<Carried, EtcdError>, bool) {
        self.ask_around("/v3/kv/txn", transaction, each).await
    }

    pub(super) async fn range(&self, range: &Range) -> Result<Found, EtcdError> {
        self.range_within(range, EACH).await
    }

    /// The same, for who cannot wait so long for a silent endpoint.
    pub(super) async fn range_within(&self, range: &Range, each: Duration) -> Result<Found, EtcdError> {
        self.ask("/v3/kv/range", range, each).await
    }

    /// Asks one endpoint, and no other.
    pub(super) async fn range_at(&self, endpoint: usize, range: &Range, each: Duration) -> Result<Found, EtcdError> {
        let answer = self.ask_at(endpoint, "/v3/kv/range", encoded(range)?, each).await?;
        self.decoded(endpoint, &answer)
    }

    /// What an endpoint is, and whether it is well.
    pub(super) async fn look_at(&self, endpoint: usize) -> Result<String, EtcdError> {
        let at = self.endpoint(endpoint)?;
        let version = self.known(endpoint, EACH).await?;
        let (status, answer) = self.whole(Method::GET, at, "/health", Bytes::new(), None, EACH).await?;
        let health: Health = serde_json::from_slice(&answer).unwrap_or_default();
        if status != StatusCode::OK || health.health != "true" {
            let alarms = self.ask_at(endpoint, "/v3/maintenance/alarm", Bytes::from_static(b"{}"), EACH).await;
            if alarms.is_ok_and(|alarms| String::from_utf8_lossy(&alarms).contains("NOSPACE")) {
                return Err(EtcdError::NoSpace);
            }
            return Err(EtcdError::NoMajority(format!("{} says that it is not healthy", at.url)));
        }
        Ok(version)
    }

    async fn ask_at(&self, endpoint: usize, path: &str, body: Bytes, each: Duration) -> Result<Bytes, EtcdError> {
        let at = self.endpoint(endpoint)?;
        if !at.is_known() {
            self.known(endpoint, each).await?;
        }
        let mut again = self.login.is_some();
        loop {
            let token = self.token(at).await?;
            let (status, answer) = self.whole(Method::POST, at, path, body.clone(), token, each).await?;
            if status == StatusCode::OK {
                return Ok(answer);
            }
            let error = refusal(&at.url, status, &answer);
            // It does not tell whose it is.
            at.set_known(false);
            if !(error.is_token() && std::mem::take(&mut again)) {
                return Err(error);
            }
            *lock(&self.token) = None;
        }
    }

    /// Begins an answer that goes on.
    pub(super) async fn stream(
        &self,
        endpoint: usize,
        path: &str,
        question: &impl Serialize,
    ) -> Result<Incoming, EtcdError> {
        let at = self.endpoint(endpoint)?;
        if !at.is_known() {
            self.known(endpoint, EACH).await?;
        }
        let token = self.token(at).await?;
        let asked = self.send(Method::POST, at, path, encoded(question)?, token);
        let response = timeout(EACH, asked).await.map_err(|_| at.silent())??;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let answer = timeout(EACH, at.read(response)).await.map_err(|_| at.silent())??;
        let error = refusal(&at.url, status, &answer);
        at.set_known(false);
        if error.is_token() {
            *lock(&self.token) = None;
        }
        Err(error)
    }

    pub(super) fn endpoint(&self, index: usize) -> Result<&Arc<Endpoint>, EtcdError> {
        self.endpoints.get(index).ok_or_else(|| EtcdError::Config("no such endpoint".to_owned()))
    }

    /// The version of who answers there, if it is one of this etcd's members.
    async fn known(&self, endpoint: usize, each: Duration) -> Result<String, EtcdError> {
        let at = self.endpoint(endpoint)?;
        let (status, answer) = self.whole(Method::GET, at, "/version", Bytes::new(), None, each).await?;
        let version = serde_json::from_slice::<Version>(&answer).unwrap_or_default().etcdserver;
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
            return Err(match refusal(&at.url, status, &answer) {
                error @ (EtcdError::NotEtcd { .. } | EtcdError::Unanswered { .. }) if status != StatusCode::OK => error,
                _ => EtcdError::NotEtcd { at: at.url.clone(), cause: "it does not tell etcd's version".to_owned() },
            });
        };
        if (major, minor) < (3, 4) {
            return Err(EtcdError::TooOld { at: at.url.clone(), version });
        }
        let token = self.token(at).await?;
        let (status, answer) =
            self.whole(Method::POST, at, "/v3/maintenance/status", Bytes::from_static(b"{}"), token, each).await?;
        if let (StatusCode::OK, Ok(Status { header })) = (status, serde_json::from_slice(&answer)) {
            at.accept(header)?;
            at.set_known(true);
        }
        Ok(version)
    }

    async fn token(&self, at: &Endpoint) -> Result<Option<HeaderValue>, EtcdError> {
        let Some((name, password)) = &self.login else { return Ok(None) };
        if let Some(token) = lock(&self.token).clone() {
            return Ok(Some(token));
        }
        let login = encoded(&Login { name, password: password.expose_secret() })?;
        let (status, answer) = self.whole(Method::POST, at, "/v3/auth/authenticate", login, None, EACH).await?;
        if status != StatusCode::OK {
            return Err(match refusal(&at.url, status, &answer) {
                EtcdError::Refused(words) => EtcdError::Auth(words),
                other => other,
            });
        }
        let token = serde_json::from_slice::<Token>(&answer).unwrap_or_default().token;
        let mut token = HeaderValue::try_from(token).map_err(|_| EtcdError::Auth("its token is none".to_owned()))?;
        token.set_sensitive(true);
        *lock(&self.token) = Some(token.clone());
        Ok(Some(token))
    }

    async fn whole(
        &self,
        method: Method,
        at: &Endpoint,
        path: &str,
        body: Bytes,
        token: Option<HeaderValue>,
        each: Duration,
    ) -> Result<(StatusCode, Bytes), EtcdError> {
        let whole = async {
            let response = self.send(method, at, path, body, token).await?;
            Ok((response.status(), at.read(response).await?))
        };
        timeout(each, whole).await.map_err(|_| at.silent())?
    }

    async fn send(
        &self,
        method: Method,
        at: &Endpoint,
        path: &str,
        body: Bytes,
        token: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, EtcdError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", at.url));
        let mut request = request
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| EtcdError::Config(format!("cluster.endpoints: {error}")))?;
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        self.pool.request(request).await.map_err(|error| at.failed(&error))
    }

    fn decoded<A: DeserializeOwned + Answer>(&self, endpoint: usize, answer: &[u8]) -> Result<A, EtcdError> {
        let at = self.endpoint(endpoint)?;
        let unread = |error| at.unanswered(format!("its answer cannot be read ({error})"));
        let answer: A = serde_json::from_slice(answer).map_err(unread)?;
        at.accept(answer.header())?;
        Ok(answer)
    }

    #[cfg(test)]
    pub(super) fn spoil_token(&self) {
        *lock(&self.token) = Some(HeaderValue::from_static("spoiled.1"));
    }
}

fn encoded(question: &impl Serialize) -> Result<Bytes, EtcdError> {
    let encoded = serde_json::to_vec(question);
    encoded.map(Bytes::from).map_err(|error| EtcdError::Refused(format!("the question cannot be written: {error}")))
}
