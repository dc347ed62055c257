//! `[callback]`: the listener that iLink pushes to, and its registration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::reader::{Failed, Reader};
use super::urls::{self, MaskedUrl};
use super::values::{Size, any, within, words};
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

words! {
    Register { IfNeeded = "if_needed", Always = "always", Never = "never" }
    Repeats { Unanswered = "unanswered", Off = "off" }
}

/// 22 characters of this alphabet hold 132 bits if they are random.
const SHORTEST_SECRET: usize = 22;
const LONGEST_SECRET: usize = 128;

/// `callback.path_secret`: one path segment that nobody guesses.
pub(crate) fn check_path_secret(secret: &str) -> Result<(), String> {
    let fits = (SHORTEST_SECRET..=LONGEST_SECRET).contains(&secret.len());
    if fits && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Ok(());
    }
    Err(format!(
        "it must be {SHORTEST_SECRET} to {LONGEST_SECRET} letters, digits, '-' or '_', at random (128 bits and more)"
    ))
}

/// `callback.token` (§3.1 of the manual).
pub(crate) fn check_token(token: &str) -> Result<(), String> {
    if (3..=32).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err("it must be 3 to 32 ASCII letters and digits".to_owned())
}

impl Callback {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        const OFTENEST: Duration = Duration::from_secs(1);
        const RAREST: Duration = Duration::from_hours(30 * 24);
        let listen = reader.or("callback.listen", "0.0.0.0:8787", any);
        let wanted = "the URL at which iLink reaches callback.listen, such as https://bridge.example.org";
        let public_url = reader.required("callback.public_url", wanted, urls::public);
        let register = reader.or("callback.register", "if_needed", any);
        let token = reader.secret("callback.token", check_token);
        let path_secret = reader.secret("callback.path_secret", check_path_secret);
        let verify_every = reader.or("callback.verify_every", "6h", within(OFTENEST..=RAREST));
        let cert = reader.file("callback.tls.cert");
        let key = reader.file("callback.tls.key");
        let allow = reader.or("callback.allow", "[]", any);
        let trusted_proxies = reader.or("callback.trusted_proxies", "[]", any);
        let signature = reader.or("callback.signature", "any", any);
        let max_body = reader.or("callback.max_body", "1MiB", within(Size(1 << 10)..=Size(64 << 20)));
        let repeats = reader.or("callback.repeats", "unanswered", any);
        let strict_to_uid = reader.or("callback.strict_to_uid", "false", any);
        let register = register?;
        let (token, path_secret) = (token?, path_secret?);
        if register == Register::Never {
            for (key, value) in [("callback.token", &token), ("callback.path_secret", &path_secret)] {
                if value.is_none() {
                    reader.missing(key, "callback.register = \"never\" needs the value that was registered");
                }
            }
        }
        let tls = match (cert?, key?) {
            (Some(cert), Some(key)) => Some(CallbackTls { cert, key }),
            (None, None) => None,
            _ => return Err(reader.conflict("callback.tls.cert and callback.tls.key need each other".to_owned())),
        };
        Ok(Self {
            listen: listen?,
            public_url: public_url?,
            register,
            token,
            path_secret,
            verify_every: verify_every?,
            tls,
            allow: allow?,
            trusted_proxies: trusted_proxies?,
            signature: signature?,
            max_body: max_body?.bytes(),
            repeats: repeats?,
            strict_to_uid: strict_to_uid?,
        })
    }
}
