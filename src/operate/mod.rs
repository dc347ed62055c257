//! What the operator sees of a running bridge, and what they ask of it: its state in one piece ([`status`]), over HTTP
//! ([`admin`]), on the control socket ([`control`]), what is set aside ([`set_aside`]), the leadership of a cluster ([`step_down`]), and towards a
//! service manager ([`systemd`]).

pub mod admin;
pub mod control;
pub mod set_aside;
pub mod status;
pub mod step_down;
pub mod systemd;
