//! What opens connections: the configuration, the TLS files, and whose turn it is of the broker's addresses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::config::{LinkConfig, StartError, address};
use super::explanations::{Explain, Failure};
use super::tls;

/// The shortest keep alive, in seconds: a busy machine may be late by less.
pub(super) const SHORTEST_KEEP_ALIVE: u64 = 5;

/// An open connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An address of the broker.
struct Target {
    url: Url,
    explain: Explain,
}

pub(super) struct Dialer {
    pub(super) config: LinkConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
    first: Target,
    others: Vec<Target>,
    /// Whose turn it is: 0 is the first's.
    turn: AtomicUsize,
    /// The broker was told `max_packet` and sent more: refusing such a packet would bring it again for ever.
    pub(super) takes_any_size: AtomicBool,
    /// The session at the broker holds what cannot be decoded: the next connection begins another.
    pub(super) leaves_session: AtomicBool,
}

impl Dialer {
    /// Reads what the configuration names.
    pub(super) fn new(config: LinkConfig) -> Result<Self, StartError> {
        let tls = match (config.broker.scheme(), config.broker.host_str()) {
            ("mqtt", Some(_)) => None,
            ("mqtts", Some(_)) => Some(tls::client_config(&config.tls)?),
            // Without the rest of the URL, which may hold a password.
            (scheme, host) => return Err(StartError::Broker(format!("{scheme}://{}", host.unwrap_or_default()))),
        };
        if config.client_id.is_empty() {
            return Err(StartError::ClientId);
        }
        let target = |url: &Url| Target { url: url.clone(), explain: Explain::new(&config, url) };
        let (first, others) = (target(&config.broker), config.other_brokers.iter().map(target).collect());
        let (takes_any_size, leaves_session) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { config, tls, first, others, turn: AtomicUsize::new(0), takes_any_size, leaves_session })
    }

    fn target(&self) -> &Target {
        let turn = self.turn.load(Ordering::Relaxed).checked_sub(1);
        turn.and_then(|other| self.others.get(other)).unwrap_or(&self.first)
    }

    /// The address whose turn it is.
    pub(super) fn broker(&self) -> &Url {
        &self.target().url
    }

    /// Words for what happens there.
    pub(super) fn explain(&self) -> &Explain {
        &self.target().explain
    }

    /// It is the next address's turn.
    pub(super) fn next_broker(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(if turn < self.others.len() { turn + 1 } else { 0 }, Ordering::Relaxed);
    }

    /// The keep alive as the wire carries it.
    pub(super) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.config.timing.keep_alive.as_secs().clamp(SHORTEST_KEEP_ALIVE, u64::from(u16::MAX)))
    }

    /// TCP, and TLS if it is asked for.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let (host, port) = address(self.broker());
        let failed = |error: io::Error| self.explain().io(&error);
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(host).map_err(|error| self.explain().other(&error))?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, tcp).await.map_err(failed)?))
    }
}
