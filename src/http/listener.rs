//! A listener for HTTP/1.1, with or without TLS, on a network that it does not trust.
//!
//! It holds a bounded number of connections (`admission` decides which is closed). It bounds the time and the memory
//! for TLS and for a request's head. It keeps running whatever single connections do and whatever `accept` fails with.
//! It does not look into requests: [`Serve`] does, and says which of them have shown the secret. `axum::serve` has none
//! of this.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::SetOnce;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::admission::{Crowd, Entered, Guest};
use super::answered::{Armed, Watched};
use crate::observe::log::Seldom;
use crate::os::tasks::Children;

/// A request's head must be there within this; an idle connection is cut after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest request head, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// After the stop, what a connection has whose first request is still to come: a peer that has just connected has one on
/// the way, and one whose packet was lost sends it again after a second.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// After the stop, what any other connection has that is not busy.
const PARTING: Duration = Duration::from_millis(500);
/// So many connections that were told to go may still be going.
pub const LEAVING_AT_MOST: usize = 32;
/// Connections that wait to be accepted; the system may allow fewer. A peer beyond that tries again after a second.
const BACKLOG: u32 = 4096;
/// Pause after the system refused a connection.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listening socket.
///
/// # Errors
/// If the system refuses.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The address of a process that has just ended can be used at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes over a socket that somebody else opened for us.
///
/// # Errors
/// If the system refuses.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The TLS configuration, replaceable while running; `None` serves plain HTTP.
pub type Tls = Option<Arc<RwLock<Arc<ServerConfig>>>>;

/// An answer; or none: then the connection ends without a byte, with what was pipelined behind its request.
pub type Answered = Result<Response<Body>, NoAnswer>;

/// Answers requests. Behind a pointer, as its answers are: one HTTP server in the program is enough.
pub trait Serve: Send + Sync {
    /// Answers one request.
    fn serve<'a>(&'a self, request: Request<Incoming>, visit: &'a Visit) -> BoxFuture<'a, Answered>;

    /// Whether anything from this address can be answered well; if not, its connections are the first to make way.
    fn is_welcome(&self, _peer: IpAddr) -> bool {
        true
    }

    /// A connection was ended before its request reached [`Self::serve`].
    fn turned_away(&self, _why: TurnedAway) {}
}

/// A request is not to be answered, not even by a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request is left unanswered")]
pub struct NoAnswer;

/// How a listener ends.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new connections; requests under way finish.
    pub gently: CancellationToken,
    /// Every connection is cut where it stands.
    pub at_once: CancellationToken,
}

impl From<CancellationToken> for Stop {
    fn from(gently: CancellationToken) -> Self {
        Self { gently, at_once: CancellationToken::new() }
    }
}

/// Why a connection was ended before it had a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// What came was not TLS, or not HTTP, or too large.
    Malformed,
    /// The TLS handshake or the request's head took too long.
    Slow,
    /// The room was needed for others.
    Crowded,
}

/// What a request's handler knows of the connection, and can say about it.
pub struct Visit {
    /// Who is at the other end.
    pub peer: IpAddr,
    /// By which the handler can learn when an answer has left.
    pub armed: Armed,
    guest: Arc<Guest>,
    crowd: Arc<Crowd>,
}

impl Visit {
    /// A visit that no listener knows of, to try a handler with.
    #[must_use]
    pub fn alone(peer: IpAddr) -> Option<Self> {
        let crowd = Arc::new(Crowd::new(1, CancellationToken::new()));
        let (guest, _) = crowd.enter(peer, true)?;
        Some(Self { peer, armed: Armed::default(), guest, crowd })
    }

    /// By which this connection can be cut, whatever it waits for: a peer that does not read, say.
    #[must_use]
    pub fn cut(&self) -> CancellationToken {
        self.guest.cut.clone()
    }

    /// The request has shown the secret: while the returned value lives, its connection is not cut for others.
    #[must_use]
    pub fn vouch(&self) -> Vouched<'_> {
        self.crowd.prove(&self.guest);
        self.guest.set_busy(true);
        Vouched(&self.guest)
    }
}

/// See [`Visit::vouch`].
pub struct Vouched<'a>(&'a Guest);

impl Drop for Vouched<'_> {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}

/// What every connection of one listener shares.
struct Listener {
    key: &'static str,
    service: Box<dyn Serve>,
    tls: Tls,
    crowd: Arc<Crowd>,
    stop: CancellationToken,
    crowded: Seldom,
    refused: Seldom,
}

/// Serves on `listener`, which the configuration calls `key`, at most `room` connections at once, until `stop`.
pub async fn serve(
    listener: TcpListener,
    key: &'static str,
    room: usize,
    tls: Tls,
    service: Box<dyn Serve>,
    stop: impl Into<Stop>,
) {
    let Stop { gently: stop, at_once } = stop.into();
    let this = Arc::new(Listener {
        key,
        service,
        tls,
        crowd: Arc::new(Crowd::new(room, at_once.clone())),
        stop: stop.clone(),
        crowded: Seldom::default(),
        refused: Seldom::default(),
    });
    let mut children = Children::default();
    loop {
        // Who was told to go still holds a file descriptor.
        while children.len() > room + LEAVING_AT_MOST {
            children.ended().await;
        }
        // All arms may be dropped and begun again: accept() hands out a connection or has none.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            () = at_once.cancelled() => break,
            () = children.ended() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(guest) = this.let_in(peer) {
                    children.spawn(Arc::clone(&this).connection(stream, peer, guest));
                }
            }
            Err(error) => this.not_accepted(&error).await,
        }
    }
    drop(listener);
    children.all_ended().await;
}

impl Listener {
    fn let_in(&self, peer: SocketAddr) -> Option<Arc<Guest>> {
        let peer = peer.ip().to_canonical();
        let entered = self.crowd.enter(peer, self.service.is_welcome(peer));
        if !matches!(entered, Some((_, Entered::HadRoom))) {
            self.service.turned_away(TurnedAway::Crowded);
            if self.crowded.may() {
                warn!(
                    "{} has reached its limit of connections: it closes those that have not shown the secret",
                    self.key
                );
            }
        }
        entered.map(|(guest, _)| guest)
    }

    /// A peer that left before it was accepted is nothing; a lack of file descriptors or memory ends neither the listener
    /// nor a processor core.
    async fn not_accepted(&self, error: &io::Error) {
        if self.refused.may() {
            warn!(%error, "could not accept a connection on {}", self.key);
        }
        let lack = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if lack.iter().any(|lack| error.raw_os_error() == Some(lack.raw_os_error())) {
            self.crowd.make_way();
            sleep(REFUSED_PAUSE).await;
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, guest: Arc<Guest>) {
        let _ = stream.set_nodelay(true);
        // Dropped at once when it is cut, whatever it waits for.
        match guest.cut.run_until_cancelled(self.talk(stream, peer, &guest)).await {
            None => debug!(%peer, "cut a connection: to make room for others, or because its peer does not read"),
            Some(Ok(())) => {}
            Some(Err(End::TurnedAway(why))) => {
                self.service.turned_away(why);
                debug!(%peer, ?why, "ended a connection");
            }
            Some(Err(End::Left(error))) => debug!(%peer, %error, "a connection ended early"),
        }
        self.crowd.leave(&guest);
    }

    async fn talk(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, guest: &Arc<Guest>) -> Result<(), End> {
        let Some(tls) = &self.tls else { return self.http(Either::Left(stream), peer, guest).await };
        let config = Arc::clone(&tls.read().unwrap_or_else(PoisonError::into_inner));
        let shaking = timeout(TLS_TIMEOUT, TlsAcceptor::from(config).accept(stream));
        tokio::pin!(shaking);
        let shaken = tokio::select! {
            shaken = shaking.as_mut() => shaken,
            // Whoever has just come has a push, perhaps. The handshake is pinned, and goes on.
            () = self.stop.cancelled() => match timeout(FIRST_REQUEST, shaking).await {
                Ok(shaken) => shaken,
                Err(_) => return Ok(()),
            },
        };
        match shaken {
            Ok(Ok(stream)) => self.http(Either::Right(stream), peer, guest).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(End::TurnedAway(TurnedAway::Malformed)),
            Ok(Err(error)) => Err(End::Left(error.into())),
            Err(_) => Err(End::TurnedAway(TurnedAway::Slow)),
        }
    }

    async fn http(
        self: &Arc<Self>,
        stream: Either<TcpStream, TlsStream<TcpStream>>,
        peer: SocketAddr,
        guest: &Arc<Guest>,
    ) -> Result<(), End> {
        let visit = Arc::new(Visit {
            peer: peer.ip().to_canonical(),
            armed: Armed::default(),
            guest: Arc::clone(guest),
            crowd: Arc::clone(&self.crowd),
        });
        let had_request = Arc::new(SetOnce::new());
        let service = service_fn(|request: Request<Incoming>| {
            let (this, visit) = (Arc::clone(self), Arc::clone(&visit));
            let _ = had_request.set(());
            async move { this.service.serve(request, &visit).await }
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(Watched::new(stream, visit.armed.clone())), service);
        tokio::pin!(http);
        // The connection future is pinned and polled on after `stop`: nothing of it is lost when the other arm wins.
        let ended = tokio::select! {
            ended = http.as_mut() => ended,
            () = self.stop.cancelled() => {
                // Who has just come has a request on the way. hyper would close the connection before it is here.
                let first = tokio::select! {
                    ended = http.as_mut() => Some(ended),
                    _ = timeout(FIRST_REQUEST, had_request.wait()) => None,
                };
                http.as_mut().graceful_shutdown();
                match first {
                    Some(ended) => ended,
                    None => loop {
                        match timeout(PARTING, http.as_mut()).await {
                            Ok(ended) => break ended,
                            Err(_) if guest.is_busy() => {}
                            Err(_) => return Ok(()),
                        }
                    },
                }
            }
        };
        ended.map_err(|error| match () {
            () if error.is_parse() => End::TurnedAway(TurnedAway::Malformed),
            // A connection that waits for its next request has done nothing wrong.
            () if error.is_timeout() && had_request.initialized() => End::Left(error.into()),
            () if error.is_timeout() => End::TurnedAway(TurnedAway::Slow),
            () => End::Left(error.into()),
        })
    }
}

/// How a connection ended before its time.
enum End {
    TurnedAway(TurnedAway),
    /// The peer left, or said nothing more.
    Left(Box<dyn Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A service at which the program has a fault.
    struct Faulty;

    impl Serve for Faulty {
        fn serve<'a>(&'a self, _: Request<Incoming>, _: &'a Visit) -> BoxFuture<'a, Answered> {
            panic!("a fault")
        }
    }

    #[tokio::test]
    async fn a_fault_in_a_connection_is_the_listeners() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let serving =
            tokio::spawn(serve(listener, "callback.listen", 8, None, Box::new(Faulty), CancellationToken::new()));
        let mut peer = TcpStream::connect(at).await.unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let ended = timeout(Duration::from_mins(1), serving).await.unwrap();
        assert!(ended.unwrap_err().is_panic());
    }
}
