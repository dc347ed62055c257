//! Checks the configured URLs: whether their names resolve, whether the addresses are plausible, and when the certificates
//! expire.
//!
//! Certificates are read without being verified; the steps that use them verify them. Nothing is sent on these connections
//! beyond the TLS handshake.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use webpki::{EndEntityCert, Error, KeyUsage};

use super::findings::{Findings, brokers};
use crate::config::Config;
use crate::os::{clock, tls};

const DNS: &str = "dns";
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn check_names(config: &Config, findings: &mut Findings) {
    let proxy = config.ilink.proxy.as_ref().map(|proxy| ("ilink.proxy", proxy.expose()));
    let public = config.callback.public_url.expose();
    // A proxy resolves the API's name itself.
    let api = proxy.unwrap_or(("ilink.api", &config.ilink.api));
    let brokers = brokers(config).map(|broker| ("mqtt.broker", broker));
    for (key, url) in [api].into_iter().chain(brokers).chain([("callback.public_url", public)]) {
        let addresses = resolve(key, url, findings).await;
        let loopback = !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback);
        if loopback && key != "callback.public_url" && in_container() {
            findings.warn(DNS, format!(
                "{key} is this machine itself, and inside a container that is the container: name the service or the host instead"
            ));
        }
        let api_is_far = config.ilink.api.host_str().is_none_or(|host| !is_local_name(host));
        if key == "callback.public_url" && api_is_far && !addresses.is_empty() && addresses.iter().all(is_private) {
            findings.warn(DNS, format!(
                "{key} leads to {}, which iLink cannot reach from the internet: name the public address, and forward its port to callback.listen",
                list(&addresses)
            ));
        }
    }
}

/// The addresses of a URL's host; none if it has no name or it does not resolve.
async fn resolve(key: &str, url: &Url, findings: &mut Findings) -> BTreeSet<IpAddr> {
    let name = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => return [IpAddr::from(address)].into(),
        Some(Host::Ipv6(address)) => return [IpAddr::from(address)].into(),
        None => return BTreeSet::new(),
    };
    match timeout(LIMIT, lookup_host((name.as_str(), 0))).await {
        Ok(Ok(found)) => {
            let addresses: BTreeSet<_> = found.map(|address| address.ip()).collect();
            findings.ok(DNS, format!("{key}: {name} is {}", list(&addresses)));
            addresses
        }
        Ok(Err(error)) => {
            findings.fail(DNS, format!("{key}: {name} does not resolve ({error}): correct the name, or this machine's resolver (/etc/resolv.conf)"));
            BTreeSet::new()
        }
        Err(_) => {
            findings.fail(
                DNS,
                format!(
                    "{key}: no answer for {name} within {} s: is this machine's resolver right (/etc/resolv.conf)?",
                    LIMIT.as_secs()
                ),
            );
            BTreeSet::new()
        }
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Does a host mean this machine?
fn is_local_name(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Addresses that no route of the internet leads to.
fn is_private(address: &IpAddr) -> bool {
    match address.to_canonical() {
        // 100.64.0.0/10: behind a provider's NAT.
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
        || std::env::var_os("container").is_some()
}

const CERTIFICATE: &str = "certificate";
/// Certificates that are renewed by themselves are new by then.
const SOON: i64 = 14 * 86_400;

pub(super) async fn check_certificates(config: &Config, findings: &mut Findings) {
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
        findings.warn(CERTIFICATE, format!("that of {key} cannot be read"));
        return;
    };
    let now = i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX);
    match to - now {
        _ if from > now => {
            findings.fail(
                CERTIFICATE,
                format!("that of {key} is not valid before {}: is this machine's clock right?", day(from)),
            );
        }
        left if left <= 0 => findings.fail(
            CERTIFICATE,
            format!("that of {key} has expired on {}: renew it, or set this machine's clock right", day(to)),
        ),
        left if left < SOON => findings.warn(CERTIFICATE, format!("that of {key} expires on {}: renew it", day(to))),
        _ => findings.ok(CERTIFICATE, format!("that of {key} is valid until {}", day(to))),
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
    let config = tls::trusting_anybody().ok()?;
    let host = name.to_str().into_owned();
    let looking = async {
        let stream = TcpStream::connect((host.as_str(), port)).await.ok()?;
        let stream = TlsConnector::from(config).connect(name, stream).await.ok()?;
        let (_, connection) = stream.get_ref();
        connection.peer_certificates()?.first().map(|certificate| certificate.clone().into_owned())
    };
    timeout(LIMIT, looking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::app::checkup::findings::Level;

    #[test]
    fn what_the_internet_does_not_lead_to_is_private() {
        for private in
            ["10.1.2.3", "192.168.0.9", "100.64.0.1", "127.0.0.1", "169.254.1.1", "fd00::1", "fe80::1", "::1"]
        {
            assert!(is_private(&private.parse().unwrap()), "{private}");
        }
        for public in ["192.0.2.1", "100.128.0.1", "100.63.255.255", "2001:db8::1"] {
            assert!(!is_private(&public.parse().unwrap()), "{public}");
        }
        assert!(is_local_name("[::1]") && is_local_name("LocalHost") && !is_local_name("hs.example"));
    }

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
