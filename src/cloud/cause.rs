//! Turns a failed exchange into a cause in plain words, with a remedy.
//!
//! The HTTP client's errors are chains of generic texts around the one that matters, and they contain the URL with the
//! access token. Only the innermost text is passed on.

use std::io;
use std::time::Duration;

use hyper::StatusCode;
use url::Url;

use super::http::{self, ConnectTimedOut, Cut, NotLeading};
use super::transport::TransportError;
use crate::os::tls;
use crate::protocol::ResultCode;

/// Whom the client talks to, for the texts.
#[derive(Debug)]
pub(super) struct Peer {
    /// `host:port` of the API.
    api: String,
    /// `host:port` of the proxy.
    proxy: Option<String>,
    connect_timeout: Duration,
    timeout: Duration,
}

impl Peer {
    pub(super) fn new(api: &Url, proxy: Option<&Url>, connect_timeout: Duration, timeout: Duration) -> Self {
        Self { api: host_port(api), proxy: proxy.map(host_port), connect_timeout, timeout }
    }

    /// Explains a request that got no response.
    pub(super) fn explain(&self, error: &http::Error) -> TransportError {
        if let http::Error::Request(_) = error {
            return TransportError::Unsent { cause: error.to_string() };
        }
        if let Some(over) = error.find::<NotLeading>() {
            let cause = over.to_string();
            return if over.partly { TransportError::Unanswered { cause } } else { TransportError::Unsent { cause } };
        }
        if error.is_connect() {
            return TransportError::Unsent { cause: self.no_connection(error) };
        }
        if let http::Error::TimedOut = error {
            let cause = format!("no answer from {} within {}", self.api, words(self.timeout));
            return TransportError::Unanswered { cause };
        }
        if closed(error) {
            let cause = format!("{} closed the connection without an answer", self.api);
            return TransportError::Unanswered { cause };
        }
        let cause = format!("the call to {} failed: {}", self.api, error.innermost());
        // What is no HTTP came as an answer, and cannot be read.
        if error.find::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return TransportError::Unreadable { cause };
        }
        TransportError::Unanswered { cause }
    }

    /// Explains a response whose body did not arrive whole.
    pub(super) fn cut_short(&self, cut: &Cut) -> TransportError {
        match cut {
            Cut::TooLong(limit) => {
                let cause = format!("the answer of {} is longer than {} MiB", self.api, limit / (1024 * 1024));
                TransportError::Unreadable { cause }
            }
            Cut::Broken(http::Error::TimedOut) => {
                let cause = format!("{} did not finish its answer within {}", self.api, words(self.timeout));
                TransportError::BrokenOff { cause }
            }
            Cut::Broken(_) => {
                let cause = format!("the answer of {} broke off", self.api);
                TransportError::BrokenOff { cause }
            }
        }
    }

    /// A status without iLink's JSON.
    pub(super) fn status(&self, status: StatusCode, retry_after: Option<Duration>) -> TransportError {
        let hint = if status.is_redirection() {
            "; redirects are not followed: is ilink.api right?"
        } else if status == StatusCode::NOT_FOUND {
            ": is ilink.api right?"
        } else if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            ": ilink.proxy wants a user and a password"
        } else {
            ""
        };
        let cause = format!("{} answered HTTP status {status}{hint}", self.api);
        TransportError::InFront { cause, status: status.as_u16(), retry_after }
    }

    /// iLink's JSON with a status that says it failed: which of the two is right, nobody knows.
    pub(super) fn contradicted(&self, status: StatusCode, code: ResultCode) -> TransportError {
        let cause = format!("{} answered code {code} with HTTP status {status}, which contradict each other", self.api);
        TransportError::Unreadable { cause }
    }

    pub(super) fn not_a_reply(&self) -> TransportError {
        let cause = format!(
            "the answer of {} is not JSON with an integer code: is ilink.api right, or does a proxy answer for it?",
            self.api
        );
        TransportError::Unreadable { cause }
    }

    fn no_connection(&self, error: &http::Error) -> String {
        if let Some(tls) = error.find::<rustls::Error>() {
            return self.tls(tls);
        }
        let (peer, key) = match &self.proxy {
            Some(proxy) => (proxy, "ilink.proxy"),
            None => (&self.api, "ilink.api"),
        };
        if error.texts().any(|text| text == "dns error") {
            return format!("the name in {peer} cannot be resolved (DNS): check {key} and this machine's resolver");
        }
        if error.texts().any(|text| text.starts_with("tunnel error")) {
            return format!("the proxy {peer} does not connect to {}: {}", self.api, error.innermost());
        }
        match error.find::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("{peer} refuses connections: is {key} right, and is the service up?")
            }
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                format!("there is no route to {peer}: check this machine's network")
            }
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
                format!("{peer} closed the connection while it was being set up: is the scheme of {key} right?")
            }
            _ if error.find::<ConnectTimedOut>().is_some() => {
                format!("no connection to {peer} within {}: is a firewall in the way?", words(self.connect_timeout))
            }
            _ => format!("no connection to {peer}: {}", error.innermost()),
        }
    }

    fn tls(&self, error: &rustls::Error) -> String {
        use rustls::CertificateError as Certificate;
        let api = &self.api;
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                Certificate::UnknownIssuer | Certificate::BadSignature => {
                    format!(
                        "the TLS certificate of {api} is not trusted (unknown issuer): put its root into ilink.tls.ca"
                    )
                }
                Certificate::Expired | Certificate::ExpiredContext { .. } => {
                    format!("the TLS certificate of {api} has expired: is this machine's clock right?")
                }
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                    format!("the TLS certificate of {api} is not valid yet: is this machine's clock right?")
                }
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    format!("the TLS certificate of {api} is for another name: is ilink.api right?")
                }
                other => format!("the TLS certificate of {api} cannot be used: {}", tls::words(other)),
            },
            rustls::Error::InvalidMessage(_) => {
                format!("{api} does not speak TLS: should ilink.api begin with http:// or name another port?")
            }
            other => format!("TLS with {api} failed: {other}"),
        }
    }
}

/// `10 s`, `500 ms`.
fn words(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn closed(error: &http::Error) -> bool {
    let broken = |kind| {
        matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
    };
    error.find::<io::Error>().is_some_and(|e| broken(e.kind()))
        || error.find::<hyper::Error>().is_some_and(|e| e.is_incomplete_message() || e.is_canceled() || e.is_closed())
}
