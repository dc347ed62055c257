//! What the routes make of a push: publishes, and answers to whoever wrote it.
//!
//! Only a message that may still be an order to a device fires a route: young enough, and not from ourselves; the sender's
//! permission is the caller's to judge. An answer cannot cause another: it comes back to us, if at all, as a message of our
//! own.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tracing::debug;

use crate::delivery::routing::{RouteState, Routing};
use crate::delivery::{Part, Reply};
use crate::local::{Publication, Received, recv_levels};
use crate::os::clock::Stamp;
use crate::protocol::{Call, Message, Uid};
use crate::route::{Outcome, Publish, Said};

/// What the routes make of a push.
#[derive(Debug, Default)]
pub(super) struct Routed {
    /// Its publishes, with the answers that follow them.
    pub(super) parts: Vec<Part>,
    /// What is answered because no route fires.
    pub(super) otherwise: Option<Reply>,
}

/// A push's publishes and answers by routes. `raw_max_age` holds where a route has no `max_age`. `only`: it is published again,
/// by the routes that it fired then; that is neither counted nor held against their rate once more.
pub(super) fn routed(
    routing: &Routing,
    message: &Message,
    (received, at): (&Received, &Stamp),
    own: &Uid,
    raw_max_age: Option<Duration>,
    only: Option<&[Arc<RouteState>]>,
) -> Routed {
    let mut routed = Routed::default();
    if !routing.routes.hear_ilink() || message.from_uid() == Some(own) || only.is_some_and(<[_]>::is_empty) {
        return routed;
    }
    let (Some(recv), Some(content)) = (recv_levels(message), message.content()) else { return routed };
    let from_uid = message.from_uid().map(Uid::as_str);
    let said = Said { recv: &recv, payload: &content.bytes, from_uid, time: message.time() };
    let may_fire = |state: &Arc<RouteState>| only.is_none_or(|only| only.iter().any(|fired| Arc::ptr_eq(fired, state)));
    let reply = |state: &Arc<RouteState>, text| Reply {
        id: reply_id(received, &state.name),
        recv: recv.clone(),
        call: text,
        route: Arc::clone(state),
    };
    let mut understood = false;
    routing.routes.from_ilink(&said, |number, outcome| {
        let Some((route, state)) = routing.from_ilink(number) else { return };
        understood |= matches!(outcome, Outcome::Fires(_));
        if !may_fire(state) {
            return;
        }
        match outcome {
            Outcome::NoMatch => state.counters.no_match.add(),
            Outcome::Missing(why) => {
                state.counters.missing.add();
                debug!(route = state.name, %why, "a push does not fire a route");
            }
            Outcome::Fires(Publish { topic, payload, reply: answer }) => {
                let max_age = route.max_age(raw_max_age);
                if max_age.is_some_and(|most| at.age() > most) {
                    state.counters.late.add();
                // By when it was accepted: what waited for the broker is no loop.
                } else if only.is_some() || state.may_fire(route.max_rate(), at.plus(Duration::ZERO)) {
                    state.counters.fired.add_if(only.is_none());
                    let user_properties = [("id", received.id.to_string()), ("route", state.name.clone())].into();
                    let deadline = max_age.map(|most| at.plus(most));
                    let publication = Publication { user_properties, deadline, ..Publication::raw(topic, payload) };
                    let answer = answer.transpose().unwrap_or_else(|why| {
                        // It is told once, not each time that the message is sent.
                        if only.is_none() {
                            state.cannot_answer(&why);
                        }
                        None
                    });
                    let answer = answer.and_then(|text| answer_to(message, text));
                    let reply = answer.map(|call| Box::new(reply(state, call)));
                    routed.parts.push(Part { publication, route: Some(Arc::clone(state)), reply });
                }
            }
        }
    });
    if !understood && let Some((number, outcome)) = routing.routes.otherwise(&said) {
        let Some((route, state)) = routing.otherwise(number).filter(|(_, state)| may_fire(state)) else {
            return routed;
        };
        match outcome {
            Outcome::NoMatch => {}
            Outcome::Missing(why) => {
                state.counters.missing.add();
                debug!(route = state.name, %why, "a push is not answered");
            }
            Outcome::Fires(text) => {
                if raw_max_age.is_some_and(|most| at.age() > most) {
                    state.counters.late.add();
                } else if only.is_some() || state.may_fire(route.rule().max_rate, at.plus(Duration::ZERO)) {
                    state.counters.fired.add_if(only.is_none());
                    routed.otherwise = answer_to(message, text).map(|call| reply(state, call));
                }
            }
        }
    }
    routed
}

/// The message to where one came from: to the group, else to the sender; none if nobody is known to have sent it.
fn answer_to(message: &Message, content: Vec<u8>) -> Option<Call> {
    match message {
        Message::Group { group, .. } => Some(Call::SendGroup { group: group.clone(), content }),
        _ => message.from_uid().map(|from| Call::SendText { to: from.clone(), content }),
    }
}

/// The same for the same push and route, whenever the answer is given; as old as the push.
fn reply_id(received: &Received, route: &str) -> [u8; 16] {
    const TIME: usize = 6;
    let push = received.id.to_bytes();
    let digest: [u8; 32] = Sha256::new().chain_update(push).chain_update(route).finalize().into();
    let byte = |n: usize| if n < TIME { push.get(n) } else { digest.get(n) };
    std::array::from_fn(|n| byte(n).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::delivery::routing::RouteStates;
    use crate::protocol::Content;
    use crate::route::{FromRule, Maps, OtherwiseRule, PAYLOAD, RuleSet};

    fn lamp(name: &str, from: &str, max_rate: &str) -> FromRule {
        FromRule {
            name: name.to_owned(),
            from: from.to_owned(),
            pattern: Some("^lamp (?<v>on|off)$".to_owned()),
            map: Maps::new(),
            topic: "cmnd/lamp/POWER".to_owned(),
            payload: PAYLOAD.to_owned(),
            max_age: None,
            any_sender: true,
            max_rate: max_rate.parse().unwrap(),
            reply: Some("lamp is ${v}".to_owned()),
            help: Some(format!("lamp on | off ({name})")),
        }
    }

    fn compiled(rules: RuleSet) -> Arc<Routing> {
        let routes = crate::route::Routes::compile(rules, &"ilink".parse().unwrap(), &Arc::default()).unwrap();
        RouteStates::default().routing(&Arc::new(routes))
    }

    fn routing(max_rate: &str) -> Arc<Routing> {
        let otherwise = OtherwiseRule {
            name: "otherwise".to_owned(),
            from: "#".to_owned(),
            reply: "${from_uid}, say\n${help}".to_owned(),
            any_sender: true,
            max_rate: max_rate.parse().unwrap(),
        };
        let lamp = |name, from| lamp(name, from, max_rate);
        compiled(RuleSet {
            from: vec![lamp("user", "user/+/text"), lamp("group", "group/+/+"), lamp("topic", "topic/#")],
            otherwise: vec![otherwise],
            to: vec![],
        })
    }

    fn uid(id: &str) -> Uid {
        id.parse().unwrap()
    }

    fn content(text: &str) -> Content {
        Content { bytes: text.into(), not_base64: false }
    }

    fn text(from: &str, text: &str) -> Message {
        Message::Text { from: uid(from), content: content(text), time: None }
    }

    fn received(n: u128) -> Received {
        Received { id: Ulid::from_parts(7, n), received_at: String::new() }
    }

    fn route(routing: &Routing, message: &Message, only: Option<&[Arc<RouteState>]>) -> Routed {
        let (received, at) = (received(1), Stamp::now());
        routed(routing, message, (&received, &at), &uid("414"), Some(Duration::from_mins(5)), only)
    }

    fn said(reply: &Reply) -> (String, String) {
        let to = reply.call.receiver().unwrap().as_str().to_owned();
        (to, String::from_utf8(reply.call.content().unwrap().to_vec()).unwrap())
    }

    fn answer(to: &str, text: &str) -> (String, String) {
        (to.to_owned(), text.to_owned())
    }

    #[test]
    fn what_fires_is_answered_where_it_came_from() {
        let routing = routing("0");
        let (group, subject) = ("g".parse().unwrap(), "home".parse().unwrap());
        let (from, time) = (uid("413"), None);
        for (message, to) in [
            (text("413", "lamp on"), "413"),
            (Message::Group { from: from.clone(), group, content: content("lamp on"), time }, "g"),
            (Message::Topic { from: Some(from), subject, content: content("lamp on"), time }, "413"),
        ] {
            let Routed { parts, otherwise } = route(&routing, &message, None);
            assert_eq!(said(parts[0].reply.as_ref().unwrap()), answer(to, "lamp is on"));
            assert!(parts.len() == 1 && otherwise.is_none());
        }
        let nobody =
            Message::Topic { from: None, subject: "home".parse().unwrap(), content: content("lamp on"), time: None };
        let Routed { parts, .. } = route(&routing, &nobody, None);
        assert!(parts.len() == 1 && parts[0].reply.is_none(), "it fires, and nobody can be answered");
    }

    #[test]
    fn a_reply_that_cannot_be_made_does_not_hold_back_the_publish() {
        let rule = FromRule { reply: Some("it is ${json:/state}".to_owned()), ..lamp("user", "user/+/text", "0") };
        let routing = compiled(RuleSet { from: vec![rule], ..RuleSet::default() });
        let counters = &routing.state("user").unwrap().counters;
        let Routed { parts, .. } = route(&routing, &text("413", "lamp on"), None);
        assert!(parts.len() == 1 && parts[0].reply.is_none());
        assert_eq!((counters.fired.get(), counters.failed.get(), counters.missing.get()), (1, 1, 0));
        // Sent again, it is counted no more.
        let again = route(&routing, &text("413", "lamp on"), parts[0].route.as_ref().map(std::slice::from_ref));
        assert_eq!((again.parts.len(), counters.failed.get()), (1, 1));
    }

    #[test]
    fn what_fires_nothing_is_told_what_one_may_say() {
        let routing = routing("0");
        let Routed { parts, otherwise } = route(&routing, &text("413", "hello"), None);
        assert!(parts.is_empty());
        assert_eq!(said(&otherwise.unwrap()), answer("413", "413, say\nlamp on | off (user)"));
        let group = "g".parse().unwrap();
        let group = Message::Group { from: uid("413"), group, content: content("hello"), time: None };
        let otherwise = route(&routing, &group, None).otherwise.unwrap();
        assert_eq!(said(&otherwise), answer("g", "413, say\nlamp on | off (group)"));
        // A file has no route, and so no help.
        let file = Message::File { from: uid("413"), content: content("x"), time: None };
        assert!(route(&routing, &file, None).otherwise.is_none());
        let state = routing.state("otherwise").unwrap();
        assert_eq!((state.counters.fired.get(), state.counters.missing.get()), (2, 1));
    }

    #[test]
    fn what_is_cut_off_or_late_is_not_told_that_it_was_not_understood() {
        let routing = routing("1/h");
        let only = |message: &Message| {
            let Routed { parts, otherwise } = route(&routing, message, None);
            (parts.len(), otherwise.is_some())
        };
        assert_eq!(only(&text("413", "lamp on")), (1, false));
        assert_eq!(only(&text("413", "lamp on")), (0, false), "over its rate");
        assert_eq!(only(&text("413", "hello")), (0, true));
        assert_eq!(only(&text("413", "hello")), (0, false), "over its rate");
        let old = Stamp::now();
        let none = Some(Duration::ZERO);
        while old.age().is_zero() {}
        for message in ["lamp on", "hello"] {
            let received = received(1);
            let late = routed(&routing, &text("413", message), (&received, &old), &uid("414"), none, None);
            assert!(late.parts.is_empty() && late.otherwise.is_none(), "{message}");
        }
    }

    #[test]
    fn an_answer_that_is_given_again_has_the_same_id_and_is_not_counted() {
        let routing = routing("1/h");
        for message in ["lamp on", "hello"] {
            let first = route(&routing, &text("413", message), None);
            let reply =
                |routed: Routed| routed.otherwise.or(routed.parts.into_iter().find_map(|part| part.reply.map(|r| *r)));
            let first = reply(first).unwrap();
            let again = reply(route(&routing, &text("413", message), Some(&[Arc::clone(&first.route)]))).unwrap();
            assert_eq!((first.id, &first.call), (again.id, &again.call));
            assert_eq!(first.route.counters.fired.get(), 1);
            assert_eq!(&first.id[..6], &received(1).id.to_bytes()[..6]);
            let nothing = route(&routing, &text("413", message), Some(&[]));
            assert!(reply(nothing).is_none());
        }
        assert_ne!(reply_id(&received(1), "a"), reply_id(&received(2), "a"));
        assert_ne!(reply_id(&received(1), "a"), reply_id(&received(1), "b"));
    }

    proptest! {
        // Whoever says whatever: an answer that comes back to us, as what we said, fires and answers nothing.
        #[test]
        fn no_answer_causes_another(from in "[0-9]{1,4}|(?s).{1,5}", said in "lamp (on|off)|(?s).{0,20}", kind in 0..4) {
            let routing = routing("0");
            let (from, own) = (uid(&from), uid("414"));
            let message = |from: Uid, text: &str| {
                let (content, time) = (content(text), None);
                match kind {
                    0 => Message::Text { from, content, time },
                    1 => Message::File { from, content, time },
                    2 => Message::Group { from, group: "g".parse().unwrap(), content, time },
                    _ => Message::Topic { from: Some(from), subject: "s".parse().unwrap(), content, time },
                }
            };
            let first = route(&routing, &message(from.clone(), &said), None);
            let replies = first.parts.into_iter().filter_map(|part| part.reply.map(|reply| *reply)).chain(first.otherwise);
            for reply in replies {
                prop_assert!(reply.call.receiver().unwrap().as_str() != own.as_str(), "answers itself");
                let text = String::from_utf8_lossy(reply.call.content().unwrap()).into_owned();
                let back = route(&routing, &message(own.clone(), &text), None);
                prop_assert!(back.parts.is_empty() && back.otherwise.is_none());
            }
        }
    }
}
