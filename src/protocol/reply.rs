//! Replies to our calls (§3, §5): a JSON object with an integer `code` and, on success, sometimes more.
//!
//! What else a reply carries is kept whole for whoever asked. What a code means is [`ResultCode`]'s.

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::code::ResultCode;

/// The life of a token whose reply does not say it, in seconds: what the manual calls today's value (§5.1).
const DEFAULT_EXPIRES_IN: u64 = 7200;

/// The body is not JSON, not an object, or has no integer `code`: nothing is known of what became of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply is not a JSON object with an integer code")]
pub struct NotAReply;

/// The reply to a call.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// How it went.
    pub code: ResultCode,
    /// Everything beside `code`.
    pub extra: Map<String, Value>,
}

/// Shows the code and the names of the other fields: one of them may be an access token.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<&String> = self.extra.keys().collect();
        f.debug_struct("Reply").field("code", &self.code).field("fields", &fields).finish()
    }
}

impl Reply {
    /// Reads the body of a 2xx response.
    ///
    /// # Errors
    ///
    /// [`NotAReply`] if it is not a JSON object with an integer `code`.
    pub fn decode(body: &[u8]) -> Result<Self, NotAReply> {
        let mut extra: Map<String, Value> = serde_json::from_slice(body).map_err(|_| NotAReply)?;
        let code = extra.remove("code").and_then(|code| code.as_i64()).ok_or(NotAReply)?;
        Ok(Self { code: ResultCode::new(code), extra })
    }
}

/// What `get_access_token` granted (§5.1).
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// The token that every call marked with it carries.
    pub access_token: SecretString,
    /// How long it lives, in seconds.
    pub expires_in: u64,
}

impl TokenGrant {
    /// The token in a successful reply; none if the reply failed or has none. A life that is missing, unreadable or not
    /// positive is taken as the manual's 7200 s: should the token be dead, the first call says so.
    #[must_use]
    pub fn from_reply(reply: &Reply) -> Option<Self> {
        let token = reply.extra.get("access_token")?.as_str()?;
        if !reply.code.is_ok() || token.is_empty() {
            return None;
        }
        let expires_in = match reply.extra.get("expires_in") {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let expires_in = expires_in.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_EXPIRES_IN);
        Some(Self { access_token: token.into(), expires_in })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn unknown_codes_and_fields_are_kept() {
        let reply = Reply::decode(br#" {"code":7,"msg":"?","nested":{"a":[1]}} "#).unwrap();
        assert_eq!(reply.code.value(), 7);
        assert_eq!(Value::Object(reply.extra), serde_json::json!({"msg": "?", "nested": {"a": [1]}}));
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let reply = Reply::decode(br#"{"code":0,"userid":123456789012345678901,"rate":1.50}"#).unwrap();
        let extra = serde_json::to_string(&reply.extra).unwrap();
        assert_eq!(extra, r#"{"rate":1.50,"userid":123456789012345678901}"#);
    }

    #[test]
    fn without_an_integer_code_it_is_no_reply() {
        for body in [
            "",
            "null",
            "[]",
            "0",
            "{}",
            r#"{"code":null}"#,
            r#"{"code":"0"}"#,
            r#"{"code":0.5}"#,
            r#"{"code":0}x"#,
            r#"{"code":99999999999999999999}"#,
            "<html>502</html>",
            r#"{"code":0"#,
        ] {
            assert_eq!(Reply::decode(body.as_bytes()), Err(NotAReply), "{body}");
        }
        assert_eq!(Reply::decode(b"{\"code\":0,\"a\":\"\xff\"}"), Err(NotAReply));
    }

    fn grant(body: &str) -> Option<(String, u64)> {
        let grant = TokenGrant::from_reply(&Reply::decode(body.as_bytes()).unwrap())?;
        Some((grant.access_token.expose_secret().to_owned(), grant.expires_in))
    }

    #[test]
    fn a_token_without_a_readable_life_lives_7200_seconds() {
        for (life, seconds) in [
            (r#","expires_in":60"#, 60),
            (r#","expires_in":" 60 ""#, 60),
            ("", 7200),
            (r#","expires_in":null"#, 7200),
            (r#","expires_in":0"#, 7200),
            (r#","expires_in":-1"#, 7200),
            (r#","expires_in":"soon""#, 7200),
        ] {
            let body = format!(r#"{{"code":0,"access_token":"T"{life}}}"#);
            assert_eq!(grant(&body), Some(("T".to_owned(), seconds)), "{body}");
        }
    }

    #[test]
    fn no_token_is_no_grant() {
        for body in [
            r#"{"code":0}"#,
            r#"{"code":0,"access_token":""}"#,
            r#"{"code":0,"access_token":7}"#,
            r#"{"code":1009,"access_token":"T"}"#,
        ] {
            assert_eq!(grant(body), None, "{body}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let reply = Reply::decode(br#"{"code":0,"access_token":"very-secret","expires_in":7200}"#).unwrap();
        let shown = format!("{reply:?} {:?}", TokenGrant::from_reply(&reply));
        assert!(!shown.contains("very-secret") && shown.contains("access_token"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = Reply::decode(&body);
        }

        #[test]
        fn every_code_survives(code: i64) {
            prop_assert_eq!(Reply::decode(format!(r#"{{"code":{code}}}"#).as_bytes()).unwrap().code.value(), code);
        }
    }
}
