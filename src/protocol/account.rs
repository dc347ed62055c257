//! The account, the form of a request, and the calls by which the session itself lives: `set_config` (§3) and
//! `get_access_token` (§5.1).
//!
//! Secrets stay behind [`SecretString`] until a body is built. A [`Request`] holds them in the clear, because they are
//! posted; its `Debug` therefore shows the path alone.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::ids::Uid;

/// The fields of a request body, written as the manual writes them.
macro_rules! body {
    ($($key:literal: $value:expr),* $(,)?) => {{
        // Inserted one by one: `from_iter` would bring a sort of its own into the program for each call.
        let mut body = serde_json::Map::new();
        $(body.insert($key.to_owned(), serde_json::json!($value));)*
        body
    }};
}
pub(super) use body;

/// Who we are to iLink.
#[derive(Clone)]
pub struct Account {
    /// Names the application (§1.1).
    pub appkey: String,
    /// The application's secret (§1.1).
    pub secretkey: SecretString,
    /// The uid that is registered; every call's `send_uid`.
    pub uid: Uid,
    /// The `action_type` of §5.11: 2 in its table, 7 in its sample.
    pub presence_action: i64,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl Account {
    /// A request that proves itself by the application's keys instead of a token.
    pub(super) fn keyed_request(&self, path: &'static str, mut body: Map<String, Value>) -> Request {
        body.insert("appkey".to_owned(), self.appkey.as_str().into());
        body.insert("secretkey".to_owned(), self.secretkey.expose_secret().into());
        Request { path, body, with_token: false }
    }
}

/// What to post, and where.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The path below the API's base URL, without a slash: `send_msg`.
    pub path: &'static str,
    /// The JSON body.
    pub body: Map<String, Value>,
    /// Whether the access token goes into the query.
    pub with_token: bool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The three actions of `set_config` (§3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SetConfig<'a> {
    /// Have pushes sent to `url` (§3.1). The service verifies the URL before it answers.
    Register {
        /// Where pushes go; it holds a secret.
        url: &'a str,
        /// The handshake's token, 3 to 32 ASCII letters and digits; a secret.
        token: &'a str,
    },
    /// Have no more pushes sent (§3.2).
    Unregister,
    /// Ask whether `url` is registered (§3.3).
    Query {
        /// The URL in question; it holds a secret.
        url: &'a str,
    },
}

impl fmt::Debug for SetConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register { .. } => "Register",
            Self::Unregister => "Unregister",
            Self::Query { .. } => "Query",
        })
    }
}

impl SetConfig<'_> {
    /// What to post. Registering is `action_type` 0: the manual's own sample (§3.1) has 1, which unregisters (§3.2).
    #[must_use]
    pub fn request(&self, account: &Account) -> Request {
        let uid = &account.uid;
        let body = match self {
            Self::Register { url, token } => body! {"url": url, "uid": uid, "action_type": 0, "token": token},
            Self::Unregister => body! {"uid": uid, "action_type": 1},
            Self::Query { url } => body! {"uid": uid, "url": url, "action_type": 2},
        };
        account.keyed_request("set_config", body)
    }
}

/// Asks for an access token (§5.1).
#[must_use]
pub fn get_access_token(account: &Account) -> Request {
    account.keyed_request("get_access_token", body! {"uid": account.uid})
}
