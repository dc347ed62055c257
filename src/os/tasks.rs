//! How tasks end: by a fault, by a signal, and in which order.
//!
//! The first SIGTERM or SIGINT asks for a clean stop; the second ends the process at once. A part that ends unasked
//! stops the process too, with a failure. `app` decides the order; the tokens that it cancels one after the other are
//! here.
//!
//! A part watches the tasks that it spawns, as [`Children`]. A panic in one of them ends the part as well, and by its
//! supervisor the process. Unwatched, it would leave a line in the log, and work that silently never happens.

use std::future::{Future, pending};
use std::panic::resume_unwind;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// One token for each step of the stop of what always runs. It ends after what leads has drained.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Everything that only observes, or answers who asks, ends.
    pub observers: CancellationToken,
    /// The callback closes, last: until here pushes are made durable.
    pub callback: CancellationToken,
    /// The callback is cut, first, because a part has failed: nobody is told any more that a push is safe.
    pub callback_at_once: CancellationToken,
}

/// One token for each step of the stop of what leads.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// No more commands are taken from the broker.
    pub commands: CancellationToken,
    /// The relay and deliver loops drain.
    pub loops: CancellationToken,
    /// Results drain, and everything that only observes ends.
    pub results: CancellationToken,
    /// The session with iLink ends.
    pub session: CancellationToken,
    /// The link says `offline` and disconnects.
    pub link: CancellationToken,
}

/// The signals the bridge reacts to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Stop cleanly.
    Stop,
    /// Read the configuration again.
    Reload,
}

impl Signals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next thing asked for. Cancel-safe.
    pub async fn asked(&mut self) -> Asked {
        // recv() of signals is cancel-safe.
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Resolves when a stop is asked for; a reload is left to [`Self::asked`]. Cancel-safe.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Ends the process at the next SIGTERM or SIGINT, as a shell would report it.
    pub fn end_at_the_next(mut self) {
        info!("stopping");
        tokio::spawn(async move {
            let number = tokio::select! {
                _ = self.terminate.recv() => 15,
                _ = self.interrupt.recv() => 2,
            };
            warn!("stopped at once by a second signal");
            std::process::exit(128 + number);
        });
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT; for the simulator, which has nothing to drain.
pub async fn cancel_on_signal(stop: CancellationToken) {
    if let Ok(mut signals) = Signals::listen() {
        signals.stop().await;
    }
    stop.cancel();
}

/// The tasks; they are aborted when this is dropped.
#[derive(Debug, Default)]
pub struct Children(JoinSet<()>);

impl Children {
    /// Spawns one more.
    pub fn spawn(&mut self, child: impl Future<Output = ()> + Send + 'static) {
        // Boxed, they are all of one kind: tokio's code for each kind is large.
        self.0.spawn(child.boxed());
    }

    /// How many there are, those included whose end was not noticed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notices the end of the next; waits while there is none. Cancel-safe.
    ///
    /// # Panics
    /// As it did.
    pub async fn ended(&mut self) {
        match self.0.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => fault(error),
            None => pending().await,
        }
    }

    /// Waits until all have ended.
    ///
    /// # Panics
    /// As one of them did.
    pub async fn all_ended(&mut self) {
        while !self.is_empty() {
            self.ended().await;
        }
    }
}

/// Passes the panic of a task on to who spawned it; never shows its message, which may quote anything.
///
/// # Panics
/// As the task did.
pub fn fault(error: JoinError) {
    if let Ok(fault) = error.try_into_panic() {
        resume_unwind(fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_in_a_child_is_its_parents() {
        let parent = tokio::spawn(async {
            let mut children = Children::default();
            children.spawn(async {});
            children.spawn(pending());
            children.ended().await;
            children.spawn(async { panic!("a fault") });
            children.ended().await;
        });
        assert!(parent.await.unwrap_err().is_panic());
        let mut none = Children::default();
        none.all_ended().await;
        assert!(none.is_empty());
    }
}
