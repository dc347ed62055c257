//! Integration tests: one file per walkthrough, one binary, so that they share their support and link once.

mod blackbox;
mod cloud;
mod link;
mod sim;
mod spool;
mod support;
