//! What the session needs remembered about the registration across restarts.
//!
//! `identity.json` belongs to the state directory, not to the session: whoever owns it implements this.

use std::io;

use secrecy::SecretString;

/// The record of the registration. Both the token and the path secret in the URL are durable before the session starts.
///
/// The session calls these from a thread that may block. A record belongs to one API, `AppKey` and uid; with others there is
/// none. `url` is the whole callback URL with its secret.
pub trait Registry: Send + Sync + 'static {
    /// Whether iLink confirmed this very URL and token.
    fn confirmed(&self, url: &SecretString, token: &SecretString) -> bool;

    /// Notes that iLink confirmed them; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn record(&self, url: &SecretString, token: &SecretString) -> io::Result<()>;

    /// Forgets what was recorded; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn forget(&self) -> io::Result<()>;

    /// Whether the operator unregistered and has not registered since.
    fn unregistered_by_operator(&self) -> bool;

    /// Remembers that the operator unregistered, or registered again; durable when it returns.
    ///
    /// # Errors
    ///
    /// If the record could not be written.
    fn set_unregistered_by_operator(&self, unregistered: bool) -> io::Result<()>;
}
