//! The topics under the base: all that the bridge publishes to, and the structure of those it takes commands from.
//!
//! Ids are escaped here and nowhere else. What a command topic asks for is defined in [`command`](super::command).

use std::fmt;
use std::str::FromStr;

use super::escape::{escape_id, escape_subject, escape_unsendable, is_unsendable};
use super::filter::{MAX_SLASHES, MAX_STRING};
use crate::protocol::{GroupId, Kind, Message, Subject, Uid};

/// Generous for a name, and leaves most of a topic's 65,535 bytes and 200 levels to the ids.
const MAX_BASE: usize = 256;

/// The topic that everything of one account lives under (`mqtt.base_topic`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Base(String);

/// A base topic that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBase {
    /// The topic, or a level of it, is empty.
    #[error("a base topic has no empty levels: no leading, trailing or double slash")]
    EmptyLevel,
    /// It has a character with a meaning of its own in MQTT, or that brokers refuse.
    #[error("a base topic has no +, #, $ and no control characters")]
    Character,
    /// It is longer than 256 bytes.
    #[error("a base topic has at most 256 bytes")]
    TooLong,
}

/// Where the results of a command go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultTopics {
    /// The whole result, in JSON.
    pub result: String,
    /// Its name alone, for commands from per-client topics.
    pub ack: Option<String>,
}

/// A topic that the bridge takes commands from, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandTopic<'a> {
    /// The level after `by/`, verbatim.
    pub client: Option<&'a str>,
    pub tree: Tree,
    /// From `send` or `call` on, verbatim.
    pub command: &'a str,
    /// What follows `send/` or `call/`; empty if nothing does.
    pub rest: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Send,
    Call,
}

/// The levels under `recv/` of a message; none if it is no order that a device could take.
#[must_use]
pub fn recv_levels(message: &Message) -> Option<String> {
    Some(match message {
        Message::Text { from, .. } => format!("user/{}/text", escape_id(from.as_str())),
        Message::File { from, .. } => format!("user/{}/file", escape_id(from.as_str())),
        Message::Group { from, group, .. } => {
            format!("group/{}/{}", escape_id(group.as_str()), escape_id(from.as_str()))
        }
        Message::Topic { subject, .. } => format!("topic/{}", escape_subject(subject.as_str())),
        Message::Presence { .. } | Message::Other { .. } => return None,
    })
}

impl FromStr for Base {
    type Err = BadBase;

    fn from_str(base: &str) -> Result<Self, BadBase> {
        if base.len() > MAX_BASE {
            return Err(BadBase::TooLong);
        }
        if base.contains(|c| matches!(c, '+' | '#' | '$') || is_unsendable(c)) {
            return Err(BadBase::Character);
        }
        if base.split('/').any(str::is_empty) { Err(BadBase::EmptyLevel) } else { Ok(Self(base.to_owned())) }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Base {
    /// The base topic itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn under(&self, rest: &str) -> String {
        format!("{}/{rest}", self.0)
    }

    /// The raw topic of a message, if it has one: [`recv_levels`] under `recv/`.
    #[must_use]
    pub fn recv(&self, message: &Message) -> Option<String> {
        recv_levels(message).map(|levels| self.under(&format!("recv/{levels}")))
    }

    /// Whether a user is online (retained).
    #[must_use]
    pub fn presence(&self, uid: &Uid) -> String {
        self.under(&format!("presence/{}", escape_id(uid.as_str())))
    }

    /// The last picture of a user (retained).
    #[must_use]
    pub fn picture(&self, uid: &Uid) -> String {
        self.under(&format!("picture/{}", escape_id(uid.as_str())))
    }

    /// The pictures of all users, as a filter.
    #[must_use]
    pub fn pictures(&self) -> String {
        self.under("picture/+")
    }

    /// The envelopes of a kind.
    #[must_use]
    pub fn event(&self, kind: Kind) -> String {
        self.under(&format!("event/{}", kind.as_str()))
    }

    /// The envelopes of every kind, as a filter.
    #[must_use]
    pub fn events(&self) -> String {
        self.under("event/+")
    }

    /// Where a text for a user is sent.
    #[must_use]
    pub fn send_text(&self, uid: &Uid) -> String {
        self.under(&format!("send/user/{}/text", escape_id(uid.as_str())))
    }

    /// Where a message for a group is sent.
    #[must_use]
    pub fn send_group(&self, group: &GroupId) -> String {
        self.under(&format!("send/group/{}", escape_id(group.as_str())))
    }

    /// Where a message for a subject is sent.
    #[must_use]
    pub fn send_topic(&self, subject: &Subject) -> String {
        self.under(&format!("send/topic/{}", escape_subject(subject.as_str())))
    }

    /// A topic about the bridge itself: `state`, `cloud`, `info`, `health`.
    #[must_use]
    pub fn bridge(&self, name: &str) -> String {
        self.under(&format!("bridge/{name}"))
    }

    /// Everything that the bridge takes commands from. It never publishes there, except for its self-test.
    #[must_use]
    pub fn command_filters(&self) -> [String; 4] {
        ["send/#", "call/#", "by/+/send/#", "by/+/call/#"].map(|filter| self.under(filter))
    }

    /// The topic by which the bridge probes whether it hears its own command topics; never executed.
    #[must_use]
    pub fn self_test(&self, random: &str) -> String {
        self.under(&format!("call/self_test/{random}"))
    }

    /// Where the results of a command go that came on `command_topic`; none if no commands come there. Verbatim, but for what
    /// no broker takes: the result's topic is longer than the command's, and one that becomes too long is cut after a level,
    /// where a subscription of the form `…/#` still hears it (nobody can subscribe to what was cut off).
    #[must_use]
    pub fn result(&self, command_topic: &str) -> Option<ResultTopics> {
        let CommandTopic { client, command, .. } = self.command_topic(command_topic)?;
        let topic = |prefix: String| publishable(&prefix, command);
        let Some(client) = client else {
            return Some(ResultTopics { result: topic(self.under("result")), ack: None });
        };
        let client = publishable("", client);
        let of_client = |tree: &str| self.under(&format!("by/{client}/{tree}"));
        Some(if of_client("result").len() < MAX_STRING {
            ResultTopics { result: topic(of_client("result")), ack: Some(topic(of_client("ack"))) }
        } else {
            ResultTopics { result: self.under("result/by"), ack: None }
        })
    }

    /// The client that a command's topic names, verbatim: the level after `by/`.
    #[must_use]
    pub fn client<'a>(&self, command_topic: &'a str) -> Option<&'a str> {
        self.command_topic(command_topic)?.client
    }

    /// What a command that a route made of a message on `topic` has for its own topic; nobody publishes there.
    #[must_use]
    pub fn route_origin(&self, route: &str, topic: &str) -> String {
        self.under(&format!("route/{route}/{topic}"))
    }

    /// The route and the device's topic in what [`Base::route_origin`] made.
    #[must_use]
    pub fn origin_of_route<'a>(&self, origin: &'a str) -> Option<(&'a str, &'a str)> {
        self.strip(origin)?.strip_prefix("route/")?.split_once('/')
    }

    /// Where the failures of a route go.
    #[must_use]
    pub fn route_result(&self, route: &str) -> String {
        self.under(&format!("result/route/{route}"))
    }

    /// `topic` without the base and the slash after it; none if it is not under the base.
    #[must_use]
    pub fn strip<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&self.0)?.strip_prefix('/')
    }

    /// Takes a topic apart that one of [`Base::command_filters`] selects; none for any other.
    pub(super) fn command_topic<'a>(&self, topic: &'a str) -> Option<CommandTopic<'a>> {
        let rest = self.strip(topic)?;
        let (client, command) = match rest.strip_prefix("by/") {
            Some(rest) => rest.split_once('/').map(|(client, command)| (Some(client), command))?,
            None => (None, rest),
        };
        // `send/#` selects `send` too.
        let (tree, rest) = command.split_once('/').unwrap_or((command, ""));
        let tree = match tree {
            "send" => Tree::Send,
            "call" => Tree::Call,
            _ => return None,
        };
        Some(CommandTopic { client, tree, command, rest })
    }
}

/// `prefix` and, after a slash, as many levels of `rest` as brokers take in one topic, with escapes for the characters that
/// they do not take. Without a prefix, `rest` is one level, and only escaped.
fn publishable(prefix: &str, rest: &str) -> String {
    let mut topic = prefix.to_owned();
    let mut slashes = topic.matches('/').count();
    for level in rest.split('/') {
        let level = escape_unsendable(level);
        if !prefix.is_empty() {
            slashes += 1;
            if slashes > MAX_SLASHES || topic.len() + 1 + level.len() > MAX_STRING {
                break;
            }
            topic.push('/');
        }
        topic.push_str(&level);
    }
    topic
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::filter::matches;
    use crate::protocol::Push;

    fn base() -> Base {
        "ilink".parse().unwrap()
    }

    #[test]
    fn bases() {
        for good in ["ilink", "home/ilink", "中/文 x"] {
            assert_eq!(good.parse::<Base>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadBase::EmptyLevel),
            ("/ilink", BadBase::EmptyLevel),
            ("ilink/", BadBase::EmptyLevel),
            ("a//b", BadBase::EmptyLevel),
            ("a/+", BadBase::Character),
            ("#", BadBase::Character),
            ("$SYS", BadBase::Character),
            ("a$b", BadBase::Character),
            ("a\nb", BadBase::Character),
        ] {
            assert_eq!(bad.parse::<Base>(), Err(why), "{bad:?}");
        }
        assert_eq!("a".repeat(257).parse::<Base>(), Err(BadBase::TooLong));
    }

    #[test]
    fn publishing_topics() {
        let uid: Uid = "a/b".parse().unwrap();
        let recv = |json: &str| base().recv(&Push::decode(json.as_bytes()).unwrap().message);
        for (push, topic) in [
            (r#"{"from_uid":"a/b","msg_type":1,"content":""}"#, Some("ilink/recv/user/a%2Fb/text")),
            (r#"{"from_uid":"a/b","msg_type":2,"content":""}"#, Some("ilink/recv/user/a%2Fb/file")),
            (r#"{"from_uid":"a/b","group_id":"g+1","msg_type":3,"content":""}"#, Some("ilink/recv/group/g%2B1/a%2Fb")),
            (r#"{"group_id":"/home//lamp","msg_type":4,"content":""}"#, Some("ilink/recv/topic/%2Fhome/%2Flamp")),
            (r#"{"from_uid":"a/b","msg_type":4,"type":1,"time":1}"#, None),
            ("{}", None),
        ] {
            assert_eq!(recv(push).as_deref(), topic, "{push}");
        }
        assert_eq!(base().presence(&uid), "ilink/presence/a%2Fb");
        assert_eq!(base().picture(&uid), "ilink/picture/a%2Fb");
        assert!(matches(&base().pictures(), &base().picture(&uid)));
        assert_eq!(base().send_group(&"g+1".parse().unwrap()), "ilink/send/group/g%2B1");
        assert_eq!(base().send_topic(&"home//lamp".parse().unwrap()), "ilink/send/topic/home/%2Flamp");
        assert_eq!(base().event(Kind::Other), "ilink/event/other");
        assert_eq!(base().bridge("state"), "ilink/bridge/state");
        assert_eq!(base().self_test("x1"), "ilink/call/self_test/x1");
    }

    #[test]
    fn results_answer_where_the_command_came_from_verbatim() {
        let result = |topic: &str| base().result(topic).map(|topics| (topics.result, topics.ack));
        let open = |topic: &str| Some((topic.to_owned(), None));
        assert_eq!(result("ilink/send/user/414/text"), open("ilink/result/send/user/414/text"));
        assert_eq!(result("ilink/send/topic/a//b%2f/"), open("ilink/result/send/topic/a//b%2f/"));
        assert_eq!(result("ilink/send"), open("ilink/result/send"));
        assert_eq!(result("ilink/call/nonsense"), open("ilink/result/call/nonsense"));
        let own =
            |rest: &str| Some((format!("ilink/by/c %zz/result/{rest}"), Some(format!("ilink/by/c %zz/ack/{rest}"))));
        assert_eq!(result("ilink/by/c %zz/send/group/1"), own("send/group/1"));
        assert_eq!(result("ilink/by/c %zz/call"), own("call"));
        for other in ["ilink", "ilink/", "ilink/sender", "ilink/by/c", "ilink/by/c/d/send", "x/send/a", "ilink2/send/a"]
        {
            assert_eq!(result(other), None, "{other}");
        }
    }

    #[test]
    fn a_result_topic_that_no_broker_takes_is_cut_after_a_level() {
        let result = |topic: &str| base().result(topic).unwrap();
        let slashes = |n: usize| format!("ilink/send/topic/a{}", "/b".repeat(n - 3));
        let fits = slashes(199);
        assert_eq!(result(&fits).result, fits.replacen("ilink/", "ilink/result/", 1));
        // One more slash than brokers take.
        assert_eq!(result(&slashes(200)).result, result(&fits).result);
        let long = "x".repeat(65_535 - "ilink/send/user//text".len());
        let long = format!("ilink/send/user/{long}/text");
        assert_eq!((long.len(), result(&long).result.as_str()), (65_535, "ilink/result/send/user"));
        let by = result(&format!("ilink/by/c/send/topic{}", "/".repeat(196)));
        assert_eq!(by.result, format!("ilink/by/c/result/send/topic{}", "/".repeat(195)));
        assert_eq!(by.ack.unwrap(), format!("ilink/by/c/ack/send/topic{}", "/".repeat(195)));
        let client = "c".repeat(65_520);
        assert_eq!(result(&format!("ilink/by/{client}/send")).result, "ilink/result/by");
        assert_eq!(result("ilink/send/user/a\u{1}b/text").result, "ilink/result/send/user/a%01b/text");
    }

    #[test]
    fn a_routes_origin_is_no_command_topic() {
        let origin = base().route_origin("power-state", "stat/lamp/POWER");
        assert_eq!(base().origin_of_route(&origin), Some(("power-state", "stat/lamp/POWER")));
        assert_eq!(base().result(&origin), None);
        assert_eq!(base().origin_of_route("ilink/send/route/a/b"), None);
        assert_eq!(base().route_result("power-state"), "ilink/result/route/power-state");
    }

    #[test]
    fn command_topics_are_what_the_filters_select_and_results_go_elsewhere() {
        for topic in
            ["send", "send/a", "call/a/b", "by/c/send", "by//call/x", "by/send/send/a", "result/send", "by/c", "by"]
        {
            let topic = format!("ilink/{topic}");
            let hears = |topic: &str| base().command_filters().iter().any(|filter| matches(filter, topic));
            assert_eq!(base().command_topic(&topic).is_some(), hears(&topic), "{topic}");
            for answer in base().result(&topic).into_iter().flat_map(|t| [Some(t.result), t.ack]).flatten() {
                assert!(!hears(&answer), "{answer}");
            }
        }
    }
}
