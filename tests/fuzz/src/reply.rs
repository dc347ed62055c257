//! What iLink replies: the body of an HTTP response, the token in it, and the result that a device gets of it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ilink2mqtt::local::{CommandResult, Reference, Status};
use ilink2mqtt::operate::control::answer;
use ilink2mqtt::os::clock::Stamp;
use ilink2mqtt::outbound::record::{Record, ReplyTo, StoredResult};
use ilink2mqtt::protocol::{Class, NotAReply, Reply, TokenGrant};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::input::base;

/// The body of a response.
pub fn run(body: &[u8]) {
    let object: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
    let code = object.as_ref().and_then(|object| object.get("code")).and_then(Value::as_i64);
    let decoded = Reply::decode(body);
    check_kindness(body, &decoded);
    let Ok(reply) = decoded else {
        assert_eq!(code, None, "a JSON object with a code is no reply");
        return;
    };
    assert!(code.is_none_or(|code| code == reply.code.value()));
    assert_eq!(reply.code.is_ok(), reply.code.class() == Class::Done);
    assert!(!reply.code.name().is_empty() && !reply.code.meaning().is_empty());
    check_token(&reply);
    let told = answer(Ok(reply.clone()));
    assert!(!told.text.is_empty() && (told.exit == 0) == reply.code.is_ok());
    check_result(reply);
}

/// What may stand around a reply changes nothing about it, and neither does how its code is written.
fn check_kindness(body: &[u8], decoded: &Result<Reply, NotAReply>) {
    if body.starts_with(b"\x1f\x8b") {
        return;
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(body).unwrap();
    let around = [[b"\xef\xbb\xbf", body].concat(), [body, b"\0"].concat(), [b"\r\n\0", body, b" "].concat()];
    for odd in around.into_iter().chain([packer.finish().unwrap()]) {
        assert_eq!(Reply::decode(&odd), *decoded, "{odd:?}");
    }
    let Ok(reply) = decoded else { return };
    let code = reply.code.value();
    for written in [format!("\"{code}\""), format!("{code}.0"), format!("{code}e0")] {
        let odd = Reply::decode(format!("{{\"code\":{written}}}").as_bytes());
        assert_eq!(odd.map(|reply| reply.code.value()), Ok(code), "{written}");
    }
}

fn check_token(reply: &Reply) {
    let shown = format!("{reply:?}");
    let Some(grant) = TokenGrant::from_reply(reply) else { return };
    assert!(reply.code.is_ok() && grant.expires_in > 0);
    let token = grant.access_token.expose_secret();
    let shown = shown + &format!("{grant:?}");
    // Short ones are found in anything; names of fields are shown.
    let in_a_name = reply.extra.keys().any(|name| format!("{name:?}").contains(token));
    assert!(token.len() < 12 || in_a_name || !shown.contains(token), "{shown}");
}

/// The result of a call that iLink answered can be stored, read, and published, whatever the reply holds.
fn check_result(reply: Reply) {
    let code = reply.code;
    let mark: Reference = serde_json::from_str(r#""\"7\"""#).unwrap();
    let result = CommandResult::answered(Ulid::from_parts(7, 8), Some(mark), reply, 1, 2);
    assert_eq!(result.status == Status::Ok, code.is_ok());
    let json = result.to_json();
    let reply_to = ReplyTo { topic: format!("{}/by/c/call/x", base()), response_topic: None, correlation_data: None };
    let row = Record::Result(StoredResult { at: Stamp::now(), reply_to: reply_to.clone(), json });
    let Ok(Record::Result(stored)) = Record::decode(&row.encode()) else { panic!("the row is lost") };
    let read = CommandResult::from_json(&stored.json).expect("a stored result cannot be read");
    assert_eq!(read, result);
    let published = reply_to.publications(&base(), &read);
    assert_eq!(published.len(), 2);
    assert!(published[0].payload == stored.json && published[1].payload == *code.name());
}
