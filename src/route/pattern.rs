//! What the rules of both directions share: patterns, word tables, names, and the [`Index`]. The index finds the routes that a
//! message may trigger without trying them all: first by the levels of its topic, then by one pass over the remaining regular
//! expressions.

use std::collections::HashMap;

use regex::{Captures, Regex, RegexBuilder, RegexSet};

use super::filters::wildcards;
use super::rule::{Maps, Outcome};
use super::template::Template;
use super::values::{Document, Offers, Scope, Source, Tables};
use crate::local::names::is_name;

/// The most memory that one pattern may take, in bytes; a thousand of them must fit a small board.
const PATTERN_SIZE: usize = 1 << 20;
/// Names of values that a pattern's groups may not take.
const RESERVED: [&str; 3] = ["payload", "from_uid", "time"];

/// A rule's pattern, compiled; the error says what is wrong.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    let regex = regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "match: it is too large a pattern".to_owned(),
        // Several lines that point at the place with ^; the last says what is wrong.
        error => format!("match: {}", error.to_string().trim_end().replace('\n', "\n    ")),
    })?;
    match names(&regex).into_iter().find(|name| RESERVED.contains(name)) {
        Some(name) => Err(format!("match: the group (?<{name}>…) has the name of another value")),
        None => Ok(regex),
    }
}

/// The names of a pattern's groups.
fn names(regex: &Regex) -> Vec<&str> {
    regex.capture_names().flatten().collect()
}

/// The pattern does not match a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoMatch;

/// The part of a rule that says which messages fire it and what their values are.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) filter: String,
    pub(super) pattern: Option<Regex>,
    pub(super) tables: Tables,
    offers: Offers,
}

impl Selection {
    pub(super) fn new(filter: &str, pattern: Option<&str>, map: &Maps, offers: Offers) -> Result<Self, String> {
        let pattern = pattern.map(compile).transpose()?;
        if offers.number && pattern.as_ref().is_some_and(|pattern| names(pattern).contains(&"value")) {
            return Err("match: the group (?<value>…) has the name of another value".to_owned());
        }
        let mut selection = Self { filter: filter.to_owned(), pattern, tables: Tables::new(), offers };
        for (source, table) in map {
            let parsed = Source::parse(source, &selection.scope()).map_err(|error| format!("map.{source}: {error}"))?;
            selection.tables.insert(parsed, table.clone());
        }
        Ok(selection)
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            levels: wildcards(&self.filter),
            captures: self.pattern.as_ref().map(names).unwrap_or_default(),
            offers: self.offers,
        }
    }

    /// The template at `key`.
    pub(super) fn template(&self, key: &str, text: &str) -> Result<Template, String> {
        Template::parse(text, &self.scope()).map_err(|error| format!("{key}: {error}"))
    }

    /// What the pattern finds in a message, if there is one.
    pub(super) fn captures<'m>(&self, text: Option<&'m str>) -> Result<Option<Captures<'m>>, NoMatch> {
        match &self.pattern {
            None => Ok(None),
            Some(pattern) => text.and_then(|text| pattern.captures(text)).map(Some).ok_or(NoMatch),
        }
    }
}

/// A route's name is a topic level, a word in logs and a key in the health report.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err("name: it must be 1 to 64 letters, digits, '-', '_' or '.'".to_owned()) }
}

/// Routes by their filters, and for each filter by their patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    root: Node,
}

#[derive(Debug, Clone, Default)]
struct Node {
    literal: HashMap<String, Node>,
    any: Option<Box<Node>>,
    /// Of filters that end here.
    here: Bucket,
    /// Of filters that end here with `#`.
    below: Bucket,
}

/// The routes of one filter, by number.
#[derive(Debug, Clone, Default)]
struct Bucket {
    /// Those without a pattern.
    always: Vec<usize>,
    /// Those with one.
    patterned: Vec<usize>,
    /// All their patterns at once, in this order; none if they are few, or too large to be one.
    set: Option<RegexSet>,
}

/// So many patterns are tried one by one as fast as together.
const FEW: usize = 4;
/// The most memory that the patterns of one filter may take together, in bytes.
const SET_SIZE: usize = 64 << 20;

/// The numbers of the routes whose filter selects a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Candidates {
    /// May fire; in ascending order.
    possible: Vec<usize>,
    /// Certainly do not match.
    no_match: Vec<usize>,
}

impl Index {
    /// An index over routes, each a filter and a pattern; numbers are positions.
    pub(super) fn new<'r>(routes: impl Iterator<Item = (&'r str, Option<&'r Regex>)>) -> Self {
        let mut index = Self::default();
        let mut patterns = HashMap::<&str, Vec<&str>>::new();
        for (number, (filter, pattern)) in routes.enumerate() {
            let bucket = index.bucket(filter);
            match pattern {
                None => bucket.always.push(number),
                Some(pattern) => {
                    bucket.patterned.push(number);
                    patterns.entry(filter).or_default().push(pattern.as_str());
                }
            }
        }
        for (filter, patterns) in patterns.iter().filter(|(_, patterns)| patterns.len() > FEW) {
            let built = regex::RegexSetBuilder::new(patterns).size_limit(SET_SIZE).dfa_size_limit(SET_SIZE / 8).build();
            index.bucket(filter).set = built.ok();
        }
        index
    }

    fn bucket(&mut self, filter: &str) -> &mut Bucket {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.below,
                "+" => node.any.get_or_insert_default(),
                literal => node.literal.entry(literal.to_owned()).or_default(),
            };
        }
        &mut node.here
    }

    /// Tells of the routes whose filter selects a message what comes of it: of those that may fire, what `render` makes of them.
    pub(super) fn each<R, T>(
        &self,
        routes: &[R],
        (topic, payload): (&str, &[u8]),
        render: impl Fn(&R, Option<&str>, &Document) -> Outcome<T>,
        mut each: impl FnMut(usize, Outcome<T>),
    ) {
        let text = std::str::from_utf8(payload).ok();
        let found = self.candidates(topic, text);
        let document = Document::default();
        for number in found.possible {
            if let Some(route) = routes.get(number) {
                each(number, render(route, text, &document));
            }
        }
        for number in found.no_match {
            each(number, Outcome::NoMatch);
        }
    }

    /// The routes whose filter selects `topic`; `text` is the message, if it is text.
    fn candidates(&self, topic: &str, text: Option<&str>) -> Candidates {
        let mut found = Candidates::default();
        let levels: Vec<&str> = topic.split('/').collect();
        self.root.collect(&levels, text, &mut found);
        found.possible.sort_unstable();
        found
    }
}

impl Node {
    /// Goes as deep as the filters do, however many levels the topic has.
    fn collect(&self, levels: &[&str], text: Option<&str>, found: &mut Candidates) {
        self.below.collect(text, found);
        let Some((level, rest)) = levels.split_first() else { return self.here.collect(text, found) };
        if let Some(node) = self.literal.get(*level) {
            node.collect(rest, text, found);
        }
        if let Some(node) = &self.any {
            node.collect(rest, text, found);
        }
    }
}

impl Bucket {
    fn collect(&self, text: Option<&str>, found: &mut Candidates) {
        found.possible.extend(&self.always);
        match (text, &self.set) {
            // A pattern is of text.
            (None, _) => found.no_match.extend(&self.patterned),
            (Some(_), None) => found.possible.extend(&self.patterned),
            (Some(text), Some(set)) => {
                let matched = set.matches(text);
                let (possible, no_match) = (&mut found.possible, &mut found.no_match);
                for (at, number) in self.patterned.iter().enumerate() {
                    if matched.matched(at) { possible.push(*number) } else { no_match.push(*number) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::filter::matches;

    #[test]
    fn patterns_of_one_filter_are_tried_together() {
        let patterns: Vec<Regex> = (0..20).map(|n| Regex::new(&format!("^lamp{n}$")).unwrap()).collect();
        let mut routes: Vec<_> = patterns.iter().map(|pattern| ("user/413/text", Some(pattern))).collect();
        routes.push(("user/413/text", None));
        routes.push(("user/412/text", None));
        let index = Index::new(routes.into_iter());
        let found = index.candidates("user/413/text", Some("lamp7"));
        assert_eq!(found.possible, [7, 20]);
        assert_eq!(found.no_match.len(), 19);
        assert_eq!(index.candidates("user/413/text", None).possible, [20]);
        assert_eq!(index.candidates("user/41/text", Some("lamp7")), Candidates::default());
    }

    proptest! {
        #[test]
        fn it_finds_what_the_filters_select(
            filters in proptest::collection::vec("([ab+]/){0,3}[ab+#]", 1..8),
            topic in "([abc]?/){0,4}[abc]?",
        ) {
            let index = Index::new(filters.iter().map(|filter| (filter.as_str(), None)));
            let wanted: Vec<usize> =
                filters.iter().enumerate().filter(|(_, filter)| matches(filter, &topic)).map(|(n, _)| n).collect();
            prop_assert_eq!(index.candidates(&topic, Some("")).possible, wanted);
        }
    }
}
