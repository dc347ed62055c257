//! What the fuzzer runs: one function for each boundary at which bytes of others come in.
//!
//! Each takes any bytes and panics if the bridge does not keep what it promises for them: nothing panics, nothing is
//! published that no broker takes, what was encoded is decoded again, no secret is shown. The same functions run over the
//! committed inputs in the ordinary tests (`tests/it/fuzz.rs`), so a finding stays fixed without a fuzzer.

pub mod callback;
pub mod command;
pub mod config;
mod input;
pub mod push;
pub mod reply;
pub mod stored;
pub mod topic;

/// A target.
pub type Target = fn(&[u8]);

/// Every target and its name; the directories of the inputs are called so too.
pub const TARGETS: [(&str, Target); 7] = [
    ("callback", callback::run),
    ("command", command::run),
    ("config", config::run),
    ("push", push::run),
    ("reply", reply::run),
    ("stored", stored::run),
    ("topic", topic::run),
];
