//! Finds publications that no broker would take, before they are sent.
//!
//! A broker closes the connection when it gets a malformed packet. One such message would close every connection on which it is
//! sent, for ever. The size limit of a particular broker is known only after CONNACK, and is checked then.

use super::delivery::Refusal;
use crate::local::Publication;
use crate::local::escape::has_unsendable;
use crate::local::filter::{MAX_SLASHES, MAX_STRING};

/// Whether the publication can be sent to any broker at all.
pub(super) fn check(publication: &Publication) -> Result<(), Refusal> {
    let topic = &publication.topic;
    if topic.is_empty() {
        return refuse("the topic is empty");
    }
    if topic.len() > MAX_STRING {
        return refuse(&format!("the topic has {} bytes, MQTT allows {MAX_STRING}", topic.len()));
    }
    if topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return refuse("the topic has a wildcard");
    }
    if has_unsendable(topic) {
        return refuse("the topic has a character that brokers do not take");
    }
    let slashes = topic.bytes().filter(|byte| *byte == b'/').count();
    if slashes > MAX_SLASHES {
        return refuse(&format!("the topic has {slashes} slashes, brokers take {MAX_SLASHES}"));
    }
    for (key, value) in &*publication.user_properties {
        if value.len() > MAX_STRING {
            return refuse(&format!("the user property {key} has {} bytes, MQTT allows {MAX_STRING}", value.len()));
        }
        if has_unsendable(value) {
            return refuse(&format!("the user property {key} has a character that brokers do not take"));
        }
    }
    if publication.correlation_data.as_ref().is_some_and(|data| data.len() > MAX_STRING) {
        return refuse("the correlation data is too long for MQTT");
    }
    Ok(())
}

fn refuse(reason: &str) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.to_owned(), remedy: "nothing: no broker would take this message".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(topic: &str) -> Publication {
        Publication::raw(topic.to_owned(), "x")
    }

    fn reason(publication: &Publication) -> String {
        check(publication).unwrap_err().reason
    }

    #[test]
    fn ordinary_publications_pass() {
        for topic in ["ilink/recv/user/1/text", "/", "a//b", "开/灯", &"/".repeat(MAX_SLASHES), &"x".repeat(MAX_STRING)]
        {
            assert_eq!(check(&of(topic)), Ok(()), "{topic}");
        }
    }

    #[test]
    fn topics_that_would_close_the_connection_are_refused() {
        for topic in ["", "a/+", "a/#", "a\0", "a\u{1}", "a\u{85}", "a\u{fffe}", "a\u{fdd0}"] {
            assert!(check(&of(topic)).is_err(), "{topic:?}");
        }
        assert!(reason(&of(&"/".repeat(MAX_SLASHES + 1))).contains("201 slashes"));
        assert!(reason(&of(&"x".repeat(MAX_STRING + 1))).contains("65536 bytes"));
    }

    #[test]
    fn so_are_properties() {
        let with = |value: &str| Publication { user_properties: [("id", value.to_owned())].into(), ..of("t") };
        assert_eq!(check(&with("x")), Ok(()));
        assert!(reason(&with(&"x".repeat(MAX_STRING + 1))).contains("user property id has 65536"));
        assert!(check(&with("\0")).is_err());
        let data = Some(vec![0; MAX_STRING + 1].into());
        assert!(reason(&Publication { correlation_data: data, ..of("t") }).contains("correlation data"));
    }
}
