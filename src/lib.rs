//! ilink2mqtt makes iLink, an IoT and instant-messaging cloud, and a local MQTT broker one system.
//!
//! Both directions are the same five steps: **accept → make durable → answer the sender → deliver → complete.**

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod control;
pub mod counters;
pub mod demo;
pub mod inbound;
pub mod local;
pub mod log;
pub mod mqtt;
pub mod outbound;
pub mod progress;
pub mod protocol;
pub mod report;
pub mod set_aside;
pub mod shutdown;
pub mod sim;
pub mod spool;
pub mod state_dir;
pub mod tls;
