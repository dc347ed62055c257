//! MQTT → iLink: accept a command, the deliver loop, results.
//!
//! A command's way through the files here:
//!
//! 1. **accept**: [`accept`] decodes the message, recognises the broker's redeliveries, and refuses with a result;
//! 2. **make durable**: it appends the command to the spool ([`record`]), unless its client has its share of it ([`shares`]);
//! 3. **answer the sender**: the PUBACK, in arrival order;
//! 4. **deliver**: [`deliver`] takes the lanes in turn ([`lanes`]) and calls iLink ([`attempt`]), through a gate that looks at
//!    the deadline and marks the command as sent (`gate`); one commit replaces the command by its result;
//! 5. **complete**: [`results`] publishes the result and removes the row once the broker has acknowledged it.
//!
//! What devices publish on topics of their own becomes commands by the routes (`storing`, [`route_book`]), and goes the same
//! way from step 2 on.
//!
//! On start a result row is published; a command becomes `uncertain` if it may have been executed and must not be tried again;
//! anything else is delivered.

pub mod accept;
pub mod attempt;
#[cfg(test)]
mod day;
pub mod deliver;
mod gate;
pub mod lanes;
pub mod record;
pub mod redelivery;
pub mod results;
pub mod route_book;
pub mod shares;
mod storing;
