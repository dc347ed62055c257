//! The simulated iLink service: what the vendor's manual and its service do, for people without an account and for the tests.
//!
//! Place in the flow: the other end of the bridge's HTTP. [`serve`] answers the seven calls (§3, §5) on one listener, makes the
//! handshake (§3.1) and the pushes (§4) to the callbacks that were registered there, and offers control endpoints under `/sim/`.
//! A client written for the real service works against it unchanged. The simulator knows nothing of the bridge: it uses only
//! `protocol`, the HTTP client and `os`. [`demo`] runs the bridge beside it.
//!
//! What it decides where the manual is silent:
//!
//! - Every non-empty uid exists (1001 comes only from a fault). `ham_add_user` answers a fresh `userid` for a new user name
//!   and the same one for a known name, as a client that starts again needs it.
//! - Each uid has a token of its own. A call is checked in this order: its object and `send_uid` (1010), the registration
//!   (1007), the token (1015 if none was ever issued to that uid, else 1008), the action (1012), the other fields (1010), then
//!   the call's own rules (1013, 1014, 1011).
//! - A query (§3.3) answers 0 only for exactly the URL that is registered, else 1007. A registration whose handshake fails (1006)
//!   leaves an earlier one in force.
//! - A group belongs to the uid that made it. Only the owner may delete it, add members and remove members (else 1014); a member
//!   may remove itself, the owner may not (1012). Only members may send to it and list its members (else 1014).
//! - A uid is online while it is registered; a presence body pushed by `/sim/push` changes that until the next registration or
//!   its end. Presence subscribers are told when a registration or its end changes that, never of the state at the time of
//!   subscribing.
//! - A publish reaches every subscriber of exactly that subject, the publisher included, as in MQTT; a group message every
//!   other member. A receiver without a registered callback counts as a person with an app: the answer is 0, and there is no push.
//! - Content is passed on as it came. Only `--strict` asks for base64, for strings and integers as the manual types them, and
//!   for no field that the manual's table does not list.
//! - More than 1,000 subscriptions of one kind by one uid are answered 1011.
//!
//! Pushes: each try has 5 s from the connection to the end of the answer; three tries, one at once after the other, only after
//! *no answer* (with `--retry-on-error` also after a status other than 2xx). To one uid they go one after the other, in the
//! order in which they arose, at most 1,000 waiting (more are dropped and shown as `queue_full`). A push ordered by `/sim/push`
//! does not wait for those: it goes at once, so several may be under way together. Redirects are not followed, and any
//! certificate of an https callback is accepted.
//!
//! It keeps nothing on disk, does not limit how often it is asked (1004, 1009 come only from a fault), and logs neither
//! secret keys nor tokens. Callback URLs, whose path may be a secret, are shown in `/sim/state` only.

mod calls;
mod control;
pub mod demo;
mod fault;
mod fields;
mod records;
mod service;
mod simulator;
mod world;

use std::time::Duration;

use secrecy::SecretString;

use crate::protocol::Variant;

pub use control::PushRefused;
pub use records::{Outcome, PushRecord, Sent, Try};
pub use service::serve;
pub use simulator::Simulator;

/// The codes that the simulated service answers by itself.
mod refusal {
    use crate::protocol::ResultCode;

    pub(super) const BAD_CREDENTIALS: ResultCode = ResultCode::new(1000);
    pub(super) const URL_MALFORMED: ResultCode = ResultCode::new(1005);
    pub(super) const VERIFICATION_FAILED: ResultCode = ResultCode::new(1006);
    pub(super) const NOT_REGISTERED: ResultCode = ResultCode::new(1007);
    pub(super) const INVALID_TOKEN: ResultCode = ResultCode::new(1008);
    pub(super) const INVALID_PARAMETER: ResultCode = ResultCode::new(1010);
    pub(super) const SUBSCRIPTION_LIMIT: ResultCode = ResultCode::new(1011);
    pub(super) const INVALID_OPERATION: ResultCode = ResultCode::new(1012);
    pub(super) const NO_SUCH_GROUP: ResultCode = ResultCode::new(1013);
    pub(super) const FORBIDDEN: ResultCode = ResultCode::new(1014);
    pub(super) const TOKEN_NOT_FETCHED: ResultCode = ResultCode::new(1015);
    pub(super) const NO_IM_SERVER: ResultCode = ResultCode::new(1016);
}

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
