//! `route test` and `route list`: what the rules make of a message, without a daemon, a broker or iLink.

use std::fmt::Write;

use crate::local::escape::unescape_id;
use crate::os::clock;
use crate::protocol::{Call, Receiver, Uid};
use crate::route::{Heard, Keep, Outcome, Publish, Routes, Said, Side, Telling, ToRoute, with_ids};

/// Whose messages fire no route, whatever its rule says.
#[derive(Debug, Clone, Copy)]
pub struct Senders<'c> {
    /// The bridge's own uid: it could hear itself.
    pub own: &'c Uid,
    /// `inbound.allow_from`: if it is not empty, everybody who is not in it.
    pub allow_from: &'c [Uid],
}

impl Senders<'_> {
    /// Why messages of this sender fire nothing, if that is so.
    fn refused(&self, uid: &str) -> Option<&'static str> {
        if self.own.as_str() == uid {
            Some("they are the bridge's own messages (ilink.uid), which fire none")
        } else if !self.allow_from.is_empty() && !self.allow_from.iter().any(|allowed| allowed.as_str() == uid) {
            Some("the sender is not in inbound.allow_from")
        } else {
            None
        }
    }
}

/// What the routes make of a message from iLink: `recv` is its topic under `recv/`, in which ids may be names. Who publishes to
/// a topic does not stand in it: that is `sender`; without one anybody is taken to be allowed.
///
/// # Errors
/// If no message has that topic, it names its sender itself, or there is no such name.
pub fn from_ilink(
    routes: &Routes,
    senders: Senders<'_>,
    recv: &str,
    sender: Option<&str>,
    payload: &[u8],
) -> Result<String, String> {
    let recv = with_ids(recv, routes.names())?;
    let recv = recv.as_str();
    let levels: Vec<&str> = recv.split('/').collect();
    let publisher = sender.map(|written| id(written, routes)).transpose()?;
    let sender = match levels.as_slice() {
        ["user" | "group", ..] if publisher.is_some() => {
            return Err(format!("--sender is for topic/<subject> only: {recv} says who sends"));
        }
        ["user", uid, "text" | "file"] => Some(unescape_id(uid).map_err(|error| error.to_string())?),
        ["group", _, uid] => Some(unescape_id(uid).map_err(|error| error.to_string())?),
        ["topic", _, ..] => publisher,
        _ => {
            return Err(format!(
                "no message from iLink has the levels {recv}; they are user/<uid>/text, user/<uid>/file, \
                 group/<group_id>/<uid> or topic/<subject>"
            ));
        }
    };
    if let Some(why) = sender.as_deref().and_then(|uid| senders.refused(uid)) {
        return Ok(format!("no route fires for {recv}: {why}\n"));
    }
    let said = Said { recv, payload, from_uid: sender.as_deref(), time: Some(seconds()) };
    let to = match levels.as_slice() {
        ["group", group, _] => format!("group {}", unescape_id(group).map_err(|error| error.to_string())?),
        _ => sender.as_deref().map_or_else(|| "whoever published it".to_owned(), |uid| format!("user {uid}")),
    };
    let replies = |text: &[u8]| format!("replies to {to}: {}", shown(text));
    let (mut text, mut fired) = (String::new(), false);
    routes.from_ilink(&said, |number, outcome| {
        let name = routes.from_routes().get(number).map_or("", |route| route.name());
        let mut answer = None;
        let does = outcome.map(|Publish { topic, payload, reply }| {
            answer = reply;
            format!("publishes to {topic}: {}", shown(&payload))
        });
        fired |= matches!(does, Outcome::Fires(_));
        let does = match does {
            Outcome::Missing(why) if sender.is_none() && why.contains("${from_uid}") => {
                Outcome::Missing(format!("{why}: name who publishes with --sender").into())
            }
            does => does,
        };
        line(&mut text, name, does);
        if let Some(answer) = answer {
            let answer = answer.map_or_else(|why| format!("cannot reply: {why}"), |answer| replies(&answer));
            line(&mut text, name, Outcome::Fires(answer));
        }
    });
    if !fired && let Some((number, outcome)) = routes.otherwise(&said) {
        let name = routes.otherwise_routes().get(number).map_or("", |route| route.name());
        line(&mut text, name, outcome.map(|answer| replies(&answer)));
    }
    Ok(or_none(text, &format!("no route is for {recv}")))
}

/// What the routes make of a device's publish.
#[must_use]
pub fn to_ilink(routes: &Routes, topic: &str, payload: &[u8]) -> String {
    let mut text = String::new();
    routes.to_ilink(&Heard { topic, payload, time: seconds() }, |number, outcome| {
        let name = routes.to_routes().get(number).map_or("", |route| route.name());
        line(&mut text, name, limited(routes.to_routes().get(number), outcome));
    });
    or_none(text, &format!("no route subscribes to {topic}"))
}

/// Every route in a line.
#[must_use]
pub fn list(routes: &Routes) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for route in routes.from_routes() {
        let rule = route.rule();
        let pattern = rule.pattern.as_ref().map(|pattern| format!(" matching {pattern}")).unwrap_or_default();
        let answers = rule.reply.as_ref().map(|reply| format!(", replies {reply}")).unwrap_or_default();
        let _ = writeln!(text, "{}: from iLink {}{pattern} to {}{answers}", rule.name, rule.from, rule.topic);
    }
    for route in routes.otherwise_routes() {
        let rule = route.rule();
        let _ = writeln!(text, "{}: from iLink {} otherwise, replies {}", rule.name, rule.from, rule.reply);
    }
    for route in routes.to_routes() {
        let rule = route.rule();
        let pattern = rule.pattern.as_ref().map(|pattern| format!(" matching {pattern}")).unwrap_or_default();
        let _ = write!(text, "{}: to iLink {} from {}{pattern}", rule.name, rule.to, rule.subscribe);
        let latest = (rule.keep == Keep::Latest).then(|| "newest only".to_owned());
        let changes = rule.on_change.then(|| "changes only".to_owned());
        let interval = rule.min_interval.map(|least| format!("at most every {}", humantime::format_duration(least)));
        let limit = |word: &str, limit: Option<f64>| limit.map(|limit| format!("{word} {limit}"));
        let limits = limit("above", rule.above).into_iter().chain(limit("below", rule.below));
        let lasts = rule.hold.map(|hold| format!("for {}", humantime::format_duration(hold)));
        let changes = limits.chain(lasts).chain(changes);
        let how: Vec<String> = changes.into_iter().chain(latest).chain(interval).collect();
        let _ = if how.is_empty() { writeln!(text) } else { writeln!(text, " ({})", how.join(", ")) };
    }
    or_none(text, "there are no routes")
}

/// A uid, or the one of a name.
fn id(written: &str, routes: &Routes) -> Result<String, String> {
    match routes.names().named::<Uid>(written) {
        Some(uid) => uid.map(|uid| uid.to_string()),
        None if written.is_empty() => Err("--sender needs a uid".to_owned()),
        None => Ok(written.to_owned()),
    }
}

fn seconds() -> i64 {
    i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX)
}

fn line(text: &mut String, name: &str, outcome: Outcome<String>) {
    let _ = match outcome {
        Outcome::Fires(does) => writeln!(text, "{name}: {does}"),
        Outcome::NoMatch => writeln!(text, "{name}: does not fire: match does not match"),
        Outcome::Missing(why) => writeln!(text, "{name}: does not fire: {why}"),
    };
}

/// What a device's publish does, if its number was between the limits before.
fn limited(route: Option<&ToRoute>, outcome: Outcome<Telling>) -> Outcome<String> {
    let (told, limits) = match (outcome, route.and_then(ToRoute::limits)) {
        (Outcome::Fires(told), Some(limits)) => (told, limits),
        (outcome, _) => return outcome.map(|told| sends(&told.call)),
    };
    let Some(value) = told.value else { return Outcome::Fires(sends(&told.call)) };
    let lasts = route.and_then(|route| route.rule().hold).map(humantime::format_duration);
    let lasts = lasts.map(|hold| format!(" and has stayed so for {hold}")).unwrap_or_default();
    let when = match limits.side(Side::Within, value) {
        Side::Within => {
            let over = limits.above.map(|above| format!("above {above}"));
            let under = limits.below.map(|below| format!("below {below}"));
            let limits: Vec<String> = over.into_iter().chain(under).collect();
            return Outcome::Missing(format!("{value} is not {}", limits.join(" or ")).into());
        }
        Side::Above => "above",
        Side::Below => "below",
    };
    Outcome::Fires(format!("{} (once, when {value} is newly {when} the limit{lasts})", sends(&told.call)))
}

fn sends(call: &Call) -> String {
    let (what, content) = match call {
        Call::SendText { content, .. } => ("a text to user", content.as_slice()),
        Call::SendFile { content, .. } => ("a file to user", content.as_slice()),
        Call::SendGroup { content, .. } => ("to group", content.as_slice()),
        Call::Publish { content, .. } => ("to topic", content.as_slice()),
        _ => ("", &[][..]),
    };
    let receiver = call.receiver();
    let receiver = receiver.as_ref().map_or("", Receiver::as_str);
    format!("sends {what} {receiver}: {}", shown(content))
}

fn shown(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

fn or_none(text: String, none: &str) -> String {
    if text.is_empty() { format!("{none}\n") } else { text }
}
