//! Routes: existing devices keep their own topics, and what they publish and receive there is translated to and from iLink.
//!
//! Rules are checked and compiled once ([`Routes::compile`]). After that, a message goes in and publishes
//! ([`Routes::from_ilink`]) or calls ([`Routes::to_ilink`]) come out. Nothing here has side effects: no sockets, files, clocks
//! or randomness. The relay publishes; the command loop stores.
//!
//! # Loops
//!
//! A route cannot trigger itself or another route, nor reach the bridge's own topics, whatever a message contains. A value in a
//! topic is escaped like an id, so it never adds a level. A rule is refused at start if its output (with every level that holds
//! a value taken as `+`) overlaps any rule's subscription. Matching takes time linear in the message, and the compiled size of
//! patterns is bounded.

mod filters;
mod from_ilink;
mod number;
mod otherwise;
mod pattern;
mod rule;
mod template;
mod to_ilink;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

pub use from_ilink::{FromRoute, Publish, Said, with_ids};
pub use number::{Limits, MOST_PLACES, Side};
pub use otherwise::OtherwiseRoute;
pub use rule::{
    FromRule, Keep, Maps, OtherwiseRule, Outcome, PAYLOAD, Rate, RouteError, RuleSet, ToRule, VALUE, rule_name,
};
pub use to_ilink::{Heard, Telling, ToRoute};

use crate::local::filter::matches;
use crate::local::{Base, Names};
use filters::overlap;
use from_ilink::FromRoutes;
use to_ilink::ToRoutes;

/// The section of rules from iLink.
pub const FROM: &str = "from_ilink";
/// The section of answers to what fires none of them.
pub const OTHERWISE: &str = "otherwise";
/// The section of rules to iLink.
pub const TO: &str = "to_ilink";

/// All routes, checked and ready.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    from: FromRoutes,
    otherwise: Vec<OtherwiseRoute>,
    to: ToRoutes,
    names: Arc<Names>,
}

impl Routes {
    /// Checks and compiles rules; ids in them may be names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn compile(rules: RuleSet, base: &Base, known: &Arc<Names>) -> Result<Self, Vec<RouteError>> {
        let RuleSet { from, otherwise, to } = rules;
        let mut check = Check::default();
        let from = check.section(FROM, from, |rule| &rule.name, |rule| FromRoute::new(rule, known));
        let otherwise = check.section(OTHERWISE, otherwise, |rule| &rule.name, |rule| OtherwiseRoute::new(rule, known));
        let to = check.section(TO, to, |rule| &rule.name, |rule| ToRoute::new(rule, known));
        let mut errors = check.errors;
        check_loops(&from, &to, base, &mut errors);
        let routes = Self {
            from: FromRoutes::new(from.into_iter().map(|(_, route)| route).collect()),
            otherwise: otherwise.into_iter().map(|(_, route)| route).collect(),
            to: ToRoutes::new(to.into_iter().map(|(_, route)| route).collect()),
            names: Arc::clone(known),
        };
        // Two filters that overlap are subscribed to as one, which is wider.
        let own = base_filter(base);
        if errors.is_empty()
            && let Some(wide) = routes.to.subscriptions.iter().find(|filter| overlap(filter, &own))
        {
            let what = format!("subscribe: filters that overlap are subscribed to as {wide}, which would touch {own}");
            errors.push(RouteError { rule: format!("route.{TO}"), what });
        }
        if errors.is_empty() { Ok(routes) } else { Err(errors) }
    }

    /// Tells for each route whose filter selects a message from iLink what becomes of it; those that fire first, in the
    /// order of the rules.
    pub fn from_ilink(&self, said: &Said<'_>, each: impl FnMut(usize, Outcome<Publish>)) {
        self.from.apply(said, each);
    }

    /// What is answered to a message from iLink that fires no route: by the first rule that is for it.
    #[must_use]
    pub fn otherwise(&self, said: &Said<'_>) -> Option<(usize, Outcome<Vec<u8>>)> {
        let (number, route) = self.otherwise.iter().enumerate().find(|(_, route)| route.is_for(said.recv))?;
        Some((number, route.reply(said, self.from.help(said.recv))))
    }

    /// The same for a device's publish.
    pub fn to_ilink(&self, heard: &Heard<'_>, each: impl FnMut(usize, Outcome<Telling>)) {
        self.to.apply(heard, each);
    }

    /// The routes from iLink, by the numbers that [`Self::from_ilink`] tells.
    #[must_use]
    pub fn from_routes(&self) -> &[FromRoute] {
        &self.from.routes
    }

    /// The answers to what fires none of them, by the numbers that [`Self::otherwise`] tells.
    #[must_use]
    pub fn otherwise_routes(&self) -> &[OtherwiseRoute] {
        &self.otherwise
    }

    /// Whether a message from iLink can do anything.
    #[must_use]
    pub fn hear_ilink(&self) -> bool {
        !(self.from.routes.is_empty() && self.otherwise.is_empty())
    }

    /// The routes to iLink, by the numbers that [`Self::to_ilink`] tells.
    #[must_use]
    pub fn to_routes(&self) -> &[ToRoute] {
        &self.to.routes
    }

    /// What ids are called, for the routes and for all others who are reloaded with them.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The filters to subscribe to. Each message is selected by at most one of them.
    #[must_use]
    pub fn subscriptions(&self) -> &[String] {
        &self.to.subscriptions
    }

    /// The same with one more topic, which may be selected already.
    #[must_use]
    pub fn subscriptions_and(&self, also: Option<&str>) -> Vec<String> {
        let mut filters = self.to.subscriptions.clone();
        let new = also.filter(|topic| !filters.iter().any(|filter| matches(filter, topic)));
        filters.extend(new.map(str::to_owned));
        filters
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.hear_ilink() && self.to.routes.is_empty()
    }
}

/// Checks the sections one after the other: no two of all rules may have the same name.
#[derive(Default)]
struct Check {
    names: HashMap<String, String>,
    errors: Vec<RouteError>,
}

impl Check {
    /// The rules of a section that can be compiled, each with what it is called in messages.
    fn section<R, T>(
        &mut self,
        section: &str,
        rules: Vec<R>,
        name: fn(&R) -> &String,
        compile: impl Fn(R) -> Result<T, String>,
    ) -> Vec<(String, T)> {
        let mut compiled = Vec::new();
        for (n, given) in rules.into_iter().enumerate() {
            let rule = rule_name(section, n + 1, name(&given));
            if let Some(other) = self.names.insert(name(&given).clone(), rule.clone()) {
                let what = format!("name: {other} has the same name");
                self.errors.push(RouteError { rule: rule.clone(), what });
            }
            match compile(given) {
                Ok(route) => compiled.push((rule, route)),
                Err(what) => self.errors.push(RouteError { rule, what }),
            }
        }
        compiled
    }
}

fn base_filter(base: &Base) -> String {
    format!("{}/#", base.as_str())
}

/// Refuses what could come back to us.
fn check_loops(from: &[(String, FromRoute)], to: &[(String, ToRoute)], base: &Base, errors: &mut Vec<RouteError>) {
    let own = base_filter(base);
    let refuse = |rule: &String, what: String| RouteError { rule: rule.clone(), what };
    for (rule, route) in to {
        let filter = &route.rule().subscribe;
        if overlap(filter, &own) {
            errors.push(refuse(rule, format!("subscribe: \"{filter}\" touches the bridge's own topics, {own}")));
        }
    }
    for (rule, route) in from {
        let (topic, output) = (&route.rule().topic, route.output());
        if overlap(&output, &own) {
            errors.push(refuse(rule, format!("topic: \"{topic}\" touches the bridge's own topics, {own}")));
        }
        let heard = to.iter().find(|(_, heard)| overlap(&output, &heard.rule().subscribe));
        if let Some((other, heard)) = heard {
            let filter = &heard.rule().subscribe;
            let what = format!("topic: \"{topic}\" can be heard by {other}, which subscribes to \"{filter}\": a loop");
            errors.push(refuse(rule, what));
        }
    }
}

#[cfg(test)]
mod tests;
