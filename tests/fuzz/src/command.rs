//! What devices ask for: topic, payload and properties of an MQTT message, and the operator's lines on the control socket.

use std::time::Duration;

use ilink2mqtt::local::command::{decode, decode_call, reference};
use ilink2mqtt::local::{Command, CommandResult, Parsed, Reference, Rejection, response_topic_allowed};
use ilink2mqtt::mqtt::Incoming;
use ilink2mqtt::operate::control::parse_call;
use ilink2mqtt::operate::control::{Answer, Verb};
use ilink2mqtt::os::clock::Stamp;
use ilink2mqtt::outbound::record::{self, Mark, Record, ReplyTo};
use ilink2mqtt::outbound::redelivery::digest;
use ilink2mqtt::protocol::{Call, Receiver, content};
use serde_json::Value;
use serde_json::value::RawValue;
use ulid::Ulid;

use super::input::{account, assert_mqtt_string, base, names, parts, rules, switches, text};

/// Switches, the topic without the base, Response Topic, Correlation Data, payload.
pub fn run(data: &[u8]) {
    let [options, topic, response_topic, correlation_data, payload] = parts(data);
    let [control, retain, has_response, has_data, dup, ..] = switches(options);
    if control {
        return check_control(payload);
    }
    let message = Incoming {
        topic: format!("{}/{}", base(), text(topic)),
        payload: payload.to_vec().into(),
        qos: 1,
        retain,
        dup,
        pkid: 7,
        connection: 2,
        arrival: 3,
        session_present: true,
        message_expiry: Some(60),
        response_topic: has_response.then(|| text(response_topic)),
        correlation_data: has_data.then(|| correlation_data.to_vec().into()),
        ..Incoming::default()
    };
    check_digest(&message);
    let reply_to = reply_to(&message);
    let mark = reference(&base(), &message.topic, payload);
    match decode(&base(), &message.topic, payload, &rules(), &names()) {
        Ok(Parsed::Command(command)) => {
            assert_eq!(command.reference, mark);
            check_command(command, &message, &reply_to);
        }
        Ok(Parsed::SelfTest(random)) => assert_eq!(base().self_test(&random), message.topic),
        Err(rejection) => {
            assert!(rejection.reference.is_none() || rejection.reference == mark);
            check_rejection(rejection, &reply_to, payload);
        }
    }
}

fn reply_to(message: &Incoming) -> ReplyTo {
    let filters = [format!("{}/reply/#", base()), "answers/#".to_owned()];
    let allowed = |topic: &String| response_topic_allowed(topic, &base(), "homeassistant", &filters).is_ok();
    let response_topic = message.response_topic.clone().filter(allowed);
    let correlation_data = response_topic.as_ref().and(message.correlation_data.as_ref()).map(|data| data.to_vec());
    ReplyTo { topic: message.topic.clone(), response_topic, correlation_data }
}

/// A redelivery is told by everything but packet id, DUP and expiry, and by nothing less.
fn check_digest(message: &Incoming) {
    let again = |change: fn(&mut Incoming)| {
        let mut again = Incoming {
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            response_topic: message.response_topic.clone(),
            correlation_data: message.correlation_data.clone(),
            user_properties: Vec::new(),
            content_type: None,
            ack: None,
            ..*message
        };
        change(&mut again);
        digest(&again)
    };
    let own = digest(message);
    assert_eq!(again(|m| (m.dup, m.pkid, m.message_expiry) = (!m.dup, m.pkid + 1, None)), own);
    assert_ne!(again(|m| m.retain = !m.retain), own);
    assert_ne!(again(|m| m.topic.push('x')), own);
    assert_ne!(again(|m| m.correlation_data = m.correlation_data.is_none().then(Default::default)), own);
}

fn check_command(command: Command, message: &Incoming, reply_to: &ReplyTo) {
    let Command { call, reference, ttl } = command;
    assert!(ttl.is_none_or(|ttl| (1..=2_592_000).contains(&ttl)));
    check_request(&call);
    if let Some(mark) = &reference {
        let json = mark.as_json();
        assert!(json.starts_with(|c: char| matches!(c, '"' | '-') || c.is_ascii_digit()), "{json}");
    }
    let command = record::Command {
        id: [7; 16],
        at: Stamp::now(),
        ttl: Duration::from_secs(ttl.unwrap_or(300)),
        reference: reference.clone(),
        reply_to: reply_to.clone(),
        call,
        attempts: 1,
        unknown: 1,
        mark: Mark::Unsent,
    };
    let _ = (command.deadline(), command.has_expired(), command.elapsed_ms());
    // What the spool stores is what was asked for.
    let row = Record::Command(command);
    assert_eq!(Record::decode(&row.encode()).unwrap(), row);
    let result = CommandResult::expired(Ulid::from_parts(7, 8), reference, None, "cause", 1, 2);
    check_result(&result, reply_to, &message.payload);
}

/// iLink is sent what was asked for, and nothing that proves who we are but what the manual wants.
pub fn check_request(call: &Call) {
    let request = call.request(&account());
    assert!(call.name().starts_with(request.path));
    let text = serde_json::to_string(&request.body).unwrap();
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(request.with_token, body.get("send_uid").is_some());
    assert_eq!(request.with_token, body.get("secretkey").is_none());
    let sent = body.get("content").map(|sent| content::decode(sent.as_str().unwrap()));
    assert_eq!(sent.as_ref().map(|sent| &sent.bytes[..]), call.content());
    assert!(sent.is_none_or(|sent| !sent.not_base64));
    let receiver = match call.receiver() {
        None => return,
        Some(Receiver::User(uid)) => body["accept_uid"] == uid.as_str(),
        Some(Receiver::Group(group)) => body["group_id"] == group.as_str(),
        Some(Receiver::Subject(subject)) => subject.is_publishable() && body["subject"] == subject.as_str(),
    };
    assert!(receiver, "{call:?} is sent to somebody else");
}

fn check_rejection(rejection: Rejection, reply_to: &ReplyTo, payload: &[u8]) {
    assert!(!rejection.message.is_empty() && rejection.message.len() < 900, "{}", rejection.message);
    check_result(&CommandResult::rejected(Ulid::from_parts(7, 8), rejection, 0), reply_to, payload);
}

/// A result comes out of the spool as it went in, carries the requester's mark as it was written, and goes to its topics.
fn check_result(result: &CommandResult, reply_to: &ReplyTo, payload: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Marked<'a> {
        #[serde(rename = "ref", borrow)]
        mark: Option<&'a RawValue>,
    }
    let json = result.to_json();
    assert_eq!(CommandResult::from_json(&json).unwrap(), *result);
    let mark = serde_json::from_slice::<Marked>(&json).unwrap().mark.map(RawValue::get);
    assert_eq!(mark, result.reference.as_ref().map(Reference::as_json));
    if let (Some(mark), Ok(sent)) = (mark, serde_json::from_slice::<Marked>(payload)) {
        assert_eq!(sent.mark.map(RawValue::get), Some(mark));
    }

    let publications = reply_to.publications(&base(), result);
    assert_eq!(publications.is_empty(), base().result(&reply_to.topic).is_none());
    let filters = base().command_filters();
    for publication in &publications {
        let heard = filters.iter().any(|filter| ilink2mqtt::local::filter::matches(filter, &publication.topic));
        assert!(!heard && !publication.retain, "{publication:?}");
        assert!(publication.payload == json || publication.payload == *result.name);
        assert!(publication.correlation_data.is_none() || Some(&publication.topic) == reply_to.response_topic.as_ref());
    }
    if let Some(topic) = reply_to.response_topic.as_ref().filter(|_| !publications.is_empty()) {
        assert_mqtt_string(topic);
        assert!(publications.iter().any(|publication| publication.topic == *topic));
    }
}

/// A line on the control socket is a verb or is refused; a call is the call that MQTT takes.
fn check_control(line: &[u8]) {
    let Ok(verb) = serde_json::from_slice::<Verb>(line) else { return };
    assert_eq!(serde_json::from_slice::<Verb>(&serde_json::to_vec(&verb).unwrap()).unwrap(), verb);
    if let Verb::Call { name, json } = &verb {
        match (
            parse_call(name, json, rules().max_content, &names()),
            decode_call(name, json.as_bytes(), &rules(), &names()),
        ) {
            (Ok(call), Ok(command)) => {
                assert_eq!(call, command.call);
                check_request(&call);
            }
            (Err(refused), Err(_)) => {
                assert!(refused.exit != 0);
                let answer = serde_json::to_vec(&refused).unwrap();
                assert_eq!(serde_json::from_slice::<Answer>(&answer).unwrap(), refused);
                assert!(!answer.contains(&b'\n'));
            }
            (one, other) => panic!("{one:?} but {other:?}"),
        }
    }
}
