//! The bridge's vocabulary on MQTT: topics, envelopes, commands and results.
//!
//! It stands between [`protocol`](crate::protocol), whose types it takes and gives, and the adapters. Inbound, a decoded push
//! becomes [`Publication`]s ([`publications`]). Outbound, an MQTT message becomes a [`Command`] or a [`Rejection`]
//! ([`command::decode`]), and its outcome a [`CommandResult`].
//!
//! Nothing here has side effects: no sockets, files, clocks or randomness. The caller supplies ids and times.

mod calls;
pub mod command;
pub mod envelope;
pub mod escape;
pub mod filter;
pub mod homeassistant;
pub mod names;
mod picture;
pub mod publication;
pub mod result;
pub mod topics;

pub use command::{Command, Globs, Parsed, Reason, Reference, Rejection, Rules};
pub use envelope::{Flags, Output, Received, Shape, envelope_json, picture_of, publications};
pub use escape::BadTopic;
pub use homeassistant::{Contact, Discovery};
pub use names::{Nameable, Names};
pub use publication::Publication;
pub use result::{CommandResult, Status, response_topic_allowed};
pub use topics::{BadBase, Base, ResultTopics, recv_levels};

#[cfg(test)]
mod properties;
