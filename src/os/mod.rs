//! The operating system and the runtime: clocks, files, tasks, signals, certificate files, causes of errors.
//!
//! Every room may use it; it uses no other room.

pub mod causes;
pub mod clock;
pub mod files;
pub mod lease;
pub mod tasks;
pub mod tls;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, also if somebody panicked while it was locked: a panic ends the process anyway, and until then what is kept so is as
/// good as before.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
