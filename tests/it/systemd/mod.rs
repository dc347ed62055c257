//! The bridge under a service manager of systemd's kind: what it says, the sockets it is handed, the units we ship.

mod notify;
mod sockets;
