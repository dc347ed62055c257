//! The sockets the daemon listens on: its own, or those that a service manager handed over.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tracing::info;

use super::error::AppError;
use crate::config::Config;
use crate::http::listener;
use crate::operate::systemd::Sockets;

pub(super) fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, AppError> {
    listener::bind(address).map_err(|source| AppError::Listen { what: format!("{key} = \"{address}\""), source })
}

/// The callback's and the admin's listening sockets: what the service manager handed over, else our own.
pub(super) fn open(
    config: &Config,
    sockets: Sockets,
) -> Result<(TcpListener, Option<(TcpListener, SocketAddr)>), AppError> {
    let adopt = |what: &str, socket: std::net::TcpListener| {
        let failed = |source| AppError::Listen { what: format!("the service manager's socket `{what}`"), source };
        let listener = listener::adopt(socket).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        info!(%at, "listening on a socket of the service manager's, not on {what}.listen");
        Ok((listener, at))
    };
    let callback = match sockets.callback {
        Some(socket) => adopt("callback", socket)?.0,
        None => bind("callback.listen", config.callback.listen)?,
    };
    let admin = match (sockets.admin, config.admin.listen) {
        (Some(socket), _) => Some(adopt("admin", socket)?),
        (None, Some(address)) => Some((bind("admin.listen", address)?, address)),
        (None, None) => None,
    };
    match &admin {
        Some((_, at)) if !config.admin.may_listen_on(at.ip()) => Err(AppError::Config(format!(
            "admin.token is not set: the socket `admin` of the service manager is on {at}, which is not loopback"
        ))),
        _ => Ok((callback, admin)),
    }
}
