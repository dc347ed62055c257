//! Masks secrets in replies. A reply may repeat the request, and a result publishes the other fields of a reply on the
//! broker. Secrets that the request carried are therefore masked in the reply.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::Url;

use crate::protocol::{Reply, Request};

const MASK: &str = "********";
/// What is shorter keeps nothing secret, and would be found everywhere.
const SHORTEST: usize = 8;

/// The reply without the secrets of its request. The reply to `get_access_token` is shown to nobody, and left alone: a token
/// that is masked would be no token.
pub(super) fn masked(mut reply: Reply, request: &Request, token: Option<&SecretString>) -> Reply {
    if request.path == "get_access_token" || reply.extra.is_empty() {
        return reply;
    }
    let secrets = secrets(request, token);
    if !secrets.is_empty() {
        reply.extra = mask_object(std::mem::take(&mut reply.extra), &secrets);
    }
    reply
}

fn secrets(request: &Request, token: Option<&SecretString>) -> Vec<String> {
    let field = |name: &str| request.body.get(name).and_then(Value::as_str).map(str::to_owned);
    let token = token.filter(|_| request.with_token).map(|token| token.expose_secret().to_owned());
    let url = field("url").and_then(|url| Url::parse(&url).ok());
    let in_url = url.iter().flat_map(in_url);
    let all = [token, field("secretkey"), field("token")].into_iter().flatten().chain(in_url);
    all.filter(|secret| secret.len() >= SHORTEST).collect()
}

/// What a callback URL may hold of secrets: the last segment of its path, what its query says, a password.
fn in_url(url: &Url) -> Vec<String> {
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).map(str::to_owned);
    let values = url.query_pairs().map(|(_, value)| value.into_owned());
    last.into_iter()
        .chain(url.query().map(str::to_owned))
        .chain(url.password().map(str::to_owned))
        .chain(values)
        .collect()
}

fn mask_object(object: Map<String, Value>, secrets: &[String]) -> Map<String, Value> {
    object.into_iter().map(|(key, value)| (mask_text(key, secrets), mask(value, secrets))).collect()
}

fn mask(value: Value, secrets: &[String]) -> Value {
    match value {
        Value::String(text) => Value::String(mask_text(text, secrets)),
        Value::Array(list) => Value::Array(list.into_iter().map(|value| mask(value, secrets)).collect()),
        Value::Object(object) => Value::Object(mask_object(object, secrets)),
        other => other,
    }
}

fn mask_text(text: String, secrets: &[String]) -> String {
    secrets.iter().fold(text, |text, secret| if text.contains(secret) { text.replace(secret, MASK) } else { text })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::{Account, Call, SetConfig, get_access_token};

    fn account() -> Account {
        Account {
            appkey: "app".to_owned(),
            secretkey: "the-secretkey".into(),
            uid: "414".parse().unwrap(),
            presence_action: 2,
        }
    }

    fn after(request: &Request, reply: &Value) -> String {
        let reply = Reply::decode(reply.to_string().as_bytes()).unwrap();
        Value::Object(masked(reply, request, Some(&"the-access-token".into())).extra).to_string()
    }

    #[test]
    fn what_a_request_carried_is_masked_wherever_its_reply_repeats_it() {
        let url = "https://u:the-password@home.example/a/the-path-secret?x=the-query&y=z";
        let register = SetConfig::Register { url, token: "thehandshake" }.request(&account());
        let echo = json!({"code": 0, "message": "bad the-secretkey!", "request": {"body": [&register.body]}, "the-secretkey": 1});
        let shown = after(&register, &echo);
        for secret in ["the-secretkey", "thehandshake", "the-path-secret", "the-query", "the-password"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        assert!(shown.contains("414") && shown.contains("app"), "{shown}");

        let call = Call::UserStates { uids: vec!["413".parse().unwrap()] }.request(&account());
        let shown = after(&call, &json!({"code": 7, "url": "/ham_user?access_token=the-access-token"}));
        assert_eq!(shown, r#"{"url":"/ham_user?access_token=********"}"#);
    }

    #[test]
    fn a_granted_token_and_what_is_no_secret_stay() {
        let grant = json!({"code": 0, "access_token": "of-the-secretkey"});
        assert!(after(&get_access_token(&account()), &grant).contains("of-the-secretkey"));
        let short = Account { secretkey: "S".into(), ..account() };
        let query = SetConfig::Query { url: "https://home.example/" }.request(&short);
        assert_eq!(after(&query, &json!({"code": 0, "text": "So it Stays"})), r#"{"text":"So it Stays"}"#);
    }
}
