//! Replies to our calls (§3, §5): a JSON object with a `code` and, on success, sometimes more.
//!
//! A reply that is rejected counts as no reply: the call is made again, and a person gets the message twice. So all
//! replies go through this one decoder, which is as lenient as that of pushes. The other fields of a reply are kept
//! whole for the caller. [`ResultCode`] knows what a code means.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::code::ResultCode;
use super::{fields, lenient};

/// What a gzipped reply may hold, in bytes: as much as one that is not.
const MAX_UNPACKED: usize = 4 * 1024 * 1024;

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
    /// Reads the body of a response, through what [`lenient`] says may stand around the object and in its strings. The code
    /// may be an integer, an integral number or a string that holds one. A field that cannot be read is left out.
    ///
    /// # Errors
    ///
    /// [`NotAReply`] if it is not a JSON object with such a `code`.
    pub fn decode(body: &[u8]) -> Result<Self, NotAReply> {
        let unpacked = lenient::gunzip(body, MAX_UNPACKED);
        let body = lenient::trimmed(unpacked.as_deref().unwrap_or(body));
        // What is no object costs nothing more: as text, noise would be three times as long.
        if !(body.starts_with(b"{") && body.ends_with(b"}")) {
            return Err(NotAReply);
        }
        let text = String::from_utf8_lossy(body);
        let mut extra = match serde_json::from_str(&text) {
            Ok(object) => object,
            // Half an emoji, or what nests too deep, must not hide the other fields, least of all the code.
            Err(_) => readable(&text).ok_or(NotAReply)?,
        };
        let name = key(&extra, "code").ok_or(NotAReply)?.to_owned();
        let code = extra.remove(&name).as_ref().and_then(integer).ok_or(NotAReply)?;
        Ok(Self { code: ResultCode::new(code), extra })
    }

    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        field(&self.extra, name)
    }
}

/// The members of an object that can be parsed, each as it would be within the object.
fn readable(text: &str) -> Option<Map<String, Value>> {
    let value = |raw: &RawValue| {
        let [value] = serde_json::from_str::<[Value; 1]>(&format!("[{raw}]")).ok()?;
        Some(value)
    };
    let members = fields::members(text)?.into_iter();
    Some(members.filter_map(|(key, raw)| Some((key.into_owned(), value(raw)?))).collect())
}

/// A field of a reply, or of an object in it, by its name; the manual's samples have stray spaces in names (§5.10).
#[must_use]
pub fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(key(object, name)?)
}

/// The key for a name: that itself, else one with stray spaces around it.
fn key<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let exact = object.get_key_value(name).map(|(key, _)| key);
    exact.or_else(|| object.keys().find(|key| key.trim() == name)).map(String::as_str)
}

/// An integer, as a JSON number, also written with a fraction of zero or an exponent, or as a string that holds one.
#[must_use]
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => integral(number),
        Value::String(text) => match text.trim().parse() {
            Ok(integer) => Some(integer),
            Err(_) => integral(&text.trim().parse().ok()?),
        },
        _ => None,
    }
}

/// The value of a number that is an integer, to the last digit.
fn integral(number: &Number) -> Option<i64> {
    if let Some(integer) = number.as_i64() {
        return Some(integer);
    }
    let text = number.as_str();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}").parse::<i128>().ok()?;
    // By so many places the point is to be moved; a power of ten that is no i128 leaves nothing of an i64 but zero.
    let places = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    if digits == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(places.unsigned_abs())?;
    let value =
        if places >= 0 { digits.checked_mul(power)? } else { (digits % power == 0).then_some(digits / power)? };
    i64::try_from(value).ok()
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
        let token = match reply.field("access_token")? {
            Value::String(token) => token.trim().to_owned(),
            Value::Number(token) => token.to_string(),
            _ => return None,
        };
        if !reply.code.is_ok() || token.is_empty() {
            return None;
        }
        let expires_in = reply.field("expires_in").and_then(seconds);
        let expires_in = expires_in.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_EXPIRES_IN);
        Some(Self { access_token: token.into(), expires_in })
    }
}

/// Whole seconds; a fraction is cut off.
fn seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_f64(),
        _ => None,
    };
    Some(Duration::try_from_secs_f64(seconds?).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
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
            r#"{"code":"ok"}"#,
            r#"{"code":""}"#,
            r#"{"code":"0 0"}"#,
            r#"{"code":[0]}"#,
            r#"{"code":true}"#,
            r#"{"code":0.5}"#,
            r#"{"code":1e-999}"#,
            r#"{"code":1e999}"#,
            r#"{"code":0}x"#,
            r#"{"code":99999999999999999999}"#,
            "<html>502</html>",
            r#"{"code":0"#,
            r#"{"code":0,"a":}"#,
        ] {
            assert_eq!(Reply::decode(body.as_bytes()), Err(NotAReply), "{body}");
        }
        assert_eq!(Reply::decode(b"{\"code\":0,\xff:1}"), Err(NotAReply));
    }

    #[test]
    fn a_code_is_an_integer_however_it_is_written() {
        for (written, code) in [
            ("0", 0),
            ("-0", 0),
            ("0.0", 0),
            ("0e0", 0),
            ("0E-7", 0),
            (r#""0""#, 0),
            (r#"" 0 ""#, 0),
            (r#""0.0""#, 0),
            ("1016.0", 1016),
            ("1.016e3", 1016),
            ("101600e-2", 1016),
            (r#""1016""#, 1016),
            (r#""-7""#, -7),
            ("9223372036854775807.0", i64::MAX),
        ] {
            let body = format!(r#"{{"code":{written}}}"#);
            assert_eq!(Reply::decode(body.as_bytes()).map(|reply| reply.code.value()), Ok(code), "{body}");
        }
        assert_eq!(Reply::decode(br#"{"code ":0,"x":1}"#).unwrap().extra.len(), 1);
        assert_eq!(Reply::decode(br#"{" code":1,"code":0}"#).unwrap().code, ResultCode::OK);
    }

    #[test]
    fn what_stands_around_and_inside_a_reply_does_not_hide_it() {
        let plain = br#"{"code":0,"msg":"ok"}"#;
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(plain).unwrap();
        let (mark, nul) = (b"\xef\xbb\xbf".as_slice(), b"\0".as_slice());
        for body in [
            [mark, plain].concat(),
            [plain, nul].concat(),
            [mark, b"\r\n", plain, nul].concat(),
            packer.finish().unwrap(),
        ] {
            assert_eq!(Reply::decode(&body), Reply::decode(plain), "{body:?}");
        }
        // GBK in a string, half an emoji, and what no parser follows: that field is spoilt, and no other.
        let deep = format!(r#"{{"deep":{}{},"code":"0","group_id":"g"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            b"{\"code\":0,\"msg\":\"\xb3\xc9\xb9\xa6\",\"group_id\":\"g\"}".as_slice(),
            br#"{"msg":"\ud83d","code":0,"group_id":"g"}"#,
            br#"{"\udc00":1,"code":0,"group_id":"g"}"#,
            deep.as_bytes(),
        ] {
            let reply = Reply::decode(body).unwrap();
            assert_eq!((reply.code, reply.field("group_id").unwrap()), (ResultCode::OK, &Value::from("g")));
        }
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
            (r#","expires_in":60.0"#, 60),
            (r#","expires_in":60.9"#, 60),
            (r#","expires_in":"60.5""#, 60),
            (r#","expires_in":6.05e1"#, 60),
            (r#","expires_in":1e300"#, 7200),
            (r#","expires_in ":60"#, 60),
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
    fn a_token_may_be_written_as_a_number() {
        assert_eq!(grant(r#"{"code":"0"," access_token":12345678901234567890}"#).unwrap().0, "12345678901234567890");
        assert_eq!(grant("{\"code\":0,\"access_token\":\"T\\n\"}").unwrap().0, "T");
    }

    #[test]
    fn no_token_is_no_grant() {
        for body in [
            r#"{"code":0}"#,
            r#"{"code":0,"access_token":""}"#,
            r#"{"code":0,"access_token":" "}"#,
            r#"{"code":0,"access_token":null}"#,
            r#"{"code":0,"access_token":["T"]}"#,
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
            for body in [format!(r#"{{"code":{code}}}"#), format!(r#"{{"code":"{code}"}}"#), format!(r#"{{"code":{code}.00}}"#)] {
                prop_assert_eq!(Reply::decode(body.as_bytes()).unwrap().code.value(), code);
            }
        }
    }
}
