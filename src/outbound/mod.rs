//! MQTT → iLink: accepting commands, the deliver loop, results.
//!
//! A command's way through the files:
//!
//! 1. **accept**: [`accept`] decodes the message, recognises the broker's redeliveries, and refuses with a result;
//! 2. **make durable**: it appends the command to the spool ([`record`]), unless its client fills its share of the queue
//!    ([`intake`], [`shares`]); what is refused for now asks again in its turn;
//! 3. **answer the sender**: the PUBACK, in arrival order;
//! 4. **deliver**: [`deliver`] takes the lanes in turn ([`lanes`]) and calls iLink ([`attempt`]). Right before each request,
//!    `gate` checks the deadline and marks the command as sent. One commit replaces the command by its result;
//! 5. **complete**: [`results`] publishes the result and removes the row once the broker has acknowledged it.
//!
//! Routes make commands of what devices publish on their own topics (`storing`, [`route_book`], `crossings`), and answers to
//! messages from iLink ([`replies`]). From step 2 on these go the same way.
//!
//! At the start, results in the spool are published. A command that may have been executed and must not be tried again becomes
//! `uncertain`; all others are delivered.

pub mod accept;
pub mod attempt;
mod crossings;
#[cfg(test)]
mod day;
pub mod deliver;
mod gate;
pub mod intake;
pub mod lanes;
pub mod record;
pub mod redelivery;
pub mod replies;
pub mod results;
pub mod route_book;
pub mod shares;
mod storing;
#[cfg(test)]
mod tests;
