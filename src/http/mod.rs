//! HTTP for a network that is not trusted: the bounded listener that the callback and the admin pages share.

mod admission;
pub mod answered;
pub mod listener;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Whether what a stranger gave is the secret. How long that takes says nothing about the secret: both are hashed first, so that
/// neither the place of the first difference nor the secret's length shows.
#[must_use]
pub fn is_secret(given: &[u8], secret: &SecretString) -> bool {
    Sha256::digest(given).as_slice().ct_eq(Sha256::digest(secret.expose_secret()).as_slice()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_is_it() {
        let secret = SecretString::from("hunter2");
        assert!(is_secret(b"hunter2", &secret));
        for other in ["", "hunter", "hunter22", "Hunter2", "hunter2\0"] {
            assert!(!is_secret(other.as_bytes(), &secret), "{other:?}");
        }
        assert!(is_secret(b"", &SecretString::from("")));
    }
}
