//! Honest and discreet: every failure is shown with its cause and remedy, and nothing shows a secret.

mod canary;
mod debug;
mod modes;
mod panics;
mod secret_errors;
mod secret_peers;
mod secrets;
