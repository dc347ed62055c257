//! HTTP for a network that is not trusted: the bounded listener that the callback and the admin pages share.

mod admission;
pub mod answered;
pub mod listener;
