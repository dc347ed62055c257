//! Executes the seven calls (§5, and `set_config` of §3 with its handshake) on the service's state.

use std::time::Instant;

use hyper::StatusCode;
use serde_json::{Value, json};
use url::Url;

use super::Options;
use super::fields::{Fields, check_credentials};
use super::records::{Done, Handshake, Message, Now, Outgoing, Path, Sent, Verdict};
use super::refusal::{
    INVALID_OPERATION, INVALID_PARAMETER, NO_IM_SERVER, NOT_REGISTERED, URL_MALFORMED, VERIFICATION_FAILED,
};
use super::simulator::{self, Simulator};
use super::world::World;
use crate::os::clock;
use crate::protocol::{GroupId, Qos, Receiver, ResultCode, Subject, Uid, content, signature};

type Executed = Result<Done, ResultCode>;

/// Executes a call.
pub(super) fn execute(
    world: &mut World,
    options: &Options,
    path: Path,
    fields: Fields<'_>,
    token: Option<&str>,
    now: Now,
) -> Executed {
    match path {
        Path::GetAccessToken => return get_access_token(world, options, fields, now),
        Path::HamAddUser => return add_user(world, options, fields),
        // It is answered only after its handshake, which this file cannot make.
        Path::SetConfig => return Err(INVALID_OPERATION),
        Path::SendMsg | Path::HamGroup | Path::HamUser | Path::HamTopic => {}
    }
    let from: Uid = fields.id("send_uid")?;
    world.accounts.authorise(&from, token, now.instant)?;
    match path {
        Path::HamGroup => group(world, fields, from, now),
        Path::HamUser => user(world, fields, from),
        Path::HamTopic => topic(world, fields, from, now),
        _ => send_msg(world, fields, from, now),
    }
}

fn get_access_token(world: &mut World, options: &Options, fields: Fields<'_>, now: Now) -> Executed {
    check_credentials(options, fields)?;
    fields.only(&["appkey", "secretkey", "uid"])?;
    let uid: Uid = fields.id("uid")?;
    if world.accounts.callback(&uid).is_none() {
        return Err(NOT_REGISTERED);
    }
    let token = random_text(48)?;
    world.accounts.issue(uid, token.clone(), options.expires_in, now.instant);
    Ok(extra([("access_token", json!(token)), ("expires_in", json!(options.expires_in.as_secs()))]))
}

fn add_user(world: &mut World, options: &Options, fields: Fields<'_>) -> Executed {
    check_credentials(options, fields)?;
    fields.only(&["appkey", "secretkey", "username", "nickname"])?;
    let username = fields.non_empty("username")?;
    fields.text("nickname")?;
    let fresh = Uid::try_from(format!("F{}", random_text(33)?)).map_err(|_| NO_IM_SERVER)?;
    Ok(extra([("userid", json!(world.accounts.add_user(username, fresh)))]))
}

fn send_msg(world: &mut World, fields: Fields<'_>, from: Uid, now: Now) -> Executed {
    let msg_type = fields.int("msg_type")?;
    // §5.3's own sample sends a group message with type 1.
    let to_group = msg_type == 3 || (msg_type == 1 && fields.has("group_id") && !fields.has("accept_uid"));
    let (receivers, group, msg_type, to) = if to_group {
        fields.only(&["send_uid", "group_id", "msg_type", "content"])?;
        let group: GroupId = fields.id("group_id")?;
        (world.groups.others(&group, &from)?, Some(group.clone()), 3, Receiver::Group(group))
    } else {
        fields.only(&["send_uid", "accept_uid", "msg_type", "content"])?;
        let msg_type = u8::try_from(msg_type).ok().filter(|kind| [1, 2].contains(kind)).ok_or(INVALID_PARAMETER)?;
        let uid: Uid = fields.id("accept_uid")?;
        (vec![uid.clone()], None, msg_type, Receiver::User(uid))
    };
    let text = message_content(fields)?;
    let message = Message {
        from_uid: from.as_str(),
        group_id: group.as_ref().map(GroupId::as_str),
        create_time: now.seconds(),
        msg_type,
        content: text,
    };
    Ok(sent(world.address(message, &receivers), from, to, text))
}

fn group(world: &mut World, fields: Fields<'_>, from: Uid, now: Now) -> Executed {
    const EXISTING: [&str; 3] = ["send_uid", "group_id", "action_type"];
    const CHANGED: [&str; 4] = ["send_uid", "group_id", "action_type", "uid_list"];
    match fields.int("action_type")? {
        1 => {
            fields.only(&["send_uid", "group_name", "action_type", "uid_list"])?;
            let id = GroupId::try_from(group_id()?).map_err(|_| NO_IM_SERVER)?;
            let others = fields.uids("uid_list")?;
            world.groups.create(id.clone(), fields.non_empty("group_name")?, from, others, create_time(now));
            Ok(extra([("group_id", json!(id))]))
        }
        2 => {
            fields.only(&EXISTING)?;
            world.groups.delete(&fields.id("group_id")?, &from).map(done)
        }
        3 => {
            fields.only(&["send_uid", "action_type"])?;
            Ok(extra([("group_list", world.groups.list(&from))]))
        }
        4 => {
            fields.only(&CHANGED)?;
            world.groups.add(&fields.id("group_id")?, &from, fields.uids("uid_list")?).map(done)
        }
        5 => {
            fields.only(&CHANGED)?;
            world.groups.remove(&fields.id("group_id")?, &from, &fields.uids("uid_list")?).map(done)
        }
        6 => {
            fields.only(&EXISTING)?;
            Ok(extra([("uid_list", json!(world.groups.others(&fields.id("group_id")?, &from)?))]))
        }
        _ => Err(INVALID_OPERATION),
    }
}

fn user(world: &mut World, fields: Fields<'_>, from: Uid) -> Executed {
    match fields.int("action_type")? {
        1 => {
            fields.only(&["send_uid", "action_type", "uid_list"])?;
            let uids = fields.uids("uid_list")?;
            let state = |uid: &Uid| json!({"uid": uid, "state": u8::from(world.accounts.is_online(uid))});
            Ok(extra([("uid_state_list", uids.iter().map(state).collect())]))
        }
        2 => {
            fields.only(&["send_uid", "action_type", "uid_list", "type"])?;
            let uids = fields.uids("uid_list")?;
            if fields.flag("type")? {
                world.subscriptions.watch(from, uids)?;
            } else {
                world.subscriptions.unwatch(&from, &uids);
            }
            Ok(Done::default())
        }
        _ => Err(INVALID_OPERATION),
    }
}

fn topic(world: &mut World, fields: Fields<'_>, from: Uid, now: Now) -> Executed {
    let action = fields.int("action_type")?;
    if ![1, 2].contains(&action) {
        return Err(INVALID_OPERATION);
    }
    let subject: Subject = fields.id("subject")?;
    if !subject.is_publishable() {
        return Err(INVALID_PARAMETER);
    }
    if action == 2 {
        fields.only(&["send_uid", "action_type", "subject", "content"])?;
        let text = message_content(fields)?;
        let message = Message {
            from_uid: from.as_str(),
            group_id: Some(subject.as_str()),
            create_time: now.seconds(),
            msg_type: 4,
            content: text,
        };
        let pushes = world.address(message, world.subscriptions.subscribers(&subject));
        return Ok(sent(pushes, from, Receiver::Subject(subject), text));
    }
    if fields.flag("type")? {
        fields.only(&["send_uid", "action_type", "subject", "qos", "type"])?;
        let qos = u8::try_from(fields.int("qos")?).ok().and_then(|qos| Qos::try_from(qos).ok());
        world.subscriptions.subscribe(from, subject, qos.ok_or(INVALID_PARAMETER)?)?;
    } else {
        fields.only(&["send_uid", "action_type", "subject", "type"])?;
        world.subscriptions.unsubscribe(&from, &subject);
    }
    Ok(Done::default())
}

/// The `content` of a message; base64 by the manual, which only a strict service insists on.
fn message_content(fields: Fields<'_>) -> Result<&str, ResultCode> {
    let text = fields.text("content")?;
    if fields.is_strict() && content::decode(text).not_base64 { Err(INVALID_PARAMETER) } else { Ok(text) }
}

fn sent(pushes: Vec<Outgoing>, from: Uid, to: Receiver, text: &str) -> Done {
    Done { pushes, sent: Some(Sent { from, to, content: content::decode(text).bytes }), ..Done::default() }
}

fn done((): ()) -> Done {
    Done::default()
}

fn extra<const N: usize>(fields: [(&str, Value); N]) -> Done {
    let extra = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Done { extra, ..Done::default() }
}

/// As §5.6 shows it.
fn create_time(now: Now) -> String {
    clock::rfc3339(now.ms).chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// In the shape of the manual's sample, `4cdad356-85b4-008627`.
fn group_id() -> Result<String, ResultCode> {
    let random = getrandom::u64().map_err(|_| NO_IM_SERVER)?;
    let low = getrandom::u32().map_err(|_| NO_IM_SERVER)? % 1_000_000;
    Ok(format!("{:08x}-{:04x}-{low:06}", random >> 32, random & 0xffff))
}

/// Random letters and digits; a machine without randomness is a service in trouble.
fn random_text(length: usize) -> Result<String, ResultCode> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|_| NO_IM_SERVER)?;
    let chars = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()));
    Ok(chars.map(|char| char::from(*char)).collect())
}

/// Executes `set_config`; a registration makes its handshake first.
pub(super) async fn set_config(service: &Simulator, fields: Fields<'_>, now: Now) -> Result<Done, ResultCode> {
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
    let answer = simulator::answer(service.http().get(url.as_str()), service.options().answer_limit).await;
    let (result, status, error) = match answer {
        Ok((status, body)) if status == StatusCode::OK && body == echostr.as_bytes() => {
            (Verdict::Verified, Some(status), None)
        }
        Ok((status, _)) if status == StatusCode::OK => (Verdict::WrongAnswer, Some(status), None),
        Ok((status, _)) => (Verdict::ErrorStatus, Some(status), None),
        Err(error) => (Verdict::Unanswered, None, Some(error)),
    };
    Handshake {
        at: clock::rfc3339(now.ms),
        uid: uid.clone(),
        url: callback.to_string(),
        result,
        status: status.map(|status| status.as_u16()),
        error,
        took_ms: clock::millis(started.elapsed()),
    }
}
