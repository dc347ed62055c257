//! The simulated service, driven over HTTP as a client of the real one would drive it, with a callback of the test's own.

mod account;
mod calls;
mod control;
mod harness;
mod pushes;
