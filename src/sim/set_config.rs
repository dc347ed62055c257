//! `set_config` (§3): registering with its handshake, unregistering, querying.

use std::time::Instant;

use hyper::StatusCode;
use url::Url;

use super::calls::random_text;
use super::fields::{Fields, check_credentials};
use super::push;
use super::records::{Done, Handshake, Now, Verdict, millis};
use super::refusal::{INVALID_OPERATION, INVALID_PARAMETER, NOT_REGISTERED, URL_MALFORMED, VERIFICATION_FAILED};
use super::simulator::Simulator;
use crate::protocol::{ResultCode, Uid, signature};

/// Executes `set_config`; a registration makes its handshake first.
pub(super) async fn execute(service: &Simulator, fields: Fields<'_>, now: Now) -> Result<Done, ResultCode> {
    check_credentials(service.options(), fields)?;
    let action = if fields.has("action_type") { fields.int("action_type")? } else { 0 };
    match action {
        0 => register(service, fields, now).await,
        1 => unregister(service, fields, now),
        2 => query(service, fields),
        _ => Err(INVALID_OPERATION),
    }
}

async fn register(service: &Simulator, fields: Fields<'_>, now: Now) -> Result<Done, ResultCode> {
    fields.only(&["appkey", "secretkey", "url", "uid", "action_type", "token"])?;
    let uid: Uid = fields.id("uid")?;
    let token = fields.text("token")?;
    if !(3..=32).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(INVALID_PARAMETER);
    }
    let url = callback_url(fields)?;
    let echostr = random_text(16)?;
    let handshake = shake_hands(service, &uid, &url, token, &echostr, now).await;
    let verified = handshake.result == Verdict::Verified;
    if !verified {
        tracing::info!(%uid, host = url.host_str(), "handshake failed; not registered");
    }
    service.journal().handshakes.note(handshake, 512);
    if !verified {
        return Err(VERIFICATION_FAILED);
    }
    tracing::info!(%uid, host = url.host_str(), "callback registered");
    let mut world = service.world();
    world.accounts.register(uid.clone(), url);
    Ok(Done { pushes: world.set_online(&uid, true, now.seconds()), ..Done::default() })
}

fn unregister(service: &Simulator, fields: Fields<'_>, now: Now) -> Result<Done, ResultCode> {
    fields.only(&["appkey", "secretkey", "action_type", "uid"])?;
    let uid: Uid = fields.id("uid")?;
    let mut world = service.world();
    world.accounts.unregister(&uid)?;
    tracing::info!(%uid, "callback unregistered");
    Ok(Done { pushes: world.set_online(&uid, false, now.seconds()), ..Done::default() })
}

fn query(service: &Simulator, fields: Fields<'_>) -> Result<Done, ResultCode> {
    fields.only(&["appkey", "secretkey", "action_type", "url", "uid"])?;
    let uid: Uid = fields.id("uid")?;
    let url = callback_url(fields)?;
    let registered = service.world().accounts.callback(&uid) == Some(&url);
    if registered { Ok(Done::default()) } else { Err(NOT_REGISTERED) }
}

/// The `url`, which must begin with `http://` or `https://` (§3.1).
fn callback_url(fields: Fields<'_>) -> Result<Url, ResultCode> {
    let text = fields.text("url")?;
    // `Url` alone would also read the manual's own sample, "http:xxx.com".
    let scheme_fits = ["http://", "https://"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(start)));
    if !scheme_fits {
        return Err(URL_MALFORMED);
    }
    Url::parse(text).map_err(|_| URL_MALFORMED)
}

async fn shake_hands(
    service: &Simulator,
    uid: &Uid,
    callback: &Url,
    token: &str,
    echostr: &str,
    now: Now,
) -> Handshake {
    let timestamp = now.seconds().to_string();
    let signature = signature::sign(service.options().signature, token, &timestamp, echostr);
    let mut url = callback.clone();
    url.query_pairs_mut()
        .append_pair("signature", &signature)
        .append_pair("timestamp", &timestamp)
        .append_pair("echostr", echostr);
    let started = Instant::now();
    let answer = push::answer(service.http().get(url.as_str()), service.options().answer_limit).await;
    let (result, status, error) = match answer {
        Ok((status, body)) if status == StatusCode::OK && body == echostr.as_bytes() => {
            (Verdict::Verified, Some(status), None)
        }
        Ok((status, _)) if status == StatusCode::OK => (Verdict::WrongAnswer, Some(status), None),
        Ok((status, _)) => (Verdict::ErrorStatus, Some(status), None),
        Err(error) => (Verdict::Unanswered, None, Some(error)),
    };
    Handshake {
        at: crate::os::clock::rfc3339(now.ms),
        uid: uid.clone(),
        url: callback.to_string(),
        result,
        status: status.map(|status| status.as_u16()),
        error,
        took_ms: millis(started.elapsed()),
    }
}
