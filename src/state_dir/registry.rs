//! The session's registry on top of [`Identity`]: one account's record.

use std::io;
use std::sync::Arc;

use secrecy::SecretString;

use super::{Identity, IdentityError, Registered};
use crate::cloud::Registry;

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

    fn registered(&self, url: &SecretString, token: &SecretString) -> Registered {
        Registered::new(&self.api, &self.appkey, &self.uid, url, token)
    }
}

impl Registry for IdentityRegistry {
    fn confirmed(&self, url: &SecretString, token: &SecretString) -> bool {
        self.identity.is_registered(&self.registered(url, token))
    }

    fn record(&self, url: &SecretString, token: &SecretString) -> io::Result<()> {
        self.identity.set_registered(self.registered(url, token)).map_err(into_io)
    }

    fn forget(&self) -> io::Result<()> {
        self.identity.forget_registered().map_err(into_io)
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
