//! `[callback]`: the listener that iLink pushes to, and its registration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::values::MaskedUrl;
use crate::protocol::Accepted;

/// The listener that iLink pushes to.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Address of the listener.
    pub listen: SocketAddr,
    /// How iLink reaches the listener, without the secret.
    pub public_url: MaskedUrl,
    /// When to call `set_config`.
    pub register: Register,
    /// Handshake token that overrides the state directory's.
    pub token: Option<SecretString>,
    /// Path secret that overrides the state directory's.
    pub path_secret: Option<SecretString>,
    /// How often the registration is queried.
    pub verify_every: Duration,
    /// `callback.tls`: without it the listener speaks plain HTTP.
    pub tls: Option<CallbackTls>,
    /// Who may talk to the listener; empty: anybody.
    pub allow: Vec<IpNet>,
    /// Whose `X-Forwarded-For` is believed; empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// Which handshake signatures are accepted.
    pub signature: Accepted,
    /// Largest body of a push, in bytes.
    pub max_body: usize,
    /// Whether repeats of unanswered pushes are recognised.
    pub repeats: Repeats,
    /// Whether a push to another uid is refused (403) instead of counted.
    pub strict_to_uid: bool,
}

/// Certificate and key of the callback listener (PEM files).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// When the callback URL is registered at iLink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Only if it is not known to be registered.
    IfNeeded,
    /// At every start.
    Always,
    /// Never: an operator did it, with the configured token and path secret.
    Never,
}

/// Whether repeats of unanswered pushes are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// A byte-identical push within 60 s of one that was not answered is that one.
    Unanswered,
    /// Every push is a new message.
    Off,
}
