//! What operators see of a running bridge, and what they can ask of it: its state ([`status`]), shown over HTTP ([`admin`]) and
//! on the control socket ([`control`]); what is set aside ([`set_aside`]); handing over the leadership of a cluster
//! ([`step_down`]); and the service manager ([`systemd`]).

pub mod admin;
pub mod control;
pub mod set_aside;
pub mod status;
pub mod step_down;
pub mod systemd;
