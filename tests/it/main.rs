//! Integration tests: one file per walkthrough, one binary, so that they share their support and link once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests; clippy's exception for tests does not reach their helpers"
)]

mod admin;
mod blackbox;
mod brokers;
mod bug_report;
mod checkup;
mod cloud;
mod demo;
mod disk;
mod fuzz;
mod homeassistant;
mod honest;
mod hostile_devices;
mod link;
mod messages;
mod routes;
mod setup;
mod sim;
mod spool;
mod support;
mod systemd;
