//! Why an exchange failed: what the HTTP client and TLS have to say, in plain words.

use std::io;

use hyper_util::client::legacy;

use crate::os::causes::{find, innermost, links};

/// What is wrong with TLS, if that is the cause, and the remedy. Who speaks none ends the connection when TLS is begun on it.
pub(super) fn of_tls(error: &legacy::Error, at: &str) -> Option<String> {
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
