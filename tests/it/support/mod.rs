//! What the integration tests share: the real broker, the real binary, clients.

// Each walkthrough uses its own part of this.
#![allow(dead_code, reason = "a helper used by one walkthrough only today is still a helper")]

pub(crate) mod mosquitto;
