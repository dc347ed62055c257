//! The way to iLink: one POST with a typed outcome ([`Client`]), and the session that keeps calls possible ([`Session`]).
//!
//! Place in the flow: the deliver loop hands each command to [`Session::call`]; the callback notes every handshake in the
//! [`HandshakeLog`], from which the session explains a registration that failed. The session alone registers the callback,
//! asks for access tokens, keeps the configured subscriptions, and decides when nothing may be called: see
//! [`session`] for its states and for what it does about each result code.
//!
//! It does not queue, repeat or expire commands, and it knows nothing of MQTT or of the spool.

mod cause;
mod client;
mod handshakes;
pub mod http;
mod redact;
pub mod session;
mod transport;

pub use client::{Client, ClientConfig, ClientError, Post};
pub use handshakes::{Handshake, HandshakeLog};
pub use session::{
    ClosedEndpoint, CloudState, ConfigQuota, Door, Doors, Endpoint, Gate, Outcome, RegisterPolicy, Registry, Session,
    SessionConfig, Status, start,
};
pub use transport::{Backoff, Executed, MAX_RETRY_AFTER, Timing, TransportError};
