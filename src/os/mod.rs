//! What the operating system and the runtime have for us: clocks, files, tasks, signals, certificates in files.
//!
//! Everything may use it; it uses nothing of ours.

pub mod clock;
pub mod files;
pub mod tasks;
pub mod tls;
