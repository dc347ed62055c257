//! HTTP as iLink, an operator or a stranger on the network speaks it to the bridge.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEADLINE;

/// A client that follows no redirects and keeps no connections (servers are restarted under it).
pub(crate) fn http() -> reqwest::Client {
    client(reqwest::Client::builder())
}

/// The same, from another address of this machine.
pub(crate) fn http_from(address: IpAddr) -> reqwest::Client {
    client(reqwest::Client::builder().local_address(address))
}

fn client(builder: reqwest::ClientBuilder) -> reqwest::Client {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    builder
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .no_proxy()
        .timeout(DEADLINE)
        .build()
        .expect("a client")
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("an answer")
    }

    pub(crate) async fn try_of(request: reqwest::RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.text().await? })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// One HTTP/1.1 request byte for byte, on a connection of its own.
pub(crate) async fn raw_connection(port: u16, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.write_all(request).await.expect("the request is taken");
    stream
}

/// A POST of a JSON body, byte for byte.
pub(crate) fn raw_post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Everything until the peer closes.
pub(crate) async fn read_to_close(stream: &mut TcpStream, limit: Duration) -> String {
    let mut all = Vec::new();
    tokio::time::timeout(limit, stream.read_to_end(&mut all)).await.expect("the peer closes").ok();
    String::from_utf8_lossy(&all).into_owned()
}
