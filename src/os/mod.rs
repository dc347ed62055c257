//! The operating system and the runtime: clocks, files, tasks, signals, certificate files, causes of errors.
//!
//! Every room may use it; it uses no other room.

pub mod causes;
pub mod clock;
pub mod files;
pub mod lease;
pub mod tasks;
pub mod tls;
