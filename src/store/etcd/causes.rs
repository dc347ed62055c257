//! Why an exchange failed: what the HTTP client and TLS have to say, in plain words.

use std::error::Error as StdError;
use std::io;

use hyper_util::client::legacy;

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

/// The error and its causes, also those inside an I/O error, which does not count its content among its causes.
fn links<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link: &&'a (dyn StdError + 'static)| {
        let link: &'a (dyn StdError + 'static) = *link;
        match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside as &(dyn StdError + 'static)),
            None => link.source(),
        }
    })
}

/// The first cause of a type.
pub(super) fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    links(error).find_map(|link| link.downcast_ref())
}

/// The text of the cause of all.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    links(error).last().map(ToString::to_string).unwrap_or_default()
}
