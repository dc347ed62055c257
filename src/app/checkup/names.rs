//! Names and addresses: do they resolve, and can they be meant?

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use url::{Host, Url};

use super::findings::{Findings, brokers};
use crate::config::Config;

const STEP: &str = "dns";
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let proxy = config.ilink.proxy.as_ref().map(|proxy| ("ilink.proxy", proxy.expose()));
    let public = config.callback.public_url.expose();
    // A proxy resolves the API's name itself.
    let api = proxy.unwrap_or(("ilink.api", &config.ilink.api));
    let brokers = brokers(config).map(|broker| ("mqtt.broker", broker));
    for (key, url) in [api].into_iter().chain(brokers).chain([("callback.public_url", public)]) {
        let addresses = resolve(key, url, findings).await;
        let loopback = !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback);
        if loopback && key != "callback.public_url" && in_container() {
            findings.warn(STEP, format!(
                "{key} is this machine itself, and inside a container that is the container: name the service or the host instead"
            ));
        }
        let api_is_far = config.ilink.api.host_str().is_none_or(|host| !is_local_name(host));
        if key == "callback.public_url" && api_is_far && !addresses.is_empty() && addresses.iter().all(is_private) {
            findings.warn(STEP, format!(
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
            findings.ok(STEP, format!("{key}: {name} is {}", list(&addresses)));
            addresses
        }
        Ok(Err(error)) => {
            findings.fail(STEP, format!("{key}: {name} does not resolve ({error}): correct the name, or this machine's resolver (/etc/resolv.conf)"));
            BTreeSet::new()
        }
        Err(_) => {
            findings.fail(
                STEP,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
