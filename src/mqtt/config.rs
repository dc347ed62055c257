//! The link's settings: plain values that `app` builds from the configuration.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use url::{Host, Url};

use crate::local::{Base, Publication};
use crate::os::lease::Lease;
use crate::os::tls::{ClientFiles, FilesError};
use crate::protocol::Uid;

/// The version of MQTT spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1: no properties, no reasons, no expiry; a publish that the broker's ACL denies looks like a success.
    V311,
}

/// The topic filters of the routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteFilters {
    /// To subscribe to.
    pub wanted: Vec<String>,
    /// To unsubscribe from: the broker's session may still have them.
    pub gone: Vec<String>,
}

/// Everything the link is started with.
#[derive(Clone)]
pub struct LinkConfig {
    /// `mqtt://host[:port]` or `mqtts://host[:port]`.
    pub broker: Url,
    /// Further addresses of the same broker, of the same scheme: tried in turn.
    pub other_brokers: Vec<Url>,
    /// The version of MQTT.
    pub protocol: Protocol,
    /// Names the session at the broker; not empty.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, SecretString)>,
    /// Only read for `mqtts://`.
    pub tls: ClientFiles,
    /// The largest packet the broker may send, in bytes. An MQTT 5 broker is told so and drops larger ones itself. If it sends
    /// one nevertheless, and on 3.1.1, where it cannot be told, all sizes are accepted: a packet that ends the connection would
    /// come again on the next one, for ever.
    pub max_packet: u32,
    /// How long an MQTT 5 broker keeps commands for the absent bridge, in seconds.
    pub session_expiry: u32,
    /// MQTT 3.1.1 only: whether the broker keeps commands for the absent bridge (then without a limit).
    pub persistent_session: bool,
    /// Whether an earlier run of the process left a session: then its absence at the first connect counts as a loss.
    pub expect_session: bool,
    /// What to subscribe to, at QoS 1.
    pub filters: Vec<String>,
    /// What to subscribe to for the routes, at QoS 1 and, in MQTT 5, No Local; may change at any time.
    pub routes: watch::Receiver<RouteFilters>,
    /// The base topic: the account check and the self-test are made under it.
    pub base: Base,
    /// Another uid in the retained `bridge/info` while `bridge/state` is `online` is a conflict.
    pub own_uid: Uid,
    /// `bridge/state` = `offline`, retained: the last will, and published at a clean stop.
    pub will: Publication,
    /// Published at a clean stop after `will`. There is only one last will: if the process dies, what this replaces goes on
    /// standing.
    pub farewell: Vec<Publication>,
    /// The [retained state](super::Publisher::set_state) from the start, published in this order: `bridge/state` = `online`, …
    pub birth: Vec<Publication>,
    /// Nothing is written to the broker once it is over. If it is handed over, a stop leaves `online` standing.
    pub lease: Lease,
    /// The link's time limits.
    pub timing: Timing,
}

/// The link's time limits. The defaults suit real brokers; tests set shorter ones.
#[derive(Debug, Clone)]
pub struct Timing {
    /// MQTT's keep alive, in whole seconds, at least 5. The connection is given up after at most twice this time without a sign
    /// of life from the broker.
    pub keep_alive: Duration,
    /// Waited after the first failure; doubles with each one that follows.
    pub backoff_min: Duration,
    /// The longest wait between attempts.
    pub backoff_max: Duration,
    /// A connection that lasted this long resets the back-off, and no message is suspected of having ended it.
    pub stable_after: Duration,
    /// The self-test's message must come back within this time.
    pub self_test_limit: Duration,
    /// How often a failed self-test, a refused subscription or a refused publish of our own state is tried again.
    pub recheck_every: Duration,
    /// How often to look again while another account uses the base topic.
    pub conflict_retry: Duration,
    /// How long a stop waits for the PUBACK of `offline`.
    pub stop_limit: Duration,
    /// The first wait before our own state is published again after the broker refused it for now. Doubles, up to
    /// `recheck_every`.
    pub refused_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            self_test_limit: Duration::from_secs(10),
            recheck_every: Duration::from_mins(1),
            conflict_retry: Duration::from_secs(30),
            stop_limit: Duration::from_secs(2),
            refused_retry: Duration::from_secs(1),
        }
    }
}

/// Why the link cannot be started. Failures to connect are told by [`LinkState`](super::LinkState) instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL's scheme is neither `mqtt` nor `mqtts`, or it has no host.
    #[error("mqtt.broker: `{0}` is not mqtt://host[:port] or mqtts://host[:port]")]
    Broker(String),
    /// The client id is empty. The broker knows our session by it.
    #[error("mqtt.client_id is empty")]
    ClientId,
    /// The files of `mqtt.tls` cannot be used.
    #[error("{0}")]
    Tls(String),
}

impl From<FilesError> for StartError {
    fn from(error: FilesError) -> Self {
        Self::Tls(match error {
            FilesError::File { key, path, cause } => format!("mqtt.tls.{key}: {}: {cause}", path.display()),
            FilesError::Half => "mqtt.tls.cert and mqtt.tls.key go together".to_owned(),
            FilesError::NoRoots(why) => format!("no system root certificates were found ({why}); set mqtt.tls.ca"),
            FilesError::Tls(error) => format!("mqtt.tls: {error}"),
        })
    }
}

/// Shows no credentials.
impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("host", &self.broker.host_str())
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Host and port. An IPv6 address has no brackets: TLS does not accept them, and the resolver does not need them.
pub(super) fn address(broker: &Url) -> (String, u16) {
    let host = match broker.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(host) => host.to_string(),
        None => String::new(),
    };
    let default = if broker.scheme() == "mqtts" { 8883 } else { 1883 };
    (host, broker.port().unwrap_or(default))
}

#[cfg(test)]
impl LinkConfig {
    /// What a connection needs, and no more.
    pub(super) fn minimal(port: u16) -> Self {
        Self {
            broker: format!("mqtt://127.0.0.1:{port}").parse().unwrap(),
            other_brokers: Vec::new(),
            protocol: Protocol::V5,
            client_id: "a".to_owned(),
            credentials: None,
            tls: ClientFiles::default(),
            max_packet: 4 * 1024 * 1024,
            session_expiry: 0,
            persistent_session: false,
            expect_session: false,
            filters: Vec::new(),
            routes: watch::channel(RouteFilters::default()).1,
            will: Publication::raw("will".to_owned(), ""),
            farewell: Vec::new(),
            birth: Vec::new(),
            own_uid: "414".parse().unwrap(),
            base: "ilink".parse().unwrap(),
            lease: Lease::always(),
            timing: Timing::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_tls_files_is_told_by_its_key() {
        let cause = "No such file or directory".to_owned();
        let error = FilesError::File { key: "ca", path: "/nowhere/ca.pem".into(), cause };
        assert_eq!(StartError::from(error).to_string(), "mqtt.tls.ca: /nowhere/ca.pem: No such file or directory");
        assert!(StartError::from(FilesError::Half).to_string().contains("go together"));
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (url, expected) in [
            ("mqtt://broker.lan", ("broker.lan", 1883)),
            ("mqtts://broker.lan", ("broker.lan", 8883)),
            ("mqtt://192.0.2.1:2883/", ("192.0.2.1", 2883)),
            ("mqtts://[2001:db8::1]:9", ("2001:db8::1", 9)),
        ] {
            let (host, port) = address(&url.parse().unwrap());
            assert_eq!((host.as_str(), port), expected, "{url}");
        }
    }
}
