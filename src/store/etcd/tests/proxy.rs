//! What lies between a bridge and etcd, and can be cut.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to an etcd on loopback.
pub(crate) struct Proxy {
    port: u16,
    trouble: Arc<Trouble>,
    open: watch::Sender<bool>,
    upstream: watch::Sender<String>,
}

#[derive(Default)]
struct Trouble {
    /// So many answers to transactions are still to be lost.
    losing: AtomicUsize,
    /// The next answer is held back for so many milliseconds.
    holding: AtomicU64,
    /// Comes instead of the next answer to a transaction.
    instead: Mutex<Option<String>>,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let upstream = watch::Sender::new(host_of(url));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (trouble, open) = (Arc::<Trouble>::default(), watch::Sender::new(true));
        tokio::spawn({
            let (trouble, open, upstream) = (Arc::clone(&trouble), open.clone(), upstream.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if *open.borrow() {
                        tokio::spawn(carry(client, upstream.subscribe(), Arc::clone(&trouble), open.subscribe()));
                    }
                }
            }
        });
        Self { port, trouble, open, upstream }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next transactions are carried out, and their answers are lost.
    pub(crate) fn lose_answers(&self, many: usize) {
        self.trouble.losing.store(many, Ordering::SeqCst);
    }

    /// How many are still to be lost.
    pub(crate) fn losing(&self) -> usize {
        self.trouble.losing.load(Ordering::SeqCst)
    }

    /// The next answer comes later.
    pub(crate) fn hold_next_answer(&self, for_: Duration) {
        self.trouble.holding.store(u64::try_from(for_.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The next transaction is carried out, and this comes instead of its answer.
    pub(crate) fn say_instead(&self, status: &str, body: &str) {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        *self.trouble.instead.lock().unwrap() = Some(answer);
    }

    /// Whether that is still to come.
    pub(crate) fn has_something_to_say(&self) -> bool {
        self.trouble.instead.lock().unwrap().is_some()
    }

    /// It leads to another etcd from now on; what leads to the former is cut, and who was connected has noticed it.
    pub(crate) async fn lead_to(&self, url: &str) {
        self.upstream.send_replace(host_of(url));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Nothing gets through any more, or all does again.
    pub(crate) fn cut(&self, cut: bool) {
        self.open.send_replace(!cut);
    }
}

fn host_of(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

async fn carry(
    mut client: TcpStream,
    mut upstream: watch::Receiver<String>,
    trouble: Arc<Trouble>,
    mut open: watch::Receiver<bool>,
) {
    let to = upstream.borrow_and_update().clone();
    let Ok(mut server) = TcpStream::connect(to).await else { return };
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
            let transacts = transacts.load(Ordering::SeqCst);
            let lost = |left: usize| left.checked_sub(1);
            if transacts && trouble.losing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lost).is_ok() {
                break;
            }
            let instead = if transacts { trouble.instead.lock().unwrap().take() } else { None };
            tokio::time::sleep(Duration::from_millis(trouble.holding.swap(0, Ordering::SeqCst))).await;
            let answer = instead.as_ref().map_or(&chunk[..read], String::as_bytes);
            if to_client.write_all(answer).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
        _ = open.wait_for(|open| !open) => {}
        _ = upstream.changed() => {}
    }
}
