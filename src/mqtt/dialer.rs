//! Opens connections: holds the configuration, the TLS files, and which of the broker's addresses is next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::config::{LinkConfig, StartError, address};
use super::explanations::{Explain, Failure};

/// The shortest keep alive, in seconds. A busy machine may answer late, but by less than this.
pub(super) const SHORTEST_KEEP_ALIVE: u64 = 5;
/// The kernel's send buffer. By itself it would grow to some megabytes. On a slow line these take minutes, in which the link
/// could not tell a busy broker from one that has gone.
const SEND_BUFFER: usize = 128 * 1024;

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
    /// Which address is next: 0 is `first`, 1 the first of `others`.
    turn: AtomicUsize,
    /// The broker sent a packet larger than `max_packet` although it had been told. From then on all sizes are accepted,
    /// because a packet that ends the connection would come again on the next one, for ever.
    pub(super) takes_any_size: AtomicBool,
    /// The session at the broker holds a message that cannot be decoded: the next connection starts a new session.
    pub(super) leaves_session: AtomicBool,
}

impl Dialer {
    /// Checks the URL and reads the TLS files.
    pub(super) fn new(config: LinkConfig) -> Result<Self, StartError> {
        let tls = match (config.broker.scheme(), config.broker.host_str()) {
            ("mqtt", Some(_)) => None,
            ("mqtts", Some(_)) => Some(config.tls.config()?),
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

    /// The address to connect to.
    pub(super) fn broker(&self) -> &Url {
        &self.target().url
    }

    /// Explains what happens at that address.
    pub(super) fn explain(&self) -> &Explain {
        &self.target().explain
    }

    /// Goes on to the next address.
    pub(super) fn next_broker(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(if turn < self.others.len() { turn + 1 } else { 0 }, Ordering::Relaxed);
    }

    /// The keep alive as CONNECT carries it.
    pub(super) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.config.timing.keep_alive.as_secs().clamp(SHORTEST_KEEP_ALIVE, u64::from(u16::MAX)))
    }

    /// TCP, and TLS if it is asked for.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let (host, port) = address(self.broker());
        let failed = |error: io::Error| self.explain().io(&error);
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        sockopt::set_socket_send_buffer_size(&tcp, SEND_BUFFER).map_err(|errno| failed(errno.into()))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(host).map_err(|error| self.explain().other(&error))?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, tcp).await.map_err(failed)?))
    }
}
