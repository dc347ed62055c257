//! The sockets the daemon listens on: its own, or those passed by a service manager. Limits the connections of each, so that
//! clients can never use up the open files that the spool, the broker and the calls to iLink need.

use std::net::{SocketAddr, TcpListener as Socket};
use std::path::Path;

use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, info, warn};

use super::error::AppError;
use crate::config::Config;
use crate::operate::control;

use crate::http::listener::{self, LEAVING_AT_MOST};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(super) fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, AppError> {
    listener::bind(address).map_err(|source| AppError::Listen { what: format!("{key} = \"{address}\""), source })
}

fn adopt(what: &str, socket: Socket) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Listen { what: format!("the service manager's socket `{what}`"), source };
    let listener = listener::adopt(socket).map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    info!(%at, "listening on a socket of the service manager's, not on {what}.listen");
    Ok((listener, at))
}

/// The control socket, and the admin listener with its address.
pub(super) type AnsweringOn = (UnixListener, Option<(TcpListener, SocketAddr)>);

/// The callback's listening socket: what the service manager handed over, else our own.
pub(super) fn callback(config: &Config, handed: Option<Socket>) -> Result<TcpListener, AppError> {
    match handed {
        Some(socket) => Ok(adopt("callback", socket)?.0),
        None => bind("callback.listen", config.callback.listen),
    }
}

/// What [`super::tasks::Answering`] answers on: the control socket in the state directory, and the admin listener if there is one.
pub(super) fn answering(
    config: &Config,
    state_dir: &Path,
    admin_handed: Option<Socket>,
) -> Result<AnsweringOn, AppError> {
    let admin = admin(config, admin_handed)?;
    let control = control::bind(state_dir).map_err(|error| {
        AppError::State(format!(
            "the control socket {} cannot be opened: {error}",
            control::socket(state_dir).display()
        ))
    })?;
    Ok((control, admin))
}

/// The admin's listening socket, and where it listens; none if it is switched off.
fn admin(config: &Config, handed: Option<Socket>) -> Result<Option<(TcpListener, SocketAddr)>, AppError> {
    let admin = match (handed, config.admin.listen) {
        (Some(socket), _) => Some(adopt("admin", socket)?),
        (None, Some(address)) => Some((bind("admin.listen", address)?, address)),
        (None, None) => None,
    };
    match &admin {
        Some((_, at)) if !config.admin.may_listen_on(at.ip()) => Err(AppError::Config(format!(
            "admin.token is not set: the socket `admin` of the service manager is on {at}, which is not loopback"
        ))),
        _ => Ok(admin),
    }
}

/// Connections of both listeners on their way out, and with room to spare the spool, the link, the control socket.
const RESERVE: usize = 2 * LEAVING_AT_MOST + 64;
/// More are never needed: iLink holds one or two, the rest is strangers.
const CALLBACK_AT_MOST: usize = 1000;
const ADMIN_AT_MOST: usize = 32;
/// With fewer the process would not be of use.
const AT_LEAST: usize = 8;

/// The most connections of each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Of `callback.listen`.
    pub(super) callback: usize,
    /// Of `admin.listen`.
    pub(super) admin: usize,
}

/// Raises the process's own limit as far as it may: most systems start processes with a low one for the sake of programs
/// from long ago.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        debug!(%error, "the limit of open files stays as it is");
    }
}

/// Each listener's share, when `calls` are made to iLink at once.
#[must_use]
pub(super) fn shares(calls: usize) -> Shares {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    shares_of(limit.unwrap_or(usize::MAX), calls)
}

/// Says so if the limit leaves far less than the callback would use.
pub(super) fn warn_if_few(calls: usize) {
    let Shares { callback, .. } = shares(calls);
    if callback < CALLBACK_AT_MOST / 2 {
        warn!(
            connections = callback,
            "the limit of open files (LimitNOFILE=, ulimit -n) leaves the callback fewer connections than the {CALLBACK_AT_MOST} it would use"
        );
    }
}

fn shares_of(limit: usize, calls: usize) -> Shares {
    let spare = limit.saturating_sub(RESERVE).saturating_sub(calls);
    let admin = (spare / 8).clamp(AT_LEAST, ADMIN_AT_MOST);
    Shares { admin, callback: spare.saturating_sub(admin).clamp(AT_LEAST, CALLBACK_AT_MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listeners_leave_the_reserve_alone() {
        assert_eq!(shares_of(usize::MAX, 8), Shares { callback: 1000, admin: 32 });
        assert_eq!(shares_of(1024, 8), Shares { callback: 856, admin: 32 });
        for limit in 200..2000 {
            let Shares { callback, admin } = shares_of(limit, 8);
            assert!(callback + admin + RESERVE + 8 <= limit, "{limit}");
        }
        assert_eq!(shares_of(0, 8), Shares { callback: AT_LEAST, admin: AT_LEAST });
    }
}
