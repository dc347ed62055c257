//! The types of values that keys share.

use std::fmt;

use url::Url;

/// What is shown in a secret's place.
pub(super) const MASK: &str = "********";

/// A URL that may hold a password or a key in its query: shown without either.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskedUrl(Url);

impl MaskedUrl {
    /// The whole URL.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl From<Url> for MaskedUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for MaskedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            let _ = shown.set_password(Some(MASK));
        }
        if shown.query().is_some() {
            shown.set_query(Some(MASK));
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for MaskedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}
