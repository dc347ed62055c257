//! Detects that a whole answer was handed to the socket.
//!
//! iLink repeats a push exactly when it got no answer, so the bridge must know whether it gave one. hyper does not
//! report this. But it polls the response body first, then writes, and flushes the stream only when its own buffer is
//! empty. So the body arms the connection when it yields its last bytes, and the stream's next successful flush means:
//! answered.
//!
//! This module knows connections and bytes, not pushes. What follows from an answer is in the [`OnAnswered`] that came
//! with it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::os::lock;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What to do once the answer has left.
pub type OnAnswered = Box<dyn FnOnce() + Send>;

/// The one answer a connection may be waiting to see flushed.
#[derive(Clone, Default)]
pub struct Armed(Arc<Mutex<Option<OnAnswered>>>);

impl Armed {
    fn arm(&self, action: OnAnswered) {
        *lock(&self.0) = Some(action);
    }

    fn fire(&self) {
        let action = lock(&self.0).take();
        if let Some(action) = action {
            action();
        }
    }
}

/// A response body of at most one frame that arms its connection when it has been taken.
pub struct Answer {
    bytes: Option<Bytes>,
    on_answered: Option<(Armed, OnAnswered)>,
}

impl Answer {
    /// A plain body.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { bytes: (!bytes.is_empty()).then_some(bytes), on_answered: None }
    }

    /// This body, with something to do once it has left through the connection `armed` belongs to.
    #[must_use]
    pub fn then(mut self, armed: &Armed, action: OnAnswered) -> Self {
        self.on_answered = Some((armed.clone(), action));
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = self.bytes.take();
        if frame.is_some()
            && let Some((armed, action)) = self.on_answered.take()
        {
            armed.arm(action);
        }
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A stream that fires its connection's armed action when a flush succeeds.
pub struct Watched<S> {
    stream: S,
    armed: Armed,
}

impl<S> Watched<S> {
    /// Watches `stream` for the answers armed on `armed`.
    pub fn new(stream: S, armed: Armed) -> Self {
        Self { stream, armed }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.armed.fire();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
