//! Certificates: until when are they valid?
//!
//! Looked at without being trusted: whether they are is told by the steps that use them. Nothing is said on these connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use webpki::{EndEntityCert, Error, KeyUsage};

use super::findings::{Findings, brokers};
use crate::config::Config;
use crate::os::clock;

const STEP: &str = "certificate";
const LIMIT: Duration = Duration::from_secs(10);
/// Certificates that are renewed by themselves are new by then.
const SOON: i64 = 14 * 86_400;

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let api = (config.ilink.proxy.is_none()).then_some(("ilink.api", &config.ilink.api));
    let public = config.callback.public_url.expose();
    let brokers = brokers(config).map(|broker| ("mqtt.broker", broker));
    for (key, url) in api.into_iter().chain(brokers).chain([("callback.public_url", public)]) {
        if let Some(default) = default_port(url) {
            // What cannot be reached has been told of already.
            if let Some(certificate) = look(url, url.port().unwrap_or(default)).await {
                judge(key, &certificate, findings);
            }
        }
    }
    let own = config.callback.tls.as_ref().map(|tls| ("callback.tls.cert", tls.cert.as_path()));
    let client = config.mqtt.tls.cert.as_deref().map(|cert| ("mqtt.tls.cert", cert));
    for (key, path) in own.into_iter().chain(client) {
        if let Some(certificate) = first(path) {
            judge(key, &certificate, findings);
        }
    }
}

fn default_port(url: &Url) -> Option<u16> {
    match url.scheme() {
        "https" => Some(443),
        "mqtts" => Some(8883),
        _ => None,
    }
}

fn first(path: &Path) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).ok()?.next()?.ok()
}

fn judge(key: &str, certificate: &[u8], findings: &mut Findings) {
    let Some((from, to)) = validity(certificate) else {
        findings.warn(STEP, format!("that of {key} cannot be read"));
        return;
    };
    let now = i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX);
    match to - now {
        _ if from > now => {
            findings
                .fail(STEP, format!("that of {key} is not valid before {}: is this machine's clock right?", day(from)));
        }
        left if left <= 0 => findings.fail(
            STEP,
            format!("that of {key} has expired on {}: renew it, or set this machine's clock right", day(to)),
        ),
        left if left < SOON => findings.warn(STEP, format!("that of {key} expires on {}: renew it", day(to))),
        _ => findings.ok(STEP, format!("that of {key} is valid until {}", day(to))),
    }
}

/// From when until when it is valid, in seconds since 1970. rustls' own reader tells that only by refusing: it is asked for
/// the two ends of time, and looks at the dates before anything else.
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let certificate = CertificateDer::from(certificate);
    let certificate = EndEntityCert::try_from(&certificate).ok()?;
    let refused_at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let from = match refused_at(0)? {
        Error::CertNotValidYet { not_before, .. } => not_before.as_secs(),
        _ => 0,
    };
    let Error::CertExpired { not_after, .. } = refused_at(u64::MAX)? else { return None };
    Some((i64::try_from(from).ok()?, i64::try_from(not_after.as_secs()).ok()?))
}

fn day(seconds: i64) -> String {
    let time = clock::rfc3339(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    time.chars().take(10).collect()
}

/// The certificate that a server shows.
async fn look(url: &Url, port: u16) -> Option<CertificateDer<'static>> {
    let name = match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok()?,
        Host::Ipv4(address) => ServerName::from(std::net::IpAddr::from(address)),
        Host::Ipv6(address) => ServerName::from(std::net::IpAddr::from(address)),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looking(provider)))
        .with_no_client_auth();
    let host = name.to_str().into_owned();
    let looking = async {
        let stream = TcpStream::connect((host.as_str(), port)).await.ok()?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let (_, connection) = stream.get_ref();
        connection.peer_certificates()?.first().map(|certificate| certificate.clone().into_owned())
    };
    timeout(LIMIT, looking).await.ok().flatten()
}

/// Takes any certificate, to look at it.
#[derive(Debug)]
struct Looking(Arc<CryptoProvider>);

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::app::checkup::findings::Level;

    #[test]
    fn certificates_are_judged_by_their_days() {
        let day_s = 86_400;
        let now = i64::try_from(clock::wall_now_ms() / 1000).unwrap();
        for (from, to, level, says) in [
            (-30, 90, Level::Ok, "valid until"),
            (-30, 5, Level::Warn, "expires on"),
            (-30, -1, Level::Fail, "has expired"),
            (1, 30, Level::Fail, "not valid before"),
        ] {
            let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
            let at = |days: i64| {
                let date = day(now + days * day_s);
                let parts: Vec<i32> = date.split('-').map(|part| part.parse().unwrap()).collect();
                rcgen::date_time_ymd(parts[0], u8::try_from(parts[1]).unwrap(), u8::try_from(parts[2]).unwrap())
            };
            (params.not_before, params.not_after) = (at(from), at(to));
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let mut findings = Findings::default();
            judge("mqtt.broker", certificate.der(), &mut findings);
            assert_eq!(findings.0[0].level, level, "{:?}", findings.0);
            assert!(findings.0[0].text.contains(says), "{:?}", findings.0);
        }
    }
}
