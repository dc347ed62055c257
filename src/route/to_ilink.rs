//! MQTT → iLink: the calls that a device's publish triggers.

use std::borrow::Cow;
use std::sync::Arc;

use super::filters::{cover, wildcard_levels};
use super::number::{Limits, Reading};
use super::pattern::{Index, Selection, check_name};
use super::rule::{Outcome, PAYLOAD, ToRule};
use super::template::Template;
use super::values::{Document, Offers, Values};
use crate::local::Names;
use crate::local::command::send_call;
use crate::local::filter::{MAX_SLASHES, is_valid_filter, matches};
use crate::protocol::Call;

/// A device's publish, as routes see it.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'m> {
    /// Its topic.
    pub topic: &'m str,
    /// Its payload.
    pub payload: &'m [u8],
    /// When it arrived, in seconds since the epoch.
    pub time: i64,
}

/// What a route sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Telling {
    /// The message.
    pub call: Call,
    /// The number that it is about, if the rule reads one.
    pub value: Option<f64>,
}

/// A compiled rule of `[[route.to_ilink]]`.
#[derive(Debug, Clone)]
pub struct ToRoute {
    rule: ToRule,
    pub(super) selection: Selection,
    to: Template,
    payload: Template,
    reading: Option<Reading>,
    limits: Option<Limits>,
    reads_json: bool,
    names: Arc<Names>,
}

impl ToRoute {
    pub(super) fn new(rule: ToRule, names: &Arc<Names>) -> Result<Self, String> {
        check_name(&rule.name)?;
        check_subscribe(&rule.subscribe).map_err(|error| format!("subscribe: {error}"))?;
        let selection = Selection::new(&rule.subscribe, rule.pattern.as_deref(), &rule.map, offers(&rule))?;
        let to = selection.template("to", &rule.to)?;
        to.check_topic().map_err(|error| format!("to: {error}"))?;
        // The receiver is there whatever the values are.
        if to.has_value_in_name() {
            return Err(format!("to = \"{}\": a name (@…) is fixed text, a value cannot be one", rule.to));
        }
        send_call(&to.as_filter().replace('+', "x"), b"x", names)
            .map_err(|error| format!("to = \"{}\": {error}", rule.to))?;
        let payload = selection.template("payload", &rule.payload)?;
        if rule.payload.is_empty() {
            return Err("payload: it is empty, and iLink takes no empty messages".to_owned());
        }
        let limits = limits(&rule)?;
        let reading = reading(&rule, &selection)?;
        let value = reading.as_ref().map(|reading| &reading.value);
        let reads_json = [&to, &payload].into_iter().chain(value).any(Template::reads_json);
        Ok(Self { rule, selection, to, payload, reading, limits, reads_json, names: Arc::clone(names) })
    }

    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.rule.name
    }

    /// The rule as it was written.
    #[must_use]
    pub fn rule(&self) -> &ToRule {
        &self.rule
    }

    /// The limits of its number, if it has any.
    #[must_use]
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// What it makes of one publish.
    #[must_use]
    pub fn tells(&self, heard: &Heard<'_>) -> Outcome<Telling> {
        if !matches(&self.rule.subscribe, heard.topic) {
            return Outcome::NoMatch;
        }
        self.render(heard, std::str::from_utf8(heard.payload).ok(), &Document::default())
    }

    fn render(&self, heard: &Heard<'_>, text: Option<&str>, document: &Document) -> Outcome<Telling> {
        let Ok(captures) = self.selection.captures(text) else { return Outcome::NoMatch };
        if self.reads_json && document.of(heard.payload).is_none() {
            return Outcome::NOT_JSON;
        }
        let levels = wildcard_levels(&self.rule.subscribe, heard.topic).into_iter().map(Cow::Borrowed).collect();
        let values = Values::new(heard.payload, document, levels, None, Some(heard.time))
            .of_rule(captures, &self.selection.tables);
        let read = match self.reading.as_ref().map(|reading| reading.read(&values)).transpose() {
            Ok(read) => read,
            Err(why) => return Outcome::Missing(why.into()),
        };
        let (value, number) = read.unzip();
        let values = values.with_number(number);
        let rendered = || {
            let (to, payload) = (self.to.topic(&values)?, self.payload.message(&values)?);
            // A value that begins with @ is escaped: it is no name.
            Ok(Telling { call: send_call(&to, &payload, &self.names)?, value })
        };
        Outcome::of(rendered())
    }
}

/// All rules of this direction.
#[derive(Debug, Clone, Default)]
pub(super) struct ToRoutes {
    pub(super) routes: Vec<ToRoute>,
    /// What to subscribe to: no two of these overlap.
    pub(super) subscriptions: Vec<String>,
    index: Index,
}

impl ToRoutes {
    pub(super) fn new(routes: Vec<ToRoute>) -> Self {
        let index =
            Index::new(routes.iter().map(|route| (route.rule.subscribe.as_str(), route.selection.pattern.as_ref())));
        let subscriptions = cover(routes.iter().map(|route| route.rule.subscribe.as_str()));
        Self { routes, subscriptions, index }
    }

    pub(super) fn apply(&self, heard: &Heard<'_>, each: impl FnMut(usize, Outcome<Telling>)) {
        let render = |route: &ToRoute, text: Option<&str>, document: &Document| route.render(heard, text, document);
        self.index.each(&self.routes, (heard.topic, heard.payload), render, each);
    }
}

/// Whether it reads a number.
fn is_numeric(rule: &ToRule) -> bool {
    rule.value.is_some() || rule.round.is_some() || rule.above.is_some() || rule.below.is_some()
}

fn offers(rule: &ToRule) -> Offers {
    Offers { number: is_numeric(rule), ..Offers::default() }
}

/// How a rule reads its number, if it does.
fn reading(rule: &ToRule, selection: &Selection) -> Result<Option<Reading>, String> {
    if !is_numeric(rule) {
        return Ok(None);
    }
    let text = rule.value.as_deref().unwrap_or(PAYLOAD);
    let value = selection.template("value", text)?;
    if value.reads_number() {
        return Err("value: it cannot be made of ${value}".to_owned());
    }
    Ok(Some(Reading { value, round: rule.round }))
}

/// The limits of a rule's number, if it has any.
fn limits(rule: &ToRule) -> Result<Option<Limits>, String> {
    let (above, below) = (rule.above, rule.below);
    if above.is_none() && below.is_none() {
        let without = |key: &str| format!("{key}: it means nothing without above or below");
        return match (rule.hysteresis, rule.hold) {
            (Some(_), _) => Err(without("hysteresis")),
            (None, Some(_)) => Err(without("for")),
            (None, None) => Ok(None),
        };
    }
    if above.zip(below).is_some_and(|(above, below)| below >= above) {
        return Err("below: it must be less than above; in between is the normal state".to_owned());
    }
    Ok(Some(Limits { above, below, hysteresis: rule.hysteresis.unwrap_or_default() }))
}

fn check_subscribe(filter: &str) -> Result<(), String> {
    if filter.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !is_valid_filter(filter) || filter.matches('/').count() > MAX_SLASHES {
        return Err(format!("\"{filter}\" is not an MQTT topic filter"));
    }
    if filter.starts_with('$') {
        return Err(format!("\"{filter}\": topics that begin with $ are the broker's own"));
    }
    Ok(())
}
