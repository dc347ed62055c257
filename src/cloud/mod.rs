//! The connection to iLink. [`Client`] makes one POST with a typed outcome. [`Session`] keeps registration and token
//! valid, so that calls are possible.
//!
//! Place in the flow: the deliver loop makes each call by [`Session::call_through`]. The callback notes every handshake
//! in the [`HandshakeLog`], from which the session explains a failed registration. Only the session registers the
//! callback, asks for access tokens, keeps the configured subscriptions, and decides when nothing may be called.
//! [`session`] describes its states and what it does about each result code.
//!
//! It does not queue, repeat or expire commands, and it knows nothing of MQTT or the spool.

mod cause;
mod client;
mod handshakes;
pub mod http;
mod redact;
pub mod session;
mod transport;

pub use client::{Client, ClientConfig, ClientError, Post};
pub use handshakes::{Handshake, HandshakeLog};
#[cfg(test)]
pub(crate) use session::tests::Record;
pub use session::{
    ClosedEndpoint, CloudState, ConfigQuota, Door, Doors, Endpoint, Gate, Outcome, RegisterPolicy, Registry, Session,
    SessionConfig, Status, start,
};
pub use transport::{Backoff, Executed, MAX_RETRY_AFTER, Timing, TransportError};
