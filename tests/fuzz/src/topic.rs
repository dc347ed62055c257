//! Topics that devices choose: escaped ids and their inverse, filters, where results and responses go.

use ilink2mqtt::local::BadTopic;
use ilink2mqtt::local::command::{decode, reference};
use ilink2mqtt::local::escape::{
    escape_id, escape_property, escape_subject, is_unsendable, unescape_id, unescape_subject,
};
use ilink2mqtt::local::filter::{MAX_SLASHES, MAX_STRING, is_valid_filter, matches};
use ilink2mqtt::local::{Base, Parsed, response_topic_allowed};

use super::input::{assert_publishable, base, names, parts, rules, text};

/// Two texts that are tried as ids, topics and filters, then one that is tried as a base.
pub fn run(data: &[u8]) {
    let [one, other, own] = parts(data).map(text);
    check_escape(&one);
    check_escape(&other);
    // No two ids share a topic.
    assert_eq!(escape_id(&one) == escape_id(&other), one == other);
    assert_eq!(escape_subject(&one) == escape_subject(&other), one == other);
    check_inverse(&one);
    check_filter(&one, &other);
    let own: Base = own.parse().unwrap_or_else(|_| base());
    assert_publishable(&own, &own.bridge("state"));
    check_command_topic(&own, &one);
    check_command_topic(&own, &format!("{own}/{one}"));
    check_command_topic(&own, &format!("{own}/by/{one}"));
    check_response_topic(&own, &one, &other);
    check_response_topic(&own, &format!("{own}/{one}"), &format!("{own}/{other}"));
}

fn check_escape(id: &str) {
    let refused = |wildcards: bool| match id {
        "" => Some(BadTopic::Empty),
        _ if id.contains('\0') => Some(BadTopic::Nul),
        _ if wildcards && id.contains(['#', '+']) => Some(BadTopic::Wildcard),
        _ => None,
    };
    let expected = |wildcards| refused(wildcards).map_or_else(|| Ok(id.to_owned()), Err);
    let (level, levels) = (escape_id(id), escape_subject(id));
    assert_eq!(unescape_id(&level), expected(false));
    assert_eq!(unescape_subject(&levels), expected(true));
    assert!(!level.contains('/'));
    assert!(!level.starts_with('@') && !levels.starts_with('@'), "an id that is taken for a name");
    for topic in [&level, &levels] {
        assert!(!topic.contains(['+', '#']) && !topic.contains(is_unsendable), "{topic:?}");
        assert!(id.is_empty() || topic.split('/').all(|level| !level.is_empty()), "{topic:?}");
    }
    assert!(!escape_property(id).contains(is_unsendable));
}

/// What a topic stands for is the same when it is written as the bridge writes it.
fn check_inverse(topic: &str) {
    if let Ok(id) = unescape_id(topic) {
        assert_eq!(unescape_id(&escape_id(&id)), Ok(id));
    }
    if let Ok(subject) = unescape_subject(topic) {
        assert_eq!(unescape_subject(&escape_subject(&subject)), Ok(subject));
    }
}

/// The rules of MQTT 5 §4.7 once more, word by word.
fn check_filter(filter: &str, topic: &str) {
    fn selects(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([wanted, filter @ ..], [level, topic @ ..]) => {
                (*wanted == "+" || wanted == level) && selects(filter, topic)
            }
            _ => false,
        }
    }
    let is_filter = is_valid_filter(filter);
    if !filter.contains(['+', '#']) {
        assert_eq!(matches(filter, topic), filter == topic);
        assert_eq!(is_filter, !filter.is_empty() && filter.len() <= MAX_STRING && !filter.contains('\0'));
    }
    if is_filter && !topic.contains(['+', '#']) {
        let (levels, wanted): (Vec<_>, Vec<_>) = (topic.split('/').collect(), filter.split('/').collect());
        let hidden = topic.starts_with('$') && !filter.starts_with('$');
        assert_eq!(matches(filter, topic), !hidden && selects(&wanted, &levels), "{filter:?} {topic:?}");
    }
}

/// Commands are taken from what the command filters select and from nowhere else, and their results go elsewhere.
fn check_command_topic(base: &Base, topic: &str) {
    let filters = base.command_filters();
    let hears = |topic: &str| filters.iter().any(|filter| matches(filter, topic));
    let results = base.result(topic);
    assert_eq!(results.is_some(), hears(topic), "{topic:?}");
    for answer in results.iter().flat_map(|topics| [Some(&topics.result), topics.ack.as_ref()]).flatten() {
        assert!(base.strip(answer).is_some() && !hears(answer), "{answer:?} comes back as a command");
        assert!(answer.len() <= MAX_STRING && answer.matches('/').count() <= MAX_SLASHES);
        assert!(!answer.contains(['+', '#']) && !answer.contains(is_unsendable), "{answer:?} is no topic");
    }
    let _ = reference(base, topic, br#"{"ref":1}"#);
    match decode(base, topic, b"x", &rules(), &names()) {
        Ok(Parsed::Command(command)) => {
            assert!(results.is_some() && command.call.receiver().is_some());
        }
        Ok(Parsed::SelfTest(random)) => assert_eq!(base.self_test(&random), topic),
        Err(rejection) => assert!(!rejection.message.is_empty() && rejection.message.len() < 700),
    }
}

fn check_response_topic(base: &Base, topic: &str, filter: &str) {
    let filters = [filter.to_owned(), format!("{base}/reply/#"), "#".to_owned()];
    if response_topic_allowed(topic, base, "homeassistant", &filters).is_ok() {
        assert!(!topic.is_empty() && topic.len() <= MAX_STRING && !topic.contains(['+', '#', '$']));
        assert!(!topic.contains(is_unsendable) && base.result(topic).is_none());
        for own in ["send", "call", "result", "recv", "event", "presence", "bridge"] {
            assert!(!matches(&format!("{base}/{own}/#"), topic), "{topic:?}");
        }
        assert!(!topic.starts_with("homeassistant/") || filter.starts_with("homeassistant"));
    }
}
