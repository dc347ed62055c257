//! What operators see of a running bridge, and what they can ask of it: its state ([`status`]), shown over HTTP ([`admin`]) and
//! on the control socket ([`control`]); what is set aside ([`set_aside`]); and the service manager ([`systemd`]).

pub mod admin;
pub mod control;
pub mod set_aside;
pub mod status;
pub mod systemd;
