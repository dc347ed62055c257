//! `[[route.from_ilink]]`, `[[route.otherwise]]` and `[[route.to_ilink]]`: reads the rules as written and reports what is
//! wrong.
//!
//! What a rule means is defined in [`route`](crate::route).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use figment::value::{Dict, Value};

use super::layers::Problem;
use super::reader::{Failed, Reader};
use super::values::{Given, Setting, quoted};
use crate::local::{Base, Names};
use crate::route::{
    FROM, FromRule, Keep, MOST_PLACES, Maps, OTHERWISE, OtherwiseRule, PAYLOAD, Rate, Routes, RuleSet, TO, ToRule,
    VALUE, rule_name,
};

const SECTIONS: [&str; 3] = [FROM, OTHERWISE, TO];

impl Setting for Keep {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given.text().unwrap_or_default().parse()
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for f64 {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let number = match given {
            Given::Typed(Value::Num(_, number)) => {
                number.to_f64().or_else(|| number.to_i128().and_then(|n| n.to_string().parse().ok()))
            }
            Given::Typed(_) => None,
            Given::Untyped(text) => text.trim().parse().ok(),
        };
        number.filter(|number: &Self| number.is_finite()).ok_or_else(|| "it must be a number, such as 21.5".to_owned())
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for Rate {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given.text_or_digits().unwrap_or_default().parse()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Maps {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let wanted = || "it must be tables of words, such as map.v = { \"open\" = \"ON\" }".to_owned();
        let Given::Typed(value) = given else { return Err(wanted()) };
        let word = |(word, becomes): (&String, &Value)| {
            Given::Typed(becomes).text_or_digits().map(|becomes| (word.clone(), becomes)).ok_or_else(wanted)
        };
        let table = |(source, table): (&String, &Value)| {
            let table = table.as_dict().ok_or_else(wanted)?;
            Ok((source.clone(), table.iter().map(word).collect::<Result<_, _>>()?))
        };
        value.as_dict().ok_or_else(wanted)?.iter().map(table).collect()
    }

    fn show(&self) -> String {
        let table = |table: &BTreeMap<String, String>| {
            let words = table.iter().map(|(word, becomes)| format!("{} = {}", quoted(word), quoted(becomes)));
            format!("{{ {} }}", words.collect::<Vec<_>>().join(", "))
        };
        let tables = self.iter().map(|(source, words)| format!("{} = {}", quoted(source), table(words)));
        format!("{{ {} }}", tables.collect::<Vec<_>>().join(", "))
    }
}

/// Reads and compiles all rules.
pub(super) fn read(
    reader: &mut Reader<'_>,
    base: Result<&Base, Failed>,
    names: Result<&Arc<Names>, Failed>,
) -> Result<Arc<Routes>, Failed> {
    let Some((value, place)) = reader.section("route") else {
        return Ok(Arc::new(Routes::compile(RuleSet::default(), base?, names?).unwrap_or_default()));
    };
    let wanted = || format!("it must be tables [[route.{FROM}]], [[route.{OTHERWISE}]] and [[route.{TO}]]");
    let invalid =
        |key: &str| Problem::Invalid { key: key.to_owned(), place: place.clone(), found: None, wanted: wanted() };
    let Value::Dict(_, sections) = value else { return Err(reader.fail(invalid("route"))) };
    let (mut rule_set, mut failed) = (RuleSet::default(), None);
    for (section, rules) in &sections {
        if !SECTIONS.contains(&section.as_str()) {
            let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(known, section);
            let nearest = SECTIONS.into_iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
            let nearest = nearest.unwrap_or(FROM);
            let (key, nearest) = (format!("route.{section}"), Some(format!("route.{nearest}")));
            failed = Some(reader.fail(Problem::Unknown { key, place: place.clone(), nearest }));
            continue;
        }
        let Some(rules) = rules.as_array() else {
            failed = Some(reader.fail(invalid(&format!("route.{section}"))));
            continue;
        };
        for (n, rule) in rules.iter().enumerate() {
            let Some(dict) = rule.as_dict() else {
                failed = Some(reader.fail(invalid(&format!("route.{section} {}", n + 1))));
                continue;
            };
            let name = dict.get("name").and_then(Value::as_str).unwrap_or_default();
            let mut table = Table {
                rule: rule_name(section, n + 1, name),
                dict,
                place: &place,
                asked: Vec::new(),
                problems: Vec::new(),
            };
            match section.as_str() {
                FROM => rule_set.from.push(from_rule(&mut table)),
                OTHERWISE => rule_set.otherwise.push(otherwise_rule(&mut table, n)),
                _ => rule_set.to.push(to_rule(&mut table)),
            }
            for problem in table.finish() {
                failed = Some(reader.fail(problem));
            }
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    let compiled = Routes::compile(rule_set, base?, names?);
    compiled.map(Arc::new).map_err(|errors| {
        let problems = errors.into_iter().map(|error| Problem::Conflict { message: format!("{place}: {error}") });
        problems.fold(Failed, |_, problem| reader.fail(problem))
    })
}

fn from_rule(table: &mut Table<'_>) -> FromRule {
    FromRule {
        name: table.required("name"),
        from: table.required("from"),
        pattern: table.get("match"),
        map: table.get("map").unwrap_or_default(),
        topic: table.required("topic"),
        payload: table.get("payload").unwrap_or_else(|| PAYLOAD.to_owned()),
        max_age: table.get("max_age"),
        any_sender: table.get("any_sender").unwrap_or_default(),
        max_rate: table.get("max_rate").unwrap_or_default(),
        reply: table.get("reply"),
        help: table.get("help"),
    }
}

/// Most have one, which needs no name.
fn otherwise_rule(table: &mut Table<'_>, n: usize) -> OtherwiseRule {
    let name = || if n == 0 { OTHERWISE.to_owned() } else { format!("{OTHERWISE}-{}", n + 1) };
    OtherwiseRule {
        name: table.get("name").unwrap_or_else(name),
        from: table.required("from"),
        reply: table.required("reply"),
        any_sender: table.get("any_sender").unwrap_or_default(),
        max_rate: table.get("max_rate").unwrap_or_default(),
    }
}

fn to_rule(table: &mut Table<'_>) -> ToRule {
    const LONGEST: Duration = Duration::from_hours(30 * 24);
    let ttl = table.get("ttl");
    if ttl.is_some_and(|ttl| ttl < Duration::from_secs(1) || ttl > LONGEST) {
        table.invalid("ttl", "it must be between \"1s\" and \"30days\"".to_owned());
    }
    let hysteresis = table.get("hysteresis");
    if hysteresis.is_some_and(|hysteresis: f64| hysteresis < 0.0) {
        table.invalid("hysteresis", "it must not be negative".to_owned());
    }
    let round: Option<i64> = table.get("round");
    let places = round.and_then(|round| u8::try_from(round).ok()).filter(|places| *places <= MOST_PLACES);
    if round.is_some() && places.is_none() {
        table.invalid("round", format!("it must be a number of decimal places, from 0 to {MOST_PLACES}"));
    }
    let (value, above, below, round): (Option<String>, Option<f64>, Option<f64>, _) =
        (table.get("value"), table.get("above"), table.get("below"), places);
    let numeric = value.is_some() || above.is_some() || below.is_some() || round.is_some();
    ToRule {
        name: table.required("name"),
        subscribe: table.required("subscribe"),
        pattern: table.get("match"),
        map: table.get("map").unwrap_or_default(),
        to: table.required("to"),
        payload: table.get("payload").unwrap_or_else(|| if numeric { VALUE } else { PAYLOAD }.to_owned()),
        value,
        above,
        below,
        hysteresis,
        hold: table.get("for").filter(|hold: &Duration| !hold.is_zero()),
        round,
        on_change: table.get("on_change").unwrap_or_default(),
        keep: table.get("keep").unwrap_or_default(),
        ttl,
        min_interval: table.get("min_interval").filter(|interval: &Duration| !interval.is_zero()),
        retained: table.get("retained").unwrap_or_default(),
        max_rate: table.get("max_rate").unwrap_or_default(),
    }
}

/// One rule's keys.
struct Table<'a> {
    /// As errors name it.
    rule: String,
    dict: &'a Dict,
    place: &'a str,
    asked: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Table<'_> {
    fn get<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.asked.push(key);
        match T::read(&Given::Typed(self.dict.get(key)?)) {
            Ok(value) => Some(value),
            Err(wanted) => {
                self.invalid(key, wanted);
                None
            }
        }
    }

    fn required(&mut self, key: &'static str) -> String {
        if !self.dict.contains_key(key) {
            let message = format!("{}: {}: {key} is not set", self.place, self.rule);
            self.problems.push(Problem::Conflict { message });
        }
        self.get(key).unwrap_or_default()
    }

    fn invalid(&mut self, key: &str, wanted: String) {
        let found = self.dict.get(key).map(|value| Given::Typed(value).show());
        let key = format!("{}: {key}", self.rule);
        self.problems.push(Problem::Invalid { key, place: self.place.to_owned(), found, wanted });
    }

    /// What is wrong, once every key has been asked for.
    fn finish(mut self) -> Vec<Problem> {
        for key in self.dict.keys().filter(|key| !self.asked.contains(&key.as_str())) {
            let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(known, key);
            let nearest = self.asked.iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
            let other = keys().into_iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let elsewhere = other.map(|(section, _)| format!("[[route.{section}]], which has it"));
            let (key, nearest) = (format!("{}: {key}", self.rule), elsewhere.or(nearest.map(str::to_owned)));
            self.problems.push(Problem::Unknown { key, place: self.place.to_owned(), nearest });
        }
        self.problems
    }
}

/// The keys of each kind of rule.
pub(super) fn keys() -> [(&'static str, Vec<&'static str>); 3] {
    let dict = Dict::new();
    let table = || Table { rule: String::new(), dict: &dict, place: "", asked: Vec::new(), problems: Vec::new() };
    let (mut from, mut otherwise, mut to) = (table(), table(), table());
    from_rule(&mut from);
    otherwise_rule(&mut otherwise, 0);
    to_rule(&mut to);
    [(FROM, from.asked), (OTHERWISE, otherwise.asked), (TO, to.asked)]
}

/// The routes as they would be written.
pub(super) fn describe(routes: &Routes) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for route in routes.from_routes() {
        let rule = route.rule();
        let _ = write!(text, "\n[[route.{FROM}]]\nname = {}\nfrom = {}\n", quoted(&rule.name), quoted(&rule.from));
        selection(&mut text, rule.pattern.as_deref(), &rule.map);
        let _ = write!(text, "topic = {}\npayload = {}\n", quoted(&rule.topic), quoted(&rule.payload));
        optional(&mut text, "max_age", rule.max_age.as_ref());
        let _ = write!(text, "any_sender = {}\nmax_rate = {}\n", rule.any_sender, rule.max_rate.show());
        optional(&mut text, "reply", rule.reply.as_ref());
        optional(&mut text, "help", rule.help.as_ref());
    }
    for route in routes.otherwise_routes() {
        let rule = route.rule();
        let (name, from, reply) = (quoted(&rule.name), quoted(&rule.from), quoted(&rule.reply));
        let _ = write!(text, "\n[[route.{OTHERWISE}]]\nname = {name}\nfrom = {from}\nreply = {reply}\n");
        let _ = write!(text, "any_sender = {}\nmax_rate = {}\n", rule.any_sender, rule.max_rate.show());
    }
    for route in routes.to_routes() {
        let rule = route.rule();
        let (name, filter) = (quoted(&rule.name), quoted(&rule.subscribe));
        let _ = write!(text, "\n[[route.{TO}]]\nname = {name}\nsubscribe = {filter}\n");
        selection(&mut text, rule.pattern.as_deref(), &rule.map);
        let _ = write!(text, "to = {}\npayload = {}\n", quoted(&rule.to), quoted(&rule.payload));
        optional(&mut text, "value", rule.value.as_ref());
        optional(&mut text, "above", rule.above.as_ref());
        optional(&mut text, "below", rule.below.as_ref());
        optional(&mut text, "hysteresis", rule.hysteresis.as_ref());
        optional(&mut text, "for", rule.hold.as_ref());
        optional(&mut text, "round", rule.round.map(i64::from).as_ref());
        let _ = write!(text, "on_change = {}\nkeep = {}\n", rule.on_change, rule.keep.show());
        optional(&mut text, "ttl", rule.ttl.as_ref());
        optional(&mut text, "min_interval", rule.min_interval.as_ref());
        let _ = write!(text, "retained = {}\nmax_rate = {}\n", rule.retained, rule.max_rate.show());
    }
    text
}

fn selection(text: &mut String, pattern: Option<&str>, map: &Maps) {
    if let Some(pattern) = pattern {
        let _ = writeln!(text, "match = {}", quoted(pattern));
    }
    if !map.is_empty() {
        let _ = writeln!(text, "map = {}", map.show());
    }
}

fn optional<T: Setting>(text: &mut String, key: &str, value: Option<&T>) {
    if let Some(value) = value {
        let _ = writeln!(text, "{key} = {}", value.show());
    }
}
