//! `mqtts://` with a real Mosquitto: by name and by address, with and without a client certificate.

use std::path::Path;

use ilink2mqtt::mqtt::{LinkConfig, Protocol};
use ilink2mqtt::os::tls::ClientFiles;
use rcgen::ExtendedKeyUsagePurpose;

use super::{Tested, acked, config};
use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::pki::{Authority, LOOPBACK};
use crate::support::proxy::Proxy;

/// A broker with a TLS listener on both loopback addresses, and that port.
fn broker(authority: &Authority, more: &str) -> (Mosquitto, u16) {
    let port = free_port();
    let path = |name| authority.file(name);
    let tls =
        format!("cafile {}\ncertfile {}\nkeyfile {}\n{more}\n", path("ca.pem"), path("server.pem"), path("server.key"));
    (Mosquitto::start(&format!("listener {port} 127.0.0.1\n{tls}\nlistener {port} ::1\n{tls}")), port)
}

fn tls(host: &str, port: u16, ca: &Path) -> LinkConfig {
    let broker = format!("mqtts://{host}:{port}").parse().unwrap();
    let tls = ClientFiles { ca: Some(ca.to_owned()), ..ClientFiles::default() };
    LinkConfig { broker, tls, ..config(port) }
}

async fn cause(settings: LinkConfig) -> String {
    let mut tested = Tested::start(settings);
    tested.until(|state| state.generation >= 2).await.cause.unwrap()
}

#[tokio::test]
async fn the_broker_is_known_by_name_and_by_address() {
    let authority = Authority::new("authority");
    authority.issue("server", &LOOPBACK, &[ExtendedKeyUsagePurpose::ServerAuth]);
    let (_broker, port) = broker(&authority, "");
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        for protocol in [Protocol::V5, Protocol::V311] {
            let tested = Tested::up(LinkConfig { protocol, ..tls(host, port, &authority.path("ca.pem")) }).await;
            assert!(acked(&tested.publish("a", vec![b'x'; 100_000]).await), "{host}");
            tested.stop().await;
        }
    }
    let stranger = Authority::new("stranger");
    let unknown = cause(tls("localhost", port, &stranger.path("ca.pem"))).await;
    assert!(unknown.contains("no trusted issuer") && unknown.contains("mqtt.tls.ca"), "{unknown}");
    let system = LinkConfig { tls: ClientFiles::default(), ..tls("localhost", port, Path::new("")) };
    let unknown = cause(system).await;
    assert!(unknown.contains("no trusted issuer"), "{unknown}");
    let plain = cause(config(port)).await;
    assert!(plain.contains("mqtts://"), "{plain}");
}

#[tokio::test]
async fn the_end_of_a_connection_that_stood_is_no_fault_of_tls() {
    let authority = Authority::new("authority");
    authority.issue("server", &LOOPBACK, &[ExtendedKeyUsagePurpose::ServerAuth]);
    let (_broker, port) = broker(&authority, "");
    let proxy = Proxy::start(port, || None).await;
    let mut tested = Tested::up(tls("localhost", proxy.port(), &authority.path("ca.pem"))).await;
    // TCP ends, and nobody says so in TLS.
    proxy.cut();
    let state = tested.until(|state| !state.connected).await;
    assert_eq!(state.cause.unwrap(), format!("localhost:{} closed the connection", proxy.port()));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("authority");
    authority.issue("server", &["broker.example"], &[ExtendedKeyUsagePurpose::ServerAuth]);
    let (broker, port) = broker(&authority, "");
    let other = cause(tls("127.0.0.1", port, &authority.path("ca.pem"))).await;
    assert!(other.contains("is for another name"), "{other}");
    let plain = cause(tls("127.0.0.1", broker.port(), &authority.path("ca.pem"))).await;
    assert!(plain.contains("TLS"), "{plain}");
}

#[tokio::test]
async fn a_broker_may_want_to_know_us_by_certificate() {
    let authority = Authority::new("authority");
    authority.issue("server", &["localhost"], &[ExtendedKeyUsagePurpose::ServerAuth]);
    authority.issue("client", &["bridge"], &[ExtendedKeyUsagePurpose::ClientAuth]);
    let (_broker, port) = broker(&authority, "require_certificate true");
    let anonymous = tls("localhost", port, &authority.path("ca.pem"));
    let refused = cause(anonymous.clone()).await;
    assert!(refused.contains("mqtt.tls.cert"), "{refused}");
    let known = ClientFiles {
        cert: Some(authority.path("client.pem")),
        key: Some(authority.path("client.key")),
        ..anonymous.tls.clone()
    };
    let tested = Tested::up(LinkConfig { tls: known, ..anonymous }).await;
    assert!(acked(&tested.publish("a", "x").await));
    tested.stop().await;
}
