//! iLink → MQTT: the publishes that a message from iLink triggers.

use std::borrow::Cow;
use std::time::Duration;

use super::filters::wildcard_levels;
use super::pattern::{Index, Selection, check_name};
use super::rule::{FromRule, Outcome, Rate};
use super::template::Template;
use super::values::{Document, Offers, Values};
use crate::local::escape::{escape_id, escape_subject, unescape_id};
use crate::local::filter::{is_valid_filter, matches};
use crate::local::{Nameable, Names};
use crate::protocol::{GroupId, Subject, Uid};

/// What these rules offer their templates.
pub(super) const SENDER: Offers = Offers { sender: true, help: false, number: false };

/// A message from iLink, as routes see it.
#[derive(Debug, Clone, Copy)]
pub struct Said<'m> {
    /// Its topic under `recv/`, such as `user/413/text`.
    pub recv: &'m str,
    /// The message.
    pub payload: &'m [u8],
    /// Who sent it.
    pub from_uid: Option<&'m str>,
    /// When, in seconds since the epoch.
    pub time: Option<i64>,
}

/// What a route publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// What is answered to whoever wrote the message, once this is acknowledged; an error says why that cannot be made.
    pub reply: Option<Result<Vec<u8>, String>>,
}

/// A compiled rule of `[[route.from_ilink]]`.
#[derive(Debug, Clone)]
pub struct FromRoute {
    rule: FromRule,
    /// The rule's filter, without names.
    from: String,
    pub(super) selection: Selection,
    topic: Template,
    payload: Template,
    reply: Option<Template>,
    reads_json: bool,
}

impl FromRoute {
    pub(super) fn new(rule: FromRule, names: &Names) -> Result<Self, String> {
        check_name(&rule.name)?;
        let from = with_ids(&rule.from, names).map_err(|error| format!("from: {error}"))?;
        check_from(&from, rule.any_sender).map_err(|error| format!("from: {error}"))?;
        let selection = Selection::new(&from, rule.pattern.as_deref(), &rule.map, SENDER)?;
        let topic = selection.template("topic", &rule.topic)?;
        topic.check_topic().map_err(|error| format!("topic: {error}"))?;
        let payload = selection.template("payload", &rule.payload)?;
        let reply = rule.reply.as_ref().map(|reply| selection.template("reply", reply)).transpose()?;
        if [&rule.reply, &rule.help].into_iter().flatten().any(String::is_empty) {
            return Err("reply and help: an empty one is left out".to_owned());
        }
        let reads_json = [&topic, &payload].into_iter().any(Template::reads_json);
        Ok(Self { rule, from, selection, topic, payload, reply, reads_json })
    }

    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.rule.name
    }

    /// The rule as it was written.
    #[must_use]
    pub fn rule(&self) -> &FromRule {
        &self.rule
    }

    /// How old a message may be that fires it; none is no limit. `otherwise` holds if the rule does not say.
    #[must_use]
    pub fn max_age(&self, otherwise: Option<Duration>) -> Option<Duration> {
        self.rule.max_age.map_or(otherwise, |age| Some(age).filter(|age| !age.is_zero()))
    }

    /// How often it may fire.
    #[must_use]
    pub fn max_rate(&self) -> Rate {
        self.rule.max_rate
    }

    /// The filter of all topics that it can publish to.
    #[must_use]
    pub fn output(&self) -> String {
        self.topic.as_filter()
    }

    fn render(&self, said: &Said<'_>, text: Option<&str>, document: &Document) -> Outcome<Publish> {
        let Ok(captures) = self.selection.captures(text) else { return Outcome::NoMatch };
        if self.reads_json && document.of(said.payload).is_none() {
            return Outcome::NOT_JSON;
        }
        let levels = wildcard_levels(&self.from, said.recv).into_iter().map(decoded).collect();
        let values = Values::new(said.payload, document, levels, said.from_uid, said.time)
            .of_rule(captures, &self.selection.tables);
        let rendered = || {
            let reply = self.reply.as_ref().map(|reply| reply.message(&values));
            Ok(Publish { payload: self.payload.payload(&values)?, topic: self.topic.topic(&values)?, reply })
        };
        Outcome::of(rendered())
    }
}

/// Ids stand escaped in topics; a template gets them as they are.
pub(super) fn decoded(levels: &str) -> Cow<'_, str> {
    if !levels.contains('%') {
        return Cow::Borrowed(levels);
    }
    let level = |level: &str| unescape_id(level).unwrap_or_else(|_| level.to_owned());
    Cow::Owned(levels.split('/').map(level).collect::<Vec<_>>().join("/"))
}

/// All rules of this direction.
#[derive(Debug, Clone, Default)]
pub(super) struct FromRoutes {
    pub(super) routes: Vec<FromRoute>,
    index: Index,
}

impl FromRoutes {
    pub(super) fn new(routes: Vec<FromRoute>) -> Self {
        let index = Index::new(routes.iter().map(|route| (route.from.as_str(), route.selection.pattern.as_ref())));
        Self { routes, index }
    }

    /// What one may say to whoever a message with these levels is for: a line for each route that has a `help`.
    pub(super) fn help(&self, recv: &str) -> Option<String> {
        let lines = self.routes.iter().filter(|route| matches(&route.from, recv));
        let lines: Vec<&str> = lines.filter_map(|route| route.rule.help.as_deref()).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    pub(super) fn apply(&self, said: &Said<'_>, each: impl FnMut(usize, Outcome<Publish>)) {
        let render = |route: &FromRoute, text: Option<&str>, document: &Document| route.render(said, text, document);
        self.index.each(&self.routes, (said.recv, said.payload), render, each);
    }
}

/// Levels under `recv/`, with the ids in place of the names.
///
/// # Errors
///
/// There is no such name, or it stands for something else.
pub fn with_ids(recv: &str, names: &Names) -> Result<String, String> {
    if !recv.contains("/@") {
        return Ok(recv.to_owned());
    }
    let mut levels: Vec<Cow<'_, str>> = recv.split('/').map(Cow::Borrowed).collect();
    match levels.as_mut_slice() {
        [kind, uid, ..] if kind == "user" => name_to_id::<Uid>(uid, names)?,
        [kind, group, rest @ ..] if kind == "group" => {
            name_to_id::<GroupId>(group, names)?;
            rest.first_mut().map_or(Ok(()), |uid| name_to_id::<Uid>(uid, names))?;
        }
        _ => {}
    }
    if let Some(subject) = recv.strip_prefix("topic/").and_then(|subject| names.named::<Subject>(subject)) {
        return Ok(format!("topic/{}", escape_subject(subject?.as_str())));
    }
    Ok(levels.join("/"))
}

fn name_to_id<T: Nameable>(level: &mut Cow<'_, str>, names: &Names) -> Result<(), String> {
    if let Some(id) = names.named::<T>(level) {
        *level = Cow::Owned(escape_id(id?.id()));
    }
    Ok(())
}

/// Whether `from` can select anything under `recv/`, and names its sender or says that it does not.
pub(super) fn check_from(from: &str, any_sender: bool) -> Result<(), String> {
    const SHAPES: &str = "it must be user/<uid>/text, user/<uid>/file, group/<group_id>/<uid> or topic/<subject>, where + stands \
                          for any level and a last # for all that follow";
    if !is_valid_filter(from) {
        return Err(format!("\"{from}\" is not an MQTT topic filter; {SHAPES}"));
    }
    let levels: Vec<&str> = from.split('/').collect();
    let wild = |level: &&str| matches!(*level, "+" | "#");
    let sender = match levels.as_slice() {
        // Of all kinds.
        [all @ "#"] | [all @ "+", _, ..] => Some(all),
        ["user" | "group", uid @ "#"] | ["user", uid, "text" | "file" | "+" | "#"] | ["group", _, uid] => Some(uid),
        // A topic's publisher is not one of its levels.
        ["topic", _, ..] => None,
        _ => return Err(format!("\"{from}\" selects nothing; {SHAPES}")),
    };
    if levels.contains(&"") {
        return Err(format!("\"{from}\" selects nothing, because no level under recv/ is empty; {SHAPES}"));
    }
    if sender.is_some_and(wild) && !any_sender {
        return Err(format!(
            "\"{from}\" lets anybody fire this route who may write to the bridge: name the sender, or say any_sender = true"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_named_or_anybody() {
        for from in ["user/413/text", "user/413/+", "user/413/#", "group/g/413", "group/+/413", "topic/a/b", "topic/#"]
        {
            assert_eq!(check_from(from, false), Ok(()), "{from}");
        }
        for from in ["user/+/text", "user/#", "group/g/+", "group/g/#", "group/#", "#", "+/#", "+/413/text"] {
            assert!(check_from(from, false).unwrap_err().contains("any_sender"), "{from}");
            assert_eq!(check_from(from, true), Ok(()), "{from}");
        }
        for from in ["", "+", "user/413", "user/413/txt", "user/413/text/x", "group/g", "topic", "recv/user/1/text"] {
            assert!(check_from(from, true).unwrap_err().contains("topic/<subject>"), "{from}");
        }
        for from in ["user//text", "topic/a//b"] {
            assert!(check_from(from, true).unwrap_err().contains("empty"), "{from}");
        }
        assert!(check_from("user/4#/text", true).unwrap_err().contains("filter"));
    }

    #[test]
    fn levels_are_the_ids_themselves() {
        assert_eq!(decoded("a%2Fb"), "a/b");
        assert_eq!(decoded("a/b%00/c%2B"), "a/b%00/c+");
    }
}
