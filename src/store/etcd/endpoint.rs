//! One endpoint: whether it is an etcd that is new enough, and still a member of the same etcd as the others.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tracing::{info, warn};
use url::Url;

use super::error::EtcdError;
use super::wire::Header;
use crate::os::causes::{find, innermost, links};

/// The longest answer: more than one with eight of the largest rows.
const ANSWER_MOST: usize = 16 * 1024 * 1024;

/// The id of the etcd that all endpoints must belong to: of the first that told its own.
pub(super) type Ours = Arc<OnceLock<u64>>;

#[derive(Debug)]
pub(super) struct Endpoint {
    /// Without a slash at its end.
    pub(super) url: String,
    ours: Ours,
    /// It was looked at, and nothing has happened since that may have put another in its place.
    is_known: AtomicBool,
    /// It belongs to another etcd, and that has been said.
    is_foreign: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(url: &Url, ours: &Ours) -> Result<Self, EtcdError> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(EtcdError::Config("cluster.endpoints: each begins with http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EtcdError::Config(
                "cluster.endpoints: no user or password in a URL: cluster.username and cluster.password".to_owned(),
            ));
        }
        let (url, ours) = (url.as_str().trim_end_matches('/').to_owned(), Arc::clone(ours));
        Ok(Self { url, ours, is_known: AtomicBool::new(false), is_foreign: AtomicBool::new(false) })
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    pub(super) fn set_known(&self, known: bool) {
        self.is_known.store(known, Ordering::Relaxed);
    }

    /// What it says counts if it is of our etcd: a member that lost its data may have been started as an etcd of its own, at any
    /// time. An answer without an id tells nothing.
    pub(super) fn accept(&self, header: Header) -> Result<(), EtcdError> {
        let id = header.cluster_id.0;
        if id == 0 || *self.ours.get_or_init(|| id) == id {
            if self.is_foreign.load(Ordering::Relaxed) && self.is_foreign.swap(false, Ordering::Relaxed) {
                info!(endpoint = self.url, "the endpoint belongs to the same etcd as the others again");
            }
            return Ok(());
        }
        self.set_known(false);
        let error = EtcdError::Foreign { at: self.url.clone() };
        if !self.is_foreign.swap(true, Ordering::Relaxed) {
            warn!(%error, "an endpoint of etcd is left out");
        }
        Err(error)
    }

    pub(super) async fn read(&self, response: Response<Incoming>) -> Result<Bytes, EtcdError> {
        let mut body = response.into_body();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unanswered(innermost(&error)))?;
            read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if read.len() > ANSWER_MOST {
                return Err(self.unanswered("its answer has no end".to_owned()));
            }
        }
        Ok(read.freeze())
    }

    pub(super) fn silent(&self) -> EtcdError {
        self.unanswered("the time ran out".to_owned())
    }

    pub(super) fn unanswered(&self, cause: String) -> EtcdError {
        EtcdError::Unanswered { at: self.url.clone(), cause }
    }

    pub(super) fn failed(&self, error: &legacy::Error) -> EtcdError {
        let at = self.url.clone();
        if let Some(cause) = of_tls(error, &at) {
            return EtcdError::Tls { at, cause };
        }
        let mut cause = innermost(error);
        if self.url.starts_with("http:") && find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message)
        {
            cause += " (if it speaks TLS, write https:// in cluster.endpoints)";
        }
        if error.is_connect() {
            // Whoever answers there next may be another.
            self.set_known(false);
            return EtcdError::Unreachable { at, cause };
        }
        EtcdError::Unanswered { at, cause }
    }
}

/// What is wrong with TLS, if that is the cause, and the remedy. Who speaks none ends the connection when TLS is begun on it.
fn of_tls(error: &legacy::Error, at: &str) -> Option<String> {
    if let Some(tls) = find(error) {
        return Some(explained(tls));
    }
    let ended =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof);
    let begun = at.starts_with("https:") && error.is_connect();
    let no_tls = begun && links(error).filter_map(|link| link.downcast_ref()).any(ended);
    no_tls.then(|| format!("it does not answer in TLS: write http://, or switch its TLS on ({})", innermost(error)))
}

fn explained(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate is from an authority that is not trusted: name that one in cluster.tls.ca".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name: write that name in cluster.endpoints".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired, or our clock is wrong".to_owned()
        }
        rustls::Error::InvalidCertificate(other) => format!("its certificate: {}", crate::os::tls::words(other)),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS: write http://, or switch its TLS on".to_owned(),
        rustls::Error::AlertReceived(_) => {
            format!("it refuses us ({error}): does it want a client certificate (cluster.tls.cert)?")
        }
        other => other.to_string(),
    }
}
