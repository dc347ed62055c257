//! The contract with the users, seen from outside: real processes, a real broker, the simulated service.

mod smoke;
mod world;
