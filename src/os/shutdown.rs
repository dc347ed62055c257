//! Why and in which order the bridge stops.
//!
//! The first SIGTERM or SIGINT asks for a clean stop; a second one ends the process at once. A part that ends unasked stops
//! the process too, with a failure. The order is `app`'s; the tokens it cancels one after the other are here.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// One token for each step of the stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
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
    /// The callback closes, last: until here pushes are made durable.
    pub callback: CancellationToken,
    /// The callback is cut, first, because a part has failed: nobody is told any more that a push is safe.
    pub callback_at_once: CancellationToken,
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
        while signals.asked().await != Asked::Stop {}
    }
    stop.cancel();
}
