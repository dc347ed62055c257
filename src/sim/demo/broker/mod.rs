//! The demo's own MQTT broker: MQTT 5 and 3.1.1, in memory only. Any client may join.
//!
//! Place in the flow: it takes the place that Mosquitto has in a real house. It is small, because rumqttc, which the
//! bridge needs anyway, brings the codecs of both protocol versions. A broker from a crate would add a hundred crates
//! and minutes to the first build, and those that were tried refuse client ids or whole clients.
//!
//! Its parts: [`wire`] (bytes to packets and back), [`session`] (the state of one client), [`hub`] (who gets what) and,
//! below, the connections.
//!
//! It does not do: users and rights, TLS, web sockets, topic aliases of clients, shared subscriptions, anything on
//! disk.

mod hub;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use hub::{Ended, Hub, Joined};
use session::OUTBOX;
use wire::Version;

/// Who has connected sends its CONNECT within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Who does not read for so long is cut off.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Room for answers that a connection waits for before it takes its next packet.
const ROOM: usize = 64;
/// How long a client that did what it must not may take to read that it did.
const LINGER: Duration = Duration::from_secs(1);
/// So many packets are written together.
const BATCH: usize = 64;
/// The system is short of something: the next try to accept a connection waits for this.
const PAUSE: Duration = Duration::from_millis(100);

type Shared = Arc<Mutex<Hub>>;

/// Starts it on `listen`, else on a free loopback port, until `stop`; returns where it listens.
///
/// # Errors
/// If it cannot listen there.
pub(super) async fn start(listen: Option<SocketAddr>, stop: CancellationToken) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let shared = Shared::default();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                sleep(PAUSE).await;
                continue;
            };
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(serve(stream, shared)).await });
        }
    });
    Ok(address)
}

/// Never held across an await. A panic while it was held would concern one message.
fn lock(shared: &Shared) -> MutexGuard<'_, Hub> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, from its CONNECT to its end and its last will.
async fn serve(stream: TcpStream, shared: Shared) {
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let mut reader = Reader { half: read, received: BytesMut::new() };
    let Ok(Ok(Some(frame))) = timeout(CONNECT_WITHIN, reader.frame()).await else { return };
    let (version, decoded) = wire::read_connect(frame);
    let (outbox, packets) = mpsc::channel(OUTBOX);
    let writer = tokio::spawn(write_all(write, version, packets));
    let connect = match decoded {
        Ok(connect) => connect,
        Err(code) => return refuse(&outbox, code),
    };
    let keep_alive = connect.keep_alive;
    // A statement of its own: the lock is given back before anything is awaited.
    let joined = lock(&shared).connect(connect, outbox.clone());
    let joined = match joined {
        Ok(joined) => joined,
        Err(code) => return refuse(&outbox, code),
    };
    let ended = converse(&mut reader, &outbox, version, keep_alive, &joined, &shared).await;
    let failed = matches!(ended, Ended::Failed(_));
    if let Ended::Failed(reason_code) = ended {
        let _ = outbox.try_send(Packet::Disconnect(Disconnect { reason_code, properties: None }));
    }
    drop(outbox);
    let will_in = lock(&shared).ended(&joined, &ended);
    // What was still to be written, a DISCONNECT above all, is written before the connection closes.
    let _ = writer.await;
    if failed {
        reader.drain().await;
    }
    if let Some(delay) = will_in {
        sleep(delay).await;
        lock(&shared).publish_will(&joined);
    }
}

fn refuse(outbox: &mpsc::Sender<Packet>, code: ConnectReturnCode) {
    let _ = outbox.try_send(wire::refusal(code));
}

/// Takes packet after packet, until the connection ends.
async fn converse(
    reader: &mut Reader,
    outbox: &mpsc::Sender<Packet>,
    version: Version,
    keep_alive: Option<Duration>,
    joined: &Joined,
    shared: &Shared,
) -> Ended {
    loop {
        // Whoever reads no answers is asked nothing more; and the writer has ended when another connection took over.
        let Ok(room) = outbox.reserve_many(ROOM).await else { return Ended::Lost };
        drop(room);
        let frame = tokio::select! {
            // The future keeps nothing that its being dropped could lose: what was received stays in the reader.
            frame = reader.frame_within(keep_alive) => frame,
            () = outbox.closed() => return Ended::Lost,
        };
        let packet = match frame {
            Ok(Some(frame)) => wire::read(frame, version),
            Ok(None) => return Ended::Lost,
            Err(error) => Err(error),
        };
        let packet = match packet {
            Ok(packet) => packet,
            Err(code) => return Ended::Failed(code),
        };
        if let Some(ended) = lock(shared).packet(joined, packet) {
            return ended;
        }
    }
}

/// What a client sends, cut into packets.
struct Reader {
    half: OwnedReadHalf,
    received: BytesMut,
}

impl Reader {
    /// The next packet's bytes; None at the end. Cancel-safe: `read_buf` is, and there is no other await.
    async fn frame(&mut self) -> Result<Option<BytesMut>, DisconnectReasonCode> {
        loop {
            if let Some(frame) = wire::take_frame(&mut self.received)? {
                return Ok(Some(frame));
            }
            match self.half.read_buf(&mut self.received).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    }

    /// Takes what still comes, for a moment: closing a connection that holds something unread would take our last words from
    /// the client, too.
    async fn drain(&mut self) {
        let reading = async {
            while matches!(self.half.read_buf(&mut self.received).await, Ok(1..)) {
                self.received.clear();
            }
        };
        let _ = timeout(LINGER, reading).await;
    }

    async fn frame_within(&mut self, keep_alive: Option<Duration>) -> Result<Option<BytesMut>, DisconnectReasonCode> {
        match keep_alive {
            Some(limit) => timeout(limit, self.frame()).await.unwrap_or(Err(DisconnectReasonCode::KeepAliveTimeout)),
            None => self.frame().await,
        }
    }
}

/// Writes what the hub has for a client, until there is no more, a DISCONNECT was written, or the client does not read.
async fn write_all(mut half: OwnedWriteHalf, version: Version, mut packets: mpsc::Receiver<Packet>) {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), BytesMut::new());
    while packets.recv_many(&mut batch, BATCH).await > 0 {
        let last = batch.iter().any(|packet| matches!(packet, Packet::Disconnect(_)));
        for packet in batch.drain(..) {
            wire::write(packet, version, &mut bytes);
        }
        if !matches!(timeout(WRITE_WITHIN, half.write_all(&bytes)).await, Ok(Ok(()))) || last {
            break;
        }
        bytes.clear();
    }
    let _ = half.shutdown().await;
}
