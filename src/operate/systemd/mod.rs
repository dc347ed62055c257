//! The interface to systemd and compatible service managers.
//!
//! Listening sockets come in ([`Sockets`], `sd_listen_fds(3)`): connections wait in them while one process of ours replaces
//! another. `LISTEN_FDNAMES` tells which is which: `callback` or `admin`; a single socket with neither name is the callback's.
//! The daemon's state goes out ([`Notifier`]). Without a service manager none of it does anything.

mod notify;

use std::net::TcpListener;

use listenfd::ListenFd;

pub use notify::{Notifier, watch};

/// What was handed over.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Used instead of `callback.listen`.
    pub callback: Option<TcpListener>,
    /// Used instead of `admin.listen`.
    pub admin: Option<TcpListener>,
}

/// What was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// Two for one purpose, or one for none.
    #[error(
        "the sockets handed over by the service manager are called {0:?}: give one FileDescriptorName=callback, and at most \
         one more FileDescriptorName=admin"
    )]
    Names(Vec<String>),
    /// Not what it has to be.
    #[error(
        "the socket `{name}` handed over by the service manager cannot be used ({cause}): it must be ListenStream= with a TCP port, and Accept=no"
    )]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        cause: String,
    },
}

impl Sockets {
    /// Takes what this process was handed. To be called once, while the process has one thread: the environment is tidied up,
    /// so that children take nothing for theirs.
    ///
    /// # Errors
    /// If something was handed over that cannot be what it should be.
    pub fn take() -> Result<Self, SocketsError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        // Inherited by accident: they were another process's.
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Ok(Self::default());
        }
        let names = variable("LISTEN_FDNAMES");
        let mut handed = ListenFd::from_env();
        let mut sockets = Self::default();
        for (at, role) in roles(&names, handed.len())?.into_iter().enumerate() {
            let unusable = |cause: String| SocketsError::Unusable { name: role.name().to_owned(), cause };
            let socket = handed.take_tcp_listener(at).map_err(|error| unusable(error.to_string()))?;
            if let Some(socket) = &socket
                && !rustix::net::sockopt::socket_acceptconn(socket).map_err(|error| unusable(error.to_string()))?
            {
                return Err(unusable("it does not listen".to_owned()));
            }
            match role {
                Role::Callback => sockets.callback = socket,
                Role::Admin => sockets.admin = socket,
            }
        }
        Ok(sockets)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Callback,
    Admin,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Admin => "admin",
        }
    }
}

/// What each of `count` sockets is for.
fn roles(names: &str, count: usize) -> Result<Vec<Role>, SocketsError> {
    let names: Vec<&str> = if names.is_empty() { Vec::new() } else { names.split(':').collect() };
    let roles: Option<Vec<Role>> = (0..count)
        .map(|at| match names.get(at).copied().unwrap_or_default() {
            "callback" => Some(Role::Callback),
            "admin" => Some(Role::Admin),
            _ if count == 1 => Some(Role::Callback),
            _ => None,
        })
        .collect();
    let twice = |roles: &[Role]| {
        [Role::Callback, Role::Admin].iter().any(|role| roles.iter().filter(|other| *other == role).count() > 1)
    };
    match roles {
        Some(roles) if !twice(&roles) => Ok(roles),
        _ => Err(SocketsError::Names(names.into_iter().map(str::to_owned).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_known_by_name_and_one_alone_without() {
        use Role::{Admin, Callback};
        for (names, count, expected) in [
            ("", 0, Some(vec![])),
            ("", 1, Some(vec![Callback])),
            ("ilink2mqtt.socket", 1, Some(vec![Callback])),
            ("admin", 1, Some(vec![Admin])),
            ("callback:admin", 2, Some(vec![Callback, Admin])),
            ("admin:callback", 2, Some(vec![Admin, Callback])),
            ("callback:callback", 2, None),
            ("callback:other", 2, None),
            ("", 2, None),
            ("callback:admin:callback", 3, None),
        ] {
            assert_eq!(roles(names, count).ok(), expected, "{names} {count}");
        }
    }
}
