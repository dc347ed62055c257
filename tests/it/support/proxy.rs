//! A TCP proxy that cuts connections in the middle of packets, or keeps answers to itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards to a port of this machine; ends with the value.
pub(crate) struct Proxy {
    port: u16,
    cut: watch::Sender<u64>,
    connections: Arc<AtomicU64>,
    muted: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Each connection is cut after the number of bytes (both ways together) that `lives` says; none: it lives on.
    pub(crate) async fn start(target: u16, mut lives: impl FnMut() -> Option<u64> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = watch::channel(0);
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let muted = Arc::<AtomicBool>::default();
        let mute = Arc::clone(&muted);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let life = Arc::new(AtomicU64::new(lives().unwrap_or(u64::MAX)));
                let (mut cuts, mute) = (cuts.clone(), Arc::clone(&mute));
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let target = SocketAddr::from(([127, 0, 0, 1], target));
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let heard = AtomicBool::new(false);
                    // When one ends, both are dropped, and with them the sockets.
                    tokio::select! {
                        () = forward(from_client, to_server, &life, &heard) => {}
                        () = forward(from_server, to_client, &life, &mute) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port, cut, connections, muted, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every present connection.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    /// From now on what the server says gets lost, or does so no more.
    pub(crate) fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::SeqCst);
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    life: &AtomicU64,
    muted: &AtomicBool,
) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if muted.load(Ordering::SeqCst) {
            continue;
        }
        let left = life.load(Ordering::Relaxed);
        let allowed = usize::try_from(left).unwrap_or(usize::MAX).min(read);
        life.fetch_sub(allowed as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..allowed]).await.is_err() || allowed < read {
            return;
        }
    }
}
