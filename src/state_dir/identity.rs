//! `identity.json`: the two values by which iLink knows the bridge, made once, and what was last registered at iLink.
//!
//! Both values are on disk before anybody can use them: a secret that iLink has and the bridge forgot would lose every
//! push. For the same reason a damaged file is an error, and is never replaced by a new one. Values from the
//! configuration win over the file's and are not written to it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::config::{check_path_secret, check_token};
use crate::os::files::Files;

use super::random::{random_secret, random_token};
use crate::cloud::Registry;
use crate::os::lock;

/// The name of the file.
pub const FILE: &str = "identity.json";

/// Who we are to iLink, beside the account.
pub struct Identity {
    files: Files,
    overrides: Overrides,
    /// Held no longer than a look takes: also by those who must not wait.
    record: Mutex<Record>,
    /// Held while the file is read or written, which may take long.
    filing: Mutex<()>,
}

/// Values of the configuration that win over the file's.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `callback.token`.
    pub handshake_token: Option<SecretString>,
    /// `callback.path_secret`.
    pub path_secret: Option<SecretString>,
}

impl Overrides {
    /// Which of the values the bridge makes for itself.
    pub(super) fn not_set(&self) -> &'static str {
        match (&self.handshake_token, &self.path_secret) {
            (None, None) => "handshake token and callback secret",
            (None, Some(_)) => "handshake token",
            (Some(_), None) => "callback secret",
            (Some(_), Some(_)) => "",
        }
    }
}

/// What iLink confirmed to have registered, and for whom.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registered {
    /// Base URL of the API that confirmed it.
    api: String,
    appkey: String,
    uid: String,
    /// The callback URL with its secret.
    url: String,
    /// The handshake token.
    token: String,
}

/// The file's content.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    v: u32,
    handshake_token: String,
    path_secret: String,
    /// Accepted beside `path_secret` until iLink has confirmed that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_path_secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered: Option<Registered>,
    #[serde(default)]
    unregistered_by_operator: bool,
}

/// `identity.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is not what was written.
    #[error(
        "{} is damaged ({cause}): restore it from a backup. If there is none, move it away: a new callback secret is made at \
         the next start, and the callback is registered again",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        cause: String,
    },
    /// It cannot be read or written.
    #[error("{} cannot be {action}: {source}{}", path.display(), crate::os::files::remedy(source))]
    Inaccessible {
        /// Which.
        path: PathBuf,
        /// Read, or written.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The secret is the configuration's.
    #[error("the secret is set by callback.path_secret in the configuration: change it there, then register")]
    Configured,
}

impl Identity {
    /// Reads the identity, or makes one if there is none yet.
    ///
    /// # Errors
    ///
    /// If there is one that cannot be read, or a new one cannot be made durable.
    pub fn open(files: impl Into<Files>, overrides: Overrides) -> Result<Self, IdentityError> {
        let files = files.into();
        let record = match read(&files)? {
            Some(record) => record,
            None => make(&files, &overrides)?,
        };
        Ok(Self { files, overrides, record: Mutex::new(record), filing: Mutex::default() })
    }

    /// Reads it again: another member of the cluster may have changed it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not there; then what was read before stays in force.
    pub fn read_again(&self) -> Result<(), IdentityError> {
        let _filing = lock(&self.filing);
        if let Some(new) = read(&self.files)? {
            *lock(&self.record) = new;
        }
        Ok(())
    }

    /// The token that handshakes are signed with.
    #[must_use]
    pub fn handshake_token(&self) -> SecretString {
        self.overrides.handshake_token.clone().unwrap_or_else(|| lock(&self.record).handshake_token.as_str().into())
    }

    /// The last segment of the callback URL.
    #[must_use]
    pub fn path_secret(&self) -> SecretString {
        self.overrides.path_secret.clone().unwrap_or_else(|| lock(&self.record).path_secret.as_str().into())
    }

    /// The secrets whose paths are served: the present one, and after [`Self::new_secret`] the one before for as long as
    /// iLink may still use it.
    #[must_use]
    pub fn accepted_secrets(&self) -> Vec<SecretString> {
        let previous = match self.overrides.path_secret {
            Some(_) => None,
            None => lock(&self.record).previous_path_secret.as_deref().map(SecretString::from),
        };
        [self.path_secret()].into_iter().chain(previous).collect()
    }

    /// Makes a new path secret. Until iLink has confirmed it, the old one stays accepted.
    ///
    /// # Errors
    ///
    /// If the secret is the configuration's, or the new one cannot be made durable; then the old one stays.
    pub fn new_secret(&self) -> Result<SecretString, IdentityError> {
        if self.overrides.path_secret.is_some() {
            return Err(IdentityError::Configured);
        }
        let secret = random_secret().map_err(|source| not_written(&self.files, source))?;
        self.change(|record| {
            let unconfirmed = std::mem::replace(&mut record.path_secret, secret.clone());
            // Asked for twice in a row: iLink still knows the first.
            record.previous_path_secret.get_or_insert(unconfirmed);
        })?;
        Ok(secret.into())
    }

    /// Whether the operator unregistered and has not registered since.
    #[must_use]
    pub fn unregistered_by_operator(&self) -> bool {
        lock(&self.record).unregistered_by_operator
    }

    /// Remembers that the operator unregistered, or registered again; durable when it returns.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn set_unregistered_by_operator(&self, unregistered: bool) -> Result<(), IdentityError> {
        self.change(|record| record.unregistered_by_operator = unregistered)
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), IdentityError> {
        let _filing = lock(&self.filing);
        let mut changed = lock(&self.record).clone();
        change(&mut changed);
        changed.write(&self.files)?;
        *lock(&self.record) = changed;
        Ok(())
    }
}

impl Record {
    const VERSION: u32 = 1;

    fn new() -> io::Result<Self> {
        Ok(Self {
            v: Self::VERSION,
            handshake_token: random_token()?,
            path_secret: random_secret()?,
            previous_path_secret: None,
            registered: None,
            unregistered_by_operator: false,
        })
    }

    /// The cause is free of what the file holds.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(content)
            .map_err(|error| format!("line {}, column {}: not what is expected there", error.line(), error.column()))?;
        if record.v != Self::VERSION {
            return Err(format!("its version is {}, and this program knows {}", record.v, Self::VERSION));
        }
        check_token(&record.handshake_token).map_err(|wanted| format!("handshake_token: {wanted}"))?;
        for secret in [Some(&record.path_secret), record.previous_path_secret.as_ref()].into_iter().flatten() {
            check_path_secret(secret).map_err(|wanted| format!("path_secret: {wanted}"))?;
        }
        Ok(record)
    }

    fn write(&self, files: &Files) -> Result<(), IdentityError> {
        let json = self.json().map_err(|source| not_written(files, source))?;
        files.replace(FILE, &json).map_err(|source| not_written(files, source))
    }

    fn json(&self) -> io::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

fn read(files: &Files) -> Result<Option<Record>, IdentityError> {
    let path = files.path(FILE);
    let content = files.read(FILE);
    let content =
        content.map_err(|source| IdentityError::Inaccessible { path: path.clone(), action: "read", source })?;
    let record = content.map(|content| Record::parse(&content)).transpose();
    record.map_err(|cause| IdentityError::Damaged { path, cause })
}

/// Makes a new one, unless another member of the cluster is quicker.
fn make(files: &Files, overrides: &Overrides) -> Result<Record, IdentityError> {
    let failed = |source| not_written(files, source);
    let record = Record::new().map_err(failed)?;
    let ours = record.json().map_err(failed)?;
    let there = files.create(FILE, &ours).map_err(failed)?;
    let path = files.path(FILE);
    let made = overrides.not_set();
    if there == ours && !made.is_empty() {
        tracing::info!(path = %path.display(), "made a new {made}");
    }
    Record::parse(&there).map_err(|cause| IdentityError::Damaged { path, cause })
}

fn not_written(files: &Files, source: io::Error) -> IdentityError {
    IdentityError::Inaccessible { path: files.path(FILE), action: "written", source }
}

/// Neither value, nor the URL that holds one.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("path", &self.files.path(FILE)).finish_non_exhaustive()
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("appkey", &self.appkey).field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// What is remembered about the registration of one account.
#[derive(Debug, Clone)]
pub struct IdentityRegistry {
    identity: Arc<Identity>,
    api: String,
    appkey: String,
    uid: String,
}

impl IdentityRegistry {
    /// For this account at this API.
    #[must_use]
    pub fn new(identity: Arc<Identity>, api: &str, appkey: &str, uid: &str) -> Self {
        Self { identity, api: api.to_owned(), appkey: appkey.to_owned(), uid: uid.to_owned() }
    }

    pub(super) fn registered(&self, url: &SecretString, token: &SecretString) -> Registered {
        let (api, appkey, uid) = (self.api.clone(), self.appkey.clone(), self.uid.clone());
        let (url, token) = (url.expose_secret().to_owned(), token.expose_secret().to_owned());
        Registered { api, appkey, uid, url, token }
    }
}

impl Registry for IdentityRegistry {
    fn confirmed(&self, url: &SecretString, token: &SecretString) -> bool {
        lock(&self.identity.record).registered == Some(self.registered(url, token))
    }

    fn record(&self, url: &SecretString, token: &SecretString) -> io::Result<()> {
        let registered = self.registered(url, token);
        let recorded = self.identity.change(|record| {
            // A registration of the old URL, still on its way when the secret was changed, does not retire the old secret.
            if registered.url.contains(&record.path_secret) {
                record.previous_path_secret = None;
            }
            record.registered = Some(registered);
        });
        recorded.map_err(into_io)
    }

    fn forget(&self) -> io::Result<()> {
        self.identity.change(|record| record.registered = None).map_err(into_io)
    }

    fn unregistered_by_operator(&self) -> bool {
        self.identity.unregistered_by_operator()
    }

    fn set_unregistered_by_operator(&self, unregistered: bool) -> io::Result<()> {
        self.identity.set_unregistered_by_operator(unregistered).map_err(into_io)
    }
}

fn into_io(error: IdentityError) -> io::Error {
    io::Error::other(error)
}
