//! An HTTP server that misbehaves as told: one connection a request, nothing of HTTP between it and the test.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

/// What becomes of one request after it was read.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes, then others again and again until the client leaves.
    Endless(Vec<u8>, Vec<u8>),
    /// Nothing, and the connection stays.
    Hang,
    /// Nothing, and the connection ends.
    Close,
}

impl Behaviour {
    /// A response with this status line's end (`200 OK`), header lines and body.
    pub(crate) fn response(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        Self::Bytes([head.as_bytes(), body].concat())
    }

    /// A reply of the API.
    pub(crate) fn reply(json: &str) -> Self {
        Self::response("200 OK", "Content-Type: application/json\r\n", json)
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `POST /send_msg?access_token=… HTTP/1.1`
    pub(crate) line: String,
    /// The header lines, in lower case.
    pub(crate) headers: String,
    pub(crate) body: Value,
}

/// The server; answers `{"code":0}` when nothing is scripted.
pub(crate) struct ScriptedCloud {
    pub(crate) api: Url,
    script: Arc<Mutex<VecDeque<Behaviour>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What a request meets when nothing is scripted.
type Otherwise = Arc<dyn Fn(&Seen) -> Behaviour + Send + Sync>;

impl Seen {
    /// The call's name: `send_msg`.
    pub(crate) fn call(&self) -> &str {
        self.line.split(['/', '?', ' ']).find(|part| !part.is_empty() && *part != "POST").unwrap_or_default()
    }
}

impl ScriptedCloud {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Behaviour::reply(r#"{"code":0}"#)).await
    }

    /// One that answers like this when nothing is scripted.
    pub(crate) async fn start_with(otherwise: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static) -> Self {
        Self::listen("http", None, Arc::new(otherwise)).await
    }

    /// Behind TLS.
    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        let otherwise = |_: &Seen| Behaviour::reply(r#"{"code":0}"#);
        Self::listen("https", Some(TlsAcceptor::from(Arc::new(config))), Arc::new(otherwise)).await
    }

    async fn listen(scheme: &str, tls: Option<TlsAcceptor>, otherwise: Otherwise) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("{scheme}://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (script, seen) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(Mutex::new(Vec::new())));
        let (scripted, noted) = (Arc::clone(&script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen, tls) = (Arc::clone(&scripted), Arc::clone(&noted), tls.clone());
                let otherwise = Arc::clone(&otherwise);
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &script, &seen, &otherwise).await,
                        // A client that refuses the certificate is no failure of this server.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &script, &seen, &otherwise).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { api, script, seen }
    }

    /// What the next requests meet.
    pub(crate) fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.script.lock().unwrap().extend(behaviours);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request; none if the peer left before it was whole.
async fn serve<S>(
    mut stream: S,
    script: &Mutex<VecDeque<Behaviour>>,
    seen: &Mutex<Vec<Seen>>,
    otherwise: &Otherwise,
) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.to_ascii_lowercase();
    let length =
        headers.lines().find_map(|header| header.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while read.len() < end + 4 + length {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&read[end + 4..]).unwrap_or(Value::Null);
    let request = Seen { line: line.to_owned(), headers, body };
    seen.lock().unwrap().push(request.clone());
    let behaviour = script.lock().unwrap().pop_front();
    match behaviour.unwrap_or_else(|| otherwise(&request)) {
        Behaviour::Bytes(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()
        }
        Behaviour::Endless(begin, again) => {
            stream.write_all(&begin).await.ok()?;
            loop {
                stream.write_all(&again).await.ok()?;
                stream.flush().await.ok()?;
            }
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Close => None,
    }
}
