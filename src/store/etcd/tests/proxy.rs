//! What lies between a bridge and etcd, and can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to an etcd on loopback.
pub(crate) struct Proxy {
    port: u16,
    /// So many answers to transactions are still to be lost.
    losing: Arc<AtomicUsize>,
    /// The next answer is held back for so many milliseconds.
    holding: Arc<AtomicU64>,
    open: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let upstream = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (losing, holding, open) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default(), watch::Sender::new(true));
        tokio::spawn({
            let (losing, holding, open) = (Arc::clone(&losing), Arc::clone(&holding), open.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if *open.borrow() {
                        let (losing, holding) = (Arc::clone(&losing), Arc::clone(&holding));
                        tokio::spawn(carry(client, upstream.clone(), losing, holding, open.subscribe()));
                    }
                }
            }
        });
        Self { port, losing, holding, open }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next transactions are carried out, and their answers are lost.
    pub(crate) fn lose_answers(&self, many: usize) {
        self.losing.store(many, Ordering::SeqCst);
    }

    /// How many are still to be lost.
    pub(crate) fn losing(&self) -> usize {
        self.losing.load(Ordering::SeqCst)
    }

    /// The next answer comes later.
    pub(crate) fn hold_next_answer(&self, for_: Duration) {
        self.holding.store(u64::try_from(for_.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Nothing gets through any more, or all does again.
    pub(crate) fn cut(&self, cut: bool) {
        self.open.send_replace(!cut);
    }
}

async fn carry(
    mut client: TcpStream,
    upstream: String,
    losing: Arc<AtomicUsize>,
    holding: Arc<AtomicU64>,
    mut open: watch::Receiver<bool>,
) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let transacts = AtomicBool::new(false);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let asking = async {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
            let chunk = &chunk[..read];
            if chunk.starts_with(b"POST ") {
                transacts.store(chunk.starts_with(b"POST /v3/kv/txn"), Ordering::SeqCst);
            }
            if to_server.write_all(chunk).await.is_err() {
                break;
            }
        }
    };
    let answering = async {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut chunk).await {
            let lost = |left: usize| left.checked_sub(1);
            if transacts.load(Ordering::SeqCst) && losing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lost).is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(holding.swap(0, Ordering::SeqCst))).await;
            if to_client.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
        _ = open.wait_for(|open| !open) => {}
    }
}
