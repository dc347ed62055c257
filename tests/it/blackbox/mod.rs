//! The contract with the users, seen from outside: real processes, a real broker, the simulated service.

mod callback;
mod callers;
mod codes;
mod commands;
mod delivery;
mod durability;
mod fairness;
mod faults;
mod for_now;
mod lifecycle;
mod names;
mod outages;
mod proxy;
mod pushes;
mod rejections;
mod results;
mod rights;
mod security;
mod set_aside;
mod smoke;
mod state;
pub(crate) mod states;
mod tries;
mod verbs;
pub(crate) mod world;
