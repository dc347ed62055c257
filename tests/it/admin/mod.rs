//! The admin listener, as an operator's tools see it.

#![expect(clippy::float_cmp, reason = "counts, which floats hold exactly")]

mod browser;
mod chromium;
mod ingress;
mod logs;
pub(crate) mod metrics;
mod page;
pub(crate) mod prometheus;
mod sse;
