//! Where nobody listens.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// An address of this machine that refuses connections for as long as the value lives.
///
/// A port that was only found to be free may be given to another test's server, or to an outgoing connection, which then
/// talks to itself. This one is bound, so that nobody else gets it, and not listened on.
pub(crate) struct Deserted(TcpSocket);

impl Deserted {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound socket")
    }

    pub(crate) fn port(&self) -> u16 {
        self.address().port()
    }

    /// From now on somebody listens.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(1024).expect("a listening socket")
    }

    /// `<scheme>://127.0.0.1:<port>`.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address())
    }
}

#[tokio::test]
async fn refuses_and_cannot_be_taken() {
    let nobody = Deserted::new();
    for _ in 0..100 {
        let error = tokio::net::TcpStream::connect(nobody.address()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert!(std::net::TcpListener::bind(nobody.address()).is_err());
    let address = nobody.address();
    let _somebody = nobody.listen();
    tokio::net::TcpStream::connect(address).await.unwrap();
}
