//! The way to iLink: what the client makes of a server that misbehaves, and the session against the simulated service.
//!
//! The reaction to each result code is tested beside the session, on the paused clock.

mod client;
mod odd_answers;
mod session;
