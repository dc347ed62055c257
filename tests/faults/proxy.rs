//! A TCP proxy that records what passes and makes trouble as told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::schedule::Way;

/// Bytes at a time through a slow connection, and the pause between.
const SLOW_BYTES: usize = 256;
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// Sees one connection's bytes, before they are handed on. `up` is the way from who opened it.
pub(crate) trait Tap: Send {
    /// What is made of them under this trouble.
    fn read(&mut self, up: bool, bytes: &[u8], trouble: Trouble) -> Read;
    /// So many bytes of that way, counted from the start of the connection, have been handed on.
    fn handed_on(&mut self, up: bool, total: u64);
    /// It is over; `cut`: by the proxy's own doing.
    fn closed(&mut self, cut: bool);
}

/// What a tap has made of bytes.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// What is handed on.
    pub(crate) on: Vec<u8>,
    /// The trouble was for once, and that is over.
    pub(crate) spent: bool,
    /// The connection ends here.
    pub(crate) end: bool,
}

/// What the proxy does at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The connection that carries the byte after so many (both ways and all connections together) is cut there.
    Cut(u64),
    Stall(Way),
    HalfOpen(Way),
    Slow,
    Refuse,
    /// The broker refuses each publish with this reason code,
    Busy(u8),
    /// or one of a push,
    RefuseOnce(u8),
    /// or ends the connection at each one of a push or a result.
    Die,
}

/// Sees nothing.
pub(crate) struct Blind;

impl Tap for Blind {
    fn read(&mut self, _up: bool, bytes: &[u8], _trouble: Trouble) -> Read {
        Read { on: bytes.to_vec(), ..Read::default() }
    }

    fn handed_on(&mut self, _up: bool, _total: u64) {}

    fn closed(&mut self, _cut: bool) {}
}

/// Forwards to a port of this machine; ends with the value.
pub(crate) struct Proxy {
    port: u16,
    trouble: Arc<watch::Sender<Trouble>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// `tap` makes one for each connection.
    pub(crate) async fn start(target: u16, tap: impl FnMut() -> Box<dyn Tap> + Send + 'static) -> Self {
        Self::balance(vec![target], tap).await
    }

    /// Forwards to several ports in turn; one that refuses is passed over.
    pub(crate) async fn balance(mut targets: Vec<u16>, mut tap: impl FnMut() -> Box<dyn Tap> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let trouble = Arc::new(watch::Sender::new(Trouble::None));
        let shared = Arc::clone(&trouble);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut tap = tap();
                if *shared.borrow() == Trouble::Refuse {
                    tap.closed(true);
                    continue;
                }
                targets.rotate_left(1);
                tokio::spawn(carry(client, targets.clone(), tap, Arc::clone(&shared)));
            }
        });
        Self { port, trouble, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.trouble(Trouble::Refuse);
        self.task.abort();
    }
}

/// Why one way of a connection ended.
#[derive(PartialEq, Eq)]
enum End {
    ByPeer,
    ByUs,
}

async fn carry(client: TcpStream, targets: Vec<u16>, tap: Box<dyn Tap>, trouble: Arc<watch::Sender<Trouble>>) {
    let tap = Arc::new(Mutex::new(tap));
    let addresses: Vec<_> = targets.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    // Tried one after the other.
    let Ok(server) = TcpStream::connect(addresses.as_slice()).await else {
        tap.lock().unwrap().closed(false);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When one way ends, both are dropped, and with them the sockets.
    let end = tokio::select! {
        end = forward(from_client, to_server, true, &tap, &trouble) => end,
        end = forward(from_server, to_client, false, &tap, &trouble) => end,
        () = refused(&trouble) => End::ByUs,
    };
    tap.lock().unwrap().closed(end == End::ByUs);
}

async fn refused(trouble: &watch::Sender<Trouble>) {
    let _ = trouble.subscribe().wait_for(|trouble| *trouble == Trouble::Refuse).await;
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    up: bool,
    tap: &Mutex<Box<dyn Tap>>,
    trouble: &watch::Sender<Trouble>,
) -> End {
    let mut changes = trouble.subscribe();
    let mut buffer = vec![0; 4096];
    let (mut total, mut swallowed) = (0, false);
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // A connection that lost bytes cannot go on once bytes pass again.
            _ = changes.wait_for(|now| swallowed && !swallows(*now, up)) => return End::ByUs,
        };
        let Ok(read @ 1..) = read else { return End::ByPeer };
        let now = *trouble.borrow();
        // Seen even if it is not handed on: that is how an answer that was given and did not arrive is told from none.
        let seen = tap.lock().unwrap().read(up, &buffer[..read], now);
        if seen.spent {
            trouble.send_if_modified(|trouble| std::mem::replace(trouble, Trouble::None) != Trouble::None);
        }
        if seen.end {
            return End::ByUs;
        }
        let (bytes, read) = (seen.on.as_slice(), seen.on.len());
        if read == 0 {
            continue;
        }
        let stalled = |now: &Trouble| matches!(now, Trouble::Stall(way) if concerns(*way, up));
        if changes.wait_for(|now| !stalled(now)).await.is_err() {
            return End::ByUs;
        }
        let now = *trouble.borrow();
        if swallows(now, up) {
            swallowed = true;
            continue;
        }
        if swallowed {
            return End::ByUs;
        }
        let allowed = match now {
            Trouble::Cut(_) => spend(trouble, read),
            _ => read,
        };
        for piece in bytes[..allowed].chunks(if now == Trouble::Slow { SLOW_BYTES } else { read }) {
            if to.write_all(piece).await.is_err() {
                return End::ByPeer;
            }
            total += piece.len() as u64;
            tap.lock().unwrap().handed_on(up, total);
            if *trouble.borrow() == Trouble::Slow {
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
        if allowed < read {
            return End::ByUs;
        }
    }
}

/// Takes from what may still pass before the cut; how much passes. The cut itself ends the trouble, after this connection.
fn spend(trouble: &watch::Sender<Trouble>, wanted: usize) -> usize {
    let mut passes = wanted;
    trouble.send_if_modified(|now| {
        let Trouble::Cut(left) = *now else { return false };
        passes = usize::try_from(left).unwrap_or(usize::MAX).min(wanted);
        *now = if passes < wanted { Trouble::None } else { Trouble::Cut(left - passes as u64) };
        false
    });
    passes
}

fn swallows(trouble: Trouble, up: bool) -> bool {
    matches!(trouble, Trouble::HalfOpen(way) if concerns(way, up))
}

fn concerns(way: Way, up: bool) -> bool {
    match way {
        Way::Both => true,
        Way::Up => up,
        Way::Down => !up,
    }
}
