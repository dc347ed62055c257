//! What a service manager of systemd's kind hands to a daemon, and what it wants to hear from it.
//!
//! Listening sockets come in ([`Sockets`]), so that connections wait while the daemon is replaced; its state goes out
//! ([`Notifier`]). Without a service manager all of it does nothing.

mod notify;
mod sockets;

pub use notify::{Notifier, watch};
pub use sockets::{Sockets, SocketsError};
