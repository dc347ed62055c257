//! A connection to the broker: reads and writes its bytes, and turns them into events.
//!
//! Packets to send are only appended to a buffer. [`Wire::poll`] writes the whole buffer once all received packets were handed
//! out, so that many packets share one system call, here and at the broker. Only [`Wire::poll`] waits. A `Wire` lasts for one
//! connection.

use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::task::unconstrained;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::dialer::{Dialer, Stream};
use super::explanations::Failure;
use super::packets::{Accepted, Event, LARGEST_PACKET, READ_STEP, Subscription, Version, out_of_place, undecodable};
use crate::local::Publication;

/// The most publishes in flight. With 20 to 100 Mosquitto reaches its full rate; more only add latency.
pub(super) const WINDOW: u16 = 100;
/// The highest packet id of a publish: one more than the window, for `offline` at a stop. SUBSCRIBE and UNSUBSCRIBE use higher
/// ones.
pub(super) const LAST_PUBLISH_ID: u16 = WINDOW + 1;
/// The limit for TCP, TLS and CONNACK together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// While so many bytes wait to be written, no more should be added. One packet of any size may exceed it.
const ROOM: usize = 64 * 1024;
/// The buffer has room for at least so many bytes at each read.
const READ_AT_LEAST: usize = 1024;
/// If it has less, it grows by this much.
const READ_AHEAD: usize = 8 * 1024;
/// The most bytes of one read: what arrived behind a large packet is copied out of that packet's memory.
const READ_AT_MOST: usize = READ_STEP;
/// At the end of a connection, no more than this is read: the PUBACKs of a full window, and messages between them.
const HARVEST: usize = 64 * 1024;

type Opened = (Box<dyn Stream>, BytesMut, Accepted);

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send>>),
    Open(Open),
}

struct Open {
    stream: Box<dyn Stream>,
    /// Ticks once per keep alive.
    ticks: Interval,
    /// Whether there was a sign of life since the last tick: bytes arrived, or the socket had room again after a write had to
    /// wait.
    alive: bool,
    /// Whether the last write found the socket full.
    full: bool,
    /// How many bytes of `unsent` were written.
    written: usize,
    /// The stream may still hold some of them: TLS does.
    unflushed: bool,
}

/// Why a wait ended.
enum Turn {
    Came,
    Written,
    Tick,
}

pub(super) struct Wire<V> {
    dialer: Arc<Dialer>,
    state: State,
    /// What was read and not decoded yet.
    came: BytesMut,
    /// What is to be written.
    unsent: BytesMut,
    /// The largest packet the broker takes.
    largest: usize,
    /// The packet id of the last SUBSCRIBE or UNSUBSCRIBE.
    request: u16,
    /// How many PINGREQs were sent, and how many of them were answered: the n-th PINGRESP answers the n-th PINGREQ.
    pings: u64,
    pongs: u64,
    /// A DISCONNECT was sent: nothing may follow it.
    closing: bool,
    /// A packet could not be encoded.
    failed: Option<Failure>,
    version: PhantomData<fn() -> V>,
}

impl<V: Version> Wire<V> {
    pub(super) fn open(dialer: &Arc<Dialer>) -> Self {
        let dialing = Arc::clone(dialer);
        Self::over(dialer, async move { dialing.connect().await })
    }

    /// As [`Self::open`], on the stream that this future gives.
    pub(super) fn over(
        dialer: &Arc<Dialer>,
        stream: impl Future<Output = Result<Box<dyn Stream>, Failure>> + Send + 'static,
    ) -> Self {
        Self {
            dialer: Arc::clone(dialer),
            state: State::Opening(Box::pin(open::<V>(Arc::clone(dialer), stream))),
            came: BytesMut::new(),
            unsent: BytesMut::new(),
            largest: LARGEST_PACKET,
            request: LAST_PUBLISH_ID,
            pings: 0,
            pongs: 0,
            closing: false,
            failed: None,
            version: PhantomData,
        }
    }

    /// Whether more may be sent now. If not, there is room again at [`Event::Written`] at the latest.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < ROOM
    }

    /// Whether all that was to be sent is written.
    pub(super) fn is_written(&self) -> bool {
        self.unsent.is_empty() && !matches!(&self.state, State::Open(open) if open.unflushed)
    }

    /// `pkid` is between 1 and [`LAST_PUBLISH_ID`], and not in flight.
    pub(super) fn publish(&mut self, pkid: u16, publication: &Publication, expiry: Option<u32>) {
        self.append(|largest, unsent| V::write_publish(pkid, publication, expiry, largest, unsent));
    }

    pub(super) fn ack(&mut self, pkid: u16) {
        self.put(&V::ack(pkid));
    }

    pub(super) fn subscribe(&mut self, filters: &[(String, Subscription)]) {
        let pkid = self.next_request();
        self.put(&V::subscribe(pkid, filters));
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) {
        let pkid = self.next_request();
        self.put(&V::unsubscribe(pkid, filter));
    }

    /// Sends a PINGREQ. Returns its number, which comes back in [`Event::PingAnswered`].
    pub(super) fn ping(&mut self) -> u64 {
        self.put(&V::ping());
        self.pings += 1;
        self.pings
    }

    /// Sends the last packet. Later ones are left out.
    pub(super) fn disconnect(&mut self) {
        self.put(&V::disconnect());
        self.closing = true;
    }

    fn next_request(&mut self) -> u16 {
        self.request = self.request.checked_add(1).unwrap_or(LAST_PUBLISH_ID + 1);
        self.request
    }

    fn put(&mut self, packet: &V::Packet) {
        self.append(|largest, unsent| V::write(packet, largest, unsent));
    }

    fn append(&mut self, write: impl FnOnce(usize, &mut BytesMut) -> Result<(), Failure>) {
        if self.closing {
            return;
        }
        let before = self.unsent.len();
        if let Err(failure) = write(self.largest, &mut self.unsent) {
            self.unsent.truncate(before);
            self.failed.get_or_insert(failure);
        }
    }

    /// Waits for the next event. Must not be called again after it has failed. Cancel-safe: all progress, of the opening, too,
    /// is kept in `self`.
    pub(super) async fn poll(&mut self) -> Result<Event, Failure> {
        if let State::Opening(opening) = &mut self.state {
            let (stream, came, accepted) = opening.await?;
            self.came = came;
            self.largest = accepted.maximum_packet.min(LARGEST_PACKET);
            let mut ticks = interval_at(Instant::now() + accepted.keep_alive, accepted.keep_alive);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.state = State::Open(Open { stream, ticks, alive: true, full: false, written: 0, unflushed: false });
            return Ok(Event::Connected(accepted));
        }
        loop {
            if let Some(failure) = self.failed.take() {
                return Err(failure);
            }
            if let Some(event) = self.take_event()? {
                return Ok(event);
            }
            match poll_fn(|cx| self.turn(cx)).await? {
                Turn::Written => return Ok(Event::Written),
                Turn::Came => {}
                Turn::Tick => {
                    if let Some(number) = self.tick()? {
                        return Ok(Event::PingSent(number));
                    }
                }
            }
        }
    }

    /// The next event in what was read already.
    pub(super) fn take_event(&mut self) -> Result<Option<Event>, Failure> {
        let before = self.came.len();
        let event = decode::<V>(&mut self.came, &self.dialer)?;
        if before - self.came.len() > READ_STEP {
            // The bytes that arrived behind a large packet must not keep its memory.
            self.came = BytesMut::from(&self.came[..]);
        }
        match event {
            Some(Event::Ended(failure)) => Err(failure),
            Some(Event::Connected(_)) => Err(out_of_place()),
            Some(Event::PingAnswered(_)) if self.pongs < self.pings => {
                self.pongs += 1;
                Ok(Some(Event::PingAnswered(self.pongs)))
            }
            Some(Event::PingAnswered(_)) => Ok(Some(Event::Other)),
            event => Ok(event),
        }
    }

    /// Writes what can be written, reads what can be read.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Failure>> {
        let writes = !self.is_written();
        let State::Open(open) = &mut self.state else { return Poll::Pending };
        // Looked at right before each write: what waits here was made while we still led.
        if writes && !self.dialer.config.lease.holds() {
            return Poll::Ready(Err(Failure::Closed));
        }
        // First, so that a flood cannot delay it.
        if open.ticks.poll_tick(cx).is_ready() {
            return Poll::Ready(Ok(Turn::Tick));
        }
        let written = if writes { open.write(&mut self.unsent, cx) } else { Poll::Pending };
        if let Poll::Ready(Ok(())) = written {
            return Poll::Ready(Ok(Turn::Written));
        }
        // Also after a failed write: what arrived before it counts.
        let failure = match (open.read(&mut self.came, cx), written) {
            (Poll::Ready(Ok(0)), _) => Failure::Closed,
            (Poll::Ready(Ok(_)), _) => return Poll::Ready(Ok(Turn::Came)),
            (Poll::Ready(Err(error)), _) | (Poll::Pending, Poll::Ready(Err(error))) => {
                self.dialer.explain().lost(&error)
            }
            (Poll::Pending, _) => return Poll::Pending,
        };
        Poll::Ready(Err(failure))
    }

    /// Runs once per keep alive. Fails if there was no sign of life since the last time. Otherwise sends a PINGREQ and returns
    /// its number, unless a write is waiting for room: then that room will be the sign.
    fn tick(&mut self) -> Result<Option<u64>, Failure> {
        if matches!(&self.state, State::Open(open) if !open.alive) {
            // This process may have stood still: a sign may have arrived that was not read yet.
            match self.read_now() {
                Some(Ok(0)) => return Err(Failure::Closed),
                Some(Err(error)) => return Err(self.dialer.explain().lost(&error)),
                Some(Ok(_)) | None => {}
            }
        }
        let State::Open(open) = &mut self.state else { return Ok(None) };
        if !std::mem::take(&mut open.alive) {
            return Err(self.dialer.explain().stalled());
        }
        Ok(self.is_written().then(|| self.ping()))
    }

    /// Reads what has arrived, without waiting. Works also if tokio's budget for this task is used up.
    fn read_now(&mut self) -> Option<io::Result<usize>> {
        let State::Open(open) = &mut self.state else { return None };
        unconstrained(poll_fn(|cx| open.read(&mut self.came, cx))).now_or_never()
    }

    /// After the end of the connection: the events that had arrived before and were not handed out yet.
    pub(super) fn harvest(&mut self) -> Vec<Event> {
        let mut total = 0;
        while let Some(Ok(n @ 1..)) = self.read_now() {
            total += n;
            if total >= HARVEST {
                break;
            }
        }
        std::iter::from_fn(|| decode::<V>(&mut self.came, &self.dialer).ok().flatten()).collect()
    }
}

impl Open {
    /// Ready once everything is written.
    fn write(&mut self, unsent: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = unsent.get(self.written..) {
            let wrote = Pin::new(&mut self.stream).poll_write(cx, rest);
            let written = ready!(self.watched(wrote))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        unsent.clear();
        self.written = 0;
        // Give back the memory of a large packet.
        if unsent.capacity() > ROOM {
            *unsent = BytesMut::new();
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        ready!(self.watched(flushed))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Notes whether a write is a sign of life. Bytes that the socket takes at once may only fill its buffer. But if it has
    /// room again after it was full, the broker has taken something.
    fn watched<T>(&mut self, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let waited = std::mem::replace(&mut self.full, wrote.is_pending());
        self.alive |= waited && matches!(wrote, Poll::Ready(Ok(_)));
        wrote
    }

    fn read(&mut self, came: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if came.capacity() - came.len() < READ_AT_LEAST {
            came.reserve(READ_AHEAD);
        }
        let mut room = came.limit(READ_AT_MOST);
        let read = ready!(pin!(self.stream.read_buf(&mut room)).poll(cx))?;
        self.alive |= read > 0;
        Poll::Ready(Ok(read))
    }
}

async fn open<V: Version>(
    dialer: Arc<Dialer>,
    stream: impl Future<Output = Result<Box<dyn Stream>, Failure>>,
) -> Result<Opened, Failure> {
    let opening = async {
        let failed = |error: io::Error| dialer.explain().lost(&error);
        let mut stream = stream.await?;
        // With the same client id, CONNECT would end the connection of whoever leads now.
        if !dialer.config.lease.holds() {
            return Err(Failure::Closed);
        }
        let mut connect = BytesMut::new();
        V::write(&V::connect(&dialer), LARGEST_PACKET, &mut connect)?;
        stream.write_all(&connect).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut came = BytesMut::new();
        loop {
            match decode::<V>(&mut came, &dialer)? {
                Some(Event::Connected(accepted)) => return Ok((stream, came, accepted)),
                Some(_) => return Err(Failure::Protocol("another packet came instead of CONNACK".to_owned())),
                None => came.reserve(READ_AT_LEAST),
            }
            if stream.read_buf(&mut came).await.map_err(failed)? == 0 {
                return Err(Failure::Closed);
            }
        }
    };
    match timeout(CONNECT_LIMIT, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(dialer.explain().no_answer()),
    }
}

/// rumqttc may panic on what a hostile broker sends. Then the connection is given up, as after any other error.
fn decode<V: Version>(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure> {
    let first = came.first().copied().unwrap_or_default();
    catch_unwind(AssertUnwindSafe(|| V::read(came, dialer)))
        .unwrap_or_else(|_panic| Err(undecodable(first, "a packet that cannot be decoded".to_owned())))
}

#[cfg(test)]
mod tests;
