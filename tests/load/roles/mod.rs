//! What this program does as a process of its own, for itself.

pub(crate) mod cloud;
pub(crate) mod least;
pub(crate) mod naive;
pub(crate) mod subscriber;
