//! What the parts write down while they work, for whoever looks on: log lines, counters, recent messages, signs of life.
//!
//! It is below the parts, which fill it; [`crate::operate`] is above them and shows it.

pub mod activity;
pub mod counters;
pub mod log;
pub mod progress;
