//! A connection to the broker: bytes in, bytes out, and one event after another.
//!
//! What is to be sent is only appended to a buffer; [`Wire::poll`] writes all of it at once when nothing is left to hand out
//! of what came. So many packets share one system call, here and at the broker. Nothing here waits but [`Wire::poll`], and
//! nothing outlives the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::task::unconstrained;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::dialer::{Dialer, Stream};
use super::explanations::Failure;
use super::packets::{Accepted, Event, LARGEST_PACKET, READ_STEP, Subscription, Version, out_of_place};
use crate::local::Publication;

/// Publishes in flight at most: 20 to 100 reach Mosquitto's full rate, more only add latency.
pub(super) const WINDOW: u16 = 100;
/// The packet ids of publishes go up to here: one more than the window, for the farewell. Those of other requests lie above.
pub(super) const LAST_PUBLISH_ID: u16 = WINDOW + 1;
/// For the whole of TCP, TLS and CONNACK.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// With so many bytes waiting to be written, what can wait should. One packet of any size goes beyond it.
const ROOM: usize = 64 * 1024;
/// What is read at once at least.
const READ_AT_LEAST: usize = 1024;
/// Memory is taken for so many bytes that may come.
const READ_AHEAD: usize = 8 * 1024;
/// At the end of a connection no more is read than this: a window's PUBACKs and messages among them.
const HARVEST: usize = 64 * 1024;

type Opened = (Box<dyn Stream>, BytesMut, Accepted);

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send>>),
    Open(Open),
}

struct Open {
    stream: Box<dyn Stream>,
    /// Its moments are the keep alive's.
    ticks: Interval,
    /// What has to come before the next of them.
    awaits: Option<Awaited>,
    /// How much of what is to be written was written.
    written: usize,
    /// The stream may hold some of that: TLS does.
    unflushed: bool,
}

/// A sign of life.
#[derive(PartialEq, Eq)]
enum Awaited {
    Pong,
    /// That something of what waits is taken.
    Room,
}

/// What ended a wait.
enum Turn {
    Came,
    Written,
    Tick,
}

pub(super) struct Wire<V> {
    dialer: Arc<Dialer>,
    state: State,
    /// What came and was not handed out yet.
    came: BytesMut,
    /// What is to be written.
    unsent: BytesMut,
    /// The largest packet the broker takes.
    largest: usize,
    /// The packet id of the last SUBSCRIBE or UNSUBSCRIBE.
    request: u16,
    /// A packet could not be made.
    failed: Option<Failure>,
    version: PhantomData<fn() -> V>,
}

impl<V: Version> Wire<V> {
    pub(super) fn open(dialer: &Arc<Dialer>) -> Self {
        Self {
            dialer: Arc::clone(dialer),
            state: State::Opening(Box::pin(open::<V>(Arc::clone(dialer)))),
            came: BytesMut::new(),
            unsent: BytesMut::new(),
            largest: LARGEST_PACKET,
            request: LAST_PUBLISH_ID,
            failed: None,
            version: PhantomData,
        }
    }

    /// Whether there is room for more to send. If not, it comes back by [`Event::Written`] at the latest.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < ROOM
    }

    /// Whether all that was to be sent is written.
    pub(super) fn is_written(&self) -> bool {
        self.unsent.is_empty() && !matches!(&self.state, State::Open(open) if open.unflushed)
    }

    /// `pkid` is of 1 to [`LAST_PUBLISH_ID`], and not in flight.
    pub(super) fn publish(&mut self, pkid: u16, publication: &Publication, expiry: Option<u32>) {
        self.put(&V::publish(pkid, publication, expiry));
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

    pub(super) fn disconnect(&mut self) {
        self.put(&V::disconnect());
    }

    fn next_request(&mut self) -> u16 {
        self.request = self.request.checked_add(1).unwrap_or(LAST_PUBLISH_ID + 1);
        self.request
    }

    fn put(&mut self, packet: &V::Packet) {
        let before = self.unsent.len();
        if let Err(failure) = V::write(packet, self.largest, &mut self.unsent) {
            self.unsent.truncate(before);
            self.failed.get_or_insert(failure);
        }
    }

    /// Drives the connection to its next event; not to be called again after a failure. Cancel-safe: what was read, what is to
    /// be written and how far the opening has come are kept here.
    pub(super) async fn poll(&mut self) -> Result<Event, Failure> {
        if let State::Opening(opening) = &mut self.state {
            let (stream, came, accepted) = opening.await?;
            self.came = came;
            self.largest = accepted.maximum_packet.min(LARGEST_PACKET);
            let mut ticks = interval_at(Instant::now() + accepted.keep_alive, accepted.keep_alive);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.state = State::Open(Open { stream, ticks, awaits: None, written: 0, unflushed: false });
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
                Turn::Tick if self.tick()? => return Ok(Event::PingSent),
                Turn::Came | Turn::Tick => {}
            }
        }
    }

    /// The next event of those that came; [`Wire::poll`] brings more.
    pub(super) fn take_event(&mut self) -> Result<Option<Event>, Failure> {
        match decode::<V>(&mut self.came, &self.dialer)? {
            Some(Event::Ended(failure)) => Err(failure),
            Some(Event::Connected(_)) => Err(out_of_place()),
            event => {
                if let (Some(Event::PingAnswered), State::Open(open)) = (&event, &mut self.state) {
                    open.awaits.take_if(|awaited| *awaited == Awaited::Pong);
                }
                Ok(event)
            }
        }
    }

    /// Writes what can be written, reads what can be read.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, Failure>> {
        let writes = !self.is_written();
        let State::Open(open) = &mut self.state else { return Poll::Pending };
        // Right before it is written: what waits here was made while we still led.
        if writes && !self.dialer.config.lease.holds() {
            return Poll::Ready(Err(Failure::Closed));
        }
        // First, so that no flood puts it off.
        if open.ticks.poll_tick(cx).is_ready() {
            return Poll::Ready(Ok(Turn::Tick));
        }
        let written = if writes { open.write(&mut self.unsent, cx) } else { Poll::Pending };
        if let Poll::Ready(Ok(())) = written {
            return Poll::Ready(Ok(Turn::Written));
        }
        // After a failed write too: what had come counts.
        let failure = match (open.read(&mut self.came, cx), written) {
            (Poll::Ready(Ok(0)), _) => Failure::Closed,
            (Poll::Ready(Ok(_)), _) => return Poll::Ready(Ok(Turn::Came)),
            (Poll::Ready(Err(error)), _) | (Poll::Pending, Poll::Ready(Err(error))) => self.dialer.explain().io(&error),
            (Poll::Pending, _) => return Poll::Pending,
        };
        Poll::Ready(Err(failure))
    }

    /// A keep alive has passed. Asks for a sign of life, unless there is something to write all the time: that the broker takes
    /// it is such a sign. Returns whether a PINGREQ is sent.
    fn tick(&mut self) -> Result<bool, Failure> {
        let writes = !self.is_written();
        let State::Open(open) = &mut self.state else { return Ok(false) };
        if open.awaits.is_some() {
            return Err(self.dialer.explain().stalled());
        }
        open.awaits = Some(if writes { Awaited::Room } else { Awaited::Pong });
        if !writes {
            self.put(&V::ping());
        }
        Ok(!writes)
    }

    /// The connection has ended, and not by what came: what else had come before and was not handed out yet.
    pub(super) fn harvest(&mut self) -> Vec<Event> {
        let State::Open(open) = &mut self.state else { return Vec::new() };
        // Without tokio's budget, which may be used up; what is there is read, nothing is waited for.
        let mut read = || unconstrained(poll_fn(|cx| open.read(&mut self.came, cx))).now_or_never();
        let mut total = 0;
        while let Some(Ok(n @ 1..)) = read() {
            total += n;
            if total >= HARVEST {
                break;
            }
        }
        std::iter::from_fn(|| decode::<V>(&mut self.came, &self.dialer).ok().flatten()).collect()
    }
}

impl Open {
    /// Ready once all is written.
    fn write(&mut self, unsent: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = unsent.get(self.written..) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
            self.awaits.take_if(|awaited| *awaited == Awaited::Room);
        }
        unsent.clear();
        self.written = 0;
        // What a giant took is given back.
        if unsent.capacity() > ROOM {
            *unsent = BytesMut::new();
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        self.awaits.take_if(|awaited| *awaited == Awaited::Room);
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, came: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if came.is_empty() && came.capacity() > 2 * READ_STEP {
            *came = BytesMut::new();
        }
        if came.capacity() - came.len() < READ_AT_LEAST {
            came.reserve(READ_AHEAD);
        }
        pin!(self.stream.read_buf(came)).poll(cx)
    }
}

async fn open<V: Version>(dialer: Arc<Dialer>) -> Result<Opened, Failure> {
    let opening = async {
        let failed = |error: io::Error| dialer.explain().io(&error);
        let mut stream = dialer.connect().await?;
        // The same client id: it would end the connection of whoever leads now.
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

/// rumqttc may panic on what a hostile broker sends. That connection is given up like any other.
fn decode<V: Version>(came: &mut BytesMut, dialer: &Dialer) -> Result<Option<Event>, Failure> {
    catch_unwind(AssertUnwindSafe(|| V::read(came, dialer)))
        .unwrap_or_else(|_panic| Err(Failure::Undecodable("a packet that cannot be decoded".to_owned())))
}

#[cfg(test)]
mod tests;
