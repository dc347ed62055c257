//! Honest and discreet: every failure is shown with its cause and remedy, and nothing shows a secret.

mod broker_states;
mod canary;
mod cloud_states;
mod debug;
mod modes;
mod own_states;
mod panics;
mod secret_errors;
mod secret_peers;
mod secrets;
mod shown;
