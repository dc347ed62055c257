//! The callback's listener: connections, their limits, TLS, and who may connect.
//!
//! iLink needs one or two connections. Everything else that holds one open is idle, slow or hostile, so there is room for
//! plenty, each has little time for a request's head, and when the room is used up the connection that has been idle
//! longest makes way. It does not look into requests: that is [`super::callback`]'s.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::answered::{Armed, Watched};
use super::callback::{Callback, refusal};
use crate::counters::Counters;

/// Connections held at once. Each costs a file descriptor and some KiB.
const CONNECTIONS_AT_MOST: usize = 900;
/// A request's head must be there within this; an idle connection is cut after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest request head, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Who may call, and over what.
pub struct Access {
    /// Networks that may call; empty means all.
    pub allow: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The TLS configuration, replaceable while running; `None` serves plain HTTP.
    pub tls: Option<Arc<RwLock<Arc<ServerConfig>>>>,
}

impl Access {
    /// The address the request came from: the last one in `X-Forwarded-For` that is not a trusted proxy's, if the peer is one.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: &IpAddr| self.trusted_proxies.iter().any(|net| net.contains(address));
        if !trusted(&peer) {
            return peer;
        }
        let mut client = peer;
        for value in headers.get_all("x-forwarded-for").iter().rev() {
            for address in value.to_str().unwrap_or_default().rsplit(',') {
                let Ok(address) = address.trim().parse::<IpAddr>() else { return client };
                client = address.to_canonical();
                if !trusted(&client) {
                    return client;
                }
            }
        }
        client
    }

    fn allows(&self, client: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&client))
    }
}

/// One connection, as the others see it.
struct Connection {
    requests: AtomicUsize,
    cut: CancellationToken,
}

/// The connections, oldest first.
#[derive(Default)]
struct Connections(Mutex<VecDeque<Arc<Connection>>>);

impl Connections {
    /// Takes a new connection in; if there is no room, the oldest one without a request under way is cut.
    fn enter(&self) -> Arc<Connection> {
        let new = Arc::new(Connection { requests: AtomicUsize::new(0), cut: CancellationToken::new() });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CONNECTIONS_AT_MOST {
            let idle = all.iter().position(|old| old.requests.load(Ordering::Relaxed) == 0).unwrap_or(0);
            if let Some(old) = all.remove(idle) {
                old.cut.cancel();
            }
        }
        all.push_back(Arc::clone(&new));
        new
    }

    fn leave(&self, connection: &Arc<Connection>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|other| Arc::ptr_eq(other, connection)) {
            all.remove(at);
        }
    }
}

/// What every connection shares.
struct Server {
    callback: Arc<Callback>,
    access: Access,
    counters: Arc<Counters>,
    connections: Connections,
    stop: CancellationToken,
}

/// Serves the callback on `listener` until `stop`, then lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    callback: Arc<Callback>,
    access: Access,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let server =
        Arc::new(Server { callback, access, counters, connections: Connections::default(), stop: stop.clone() });
    let tasks = TaskTracker::new();
    loop {
        // Both arms may be dropped and begun again: accept() hands out a connection or has none.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = server.connections.enter();
                tasks.spawn(Arc::clone(&server).connection(stream, peer, connection));
            }
            Err(error) => {
                // Out of file descriptors, or a peer that left before it was accepted: neither ends the listener.
                warn!(%error, "could not accept a connection on callback.listen");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, connection: Arc<Connection>) {
        let _ = stream.set_nodelay(true);
        let ended = match &self.access.tls {
            None => self.http(stream, peer, &connection).await,
            Some(tls) => {
                let config = Arc::clone(&tls.read().unwrap_or_else(PoisonError::into_inner));
                match timeout(TLS_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
                    Ok(Ok(stream)) => self.http(stream, peer, &connection).await,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "a connection on the callback ended early");
        }
        self.connections.leave(&connection);
    }

    async fn http<S>(self: &Arc<Self>, stream: S, peer: SocketAddr, connection: &Arc<Connection>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let armed = Armed::default();
        let peer_address = peer.ip().to_canonical();
        let service = service_fn(|request: Request<Incoming>| {
            let (server, armed, connection) = (Arc::clone(self), armed.clone(), Arc::clone(connection));
            async move {
                let _busy = Busy::new(&connection);
                let client = server.access.client(peer_address, request.headers());
                if !server.access.allows(client) {
                    server.counters.callback_rejected_address.add();
                    debug!(%client, "refused a request: its address is not in callback.allow");
                    return Ok::<_, std::convert::Infallible>(refusal(StatusCode::FORBIDDEN));
                }
                Ok(server.callback.handle(request, client, &armed).await)
            }
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(Watched::new(stream, armed.clone())), service);
        tokio::pin!(http);
        // The connection future is pinned and polled on after `stop`: nothing of it is lost when the other arm wins.
        tokio::select! {
            ended = http.as_mut() => ended,
            () = connection.cut.cancelled() => return Err(io::Error::other("cut to make room for others")),
            () = self.stop.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        }
        .map_err(io::Error::other)
    }
}

/// Counts a request as under way while it lives, however it ends.
struct Busy<'a>(&'a Connection);

impl<'a> Busy<'a> {
    fn new(connection: &'a Connection) -> Self {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: &[&str], trusted: &[&str]) -> Access {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        Access { allow: nets(allow), trusted_proxies: nets(trusted), tls: None }
    }

    fn forwarded(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", hyper::header::HeaderValue::from_static(value));
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_forwarded_address_is_believed_only_from_a_trusted_proxy() {
        let headers = forwarded(&["198.51.100.7"]);
        assert_eq!(access(&[], &[]).client(ip("127.0.0.1"), &headers), ip("127.0.0.1"));
        assert_eq!(access(&[], &["127.0.0.0/8"]).client(ip("127.0.0.1"), &headers), ip("198.51.100.7"));
    }

    #[test]
    fn the_last_untrusted_address_counts_not_what_the_client_claims() {
        let trusting = access(&[], &["127.0.0.0/8", "10.0.0.0/8"]);
        let headers = forwarded(&["1.1.1.1, 198.51.100.7", "10.0.0.2"]);
        assert_eq!(trusting.client(ip("127.0.0.1"), &headers), ip("198.51.100.7"));
        assert_eq!(trusting.client(ip("127.0.0.1"), &forwarded(&["1.1.1.1, nonsense"])), ip("127.0.0.1"));
    }

    #[test]
    fn an_empty_list_allows_everyone() {
        assert!(access(&[], &[]).allows(ip("198.51.100.7")));
        assert!(!access(&["10.0.0.0/8"], &[]).allows(ip("198.51.100.7")));
    }

    #[test]
    fn a_full_house_cuts_the_oldest_idle_connection() {
        let connections = Connections::default();
        let busy = connections.enter();
        let _request = Busy::new(&busy);
        let idle = connections.enter();
        for _ in 2..CONNECTIONS_AT_MOST {
            connections.enter();
        }
        let new = connections.enter();
        assert!(idle.cut.is_cancelled() && !busy.cut.is_cancelled() && !new.cut.is_cancelled());
    }
}
