//! The durable queues: what is accepted is stored here before its sender is answered, and stays until it is completed.
//!
//! [`sqlite`] is the store there is.

pub mod sqlite;

pub use sqlite::{
    Counters, Key, Limits, MAX_COMMANDS, NotStored, OpenError, Queue, QueueStats, ROW_OVERHEAD, Recovered, Row, Spool,
    SpoolError, WhyNot,
};
