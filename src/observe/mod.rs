//! What the parts record while they work: log lines, counters, recent messages, signs of life.
//!
//! The parts are above this room and fill it; [`crate::operate`] is above the parts and shows it.

pub mod activity;
pub mod counters;
pub mod log;
pub mod progress;
