//! What a simulated service is told at its start.

use std::time::Duration;

use secrecy::SecretString;

use crate::protocol::Variant;

/// The account the simulated service knows, and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The one `appkey` that it knows.
    pub appkey: String,
    /// The `secretkey` that belongs to it.
    pub secretkey: SecretString,
    /// How handshakes are signed.
    pub signature: Variant,
    /// How long an access token lives, in whole seconds.
    pub expires_in: Duration,
    /// Whether fields the manual does not list, and other types than it lists, are answered 1010.
    pub strict: bool,
    /// Whether a push that was answered with an error status is tried again, as one without an answer is.
    pub retry_on_error: bool,
    /// Whether the listener may be reachable from other machines.
    pub allow_remote: bool,
    /// How long one try of a push, or a handshake, may take (§2.2).
    pub answer_limit: Duration,
    /// How often a push is sent in all (§2.2; the manual's "总共重试三次" could also mean 4).
    pub tries: u32,
}

impl Options {
    /// The service as the manual describes it, for this account.
    #[must_use]
    pub fn new(appkey: impl Into<String>, secretkey: impl Into<SecretString>) -> Self {
        Self {
            appkey: appkey.into(),
            secretkey: secretkey.into(),
            signature: Variant::Chars,
            expires_in: Duration::from_hours(2),
            strict: false,
            retry_on_error: false,
            allow_remote: false,
            answer_limit: Duration::from_secs(5),
            tries: 3,
        }
    }
}
