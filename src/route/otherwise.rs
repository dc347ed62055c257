//! The reply to a message from iLink that triggered no route.

use super::filters::{wildcard_levels, wildcards};
use super::from_ilink::{Said, check_from, decoded, with_ids};
use super::pattern::check_name;
use super::rule::{OtherwiseRule, Outcome};
use super::template::Template;
use super::values::{Document, Offers, Scope, Values};
use crate::local::Names;
use crate::local::filter::matches;

/// A compiled rule of `[[route.otherwise]]`.
#[derive(Debug, Clone)]
pub struct OtherwiseRoute {
    rule: OtherwiseRule,
    /// The rule's filter, without names.
    from: String,
    reply: Template,
}

impl OtherwiseRoute {
    pub(super) fn new(rule: OtherwiseRule, names: &Names) -> Result<Self, String> {
        check_name(&rule.name)?;
        let from = with_ids(&rule.from, names).map_err(|error| format!("from: {error}"))?;
        check_from(&from, rule.any_sender).map_err(|error| format!("from: {error}"))?;
        let offers = Offers { sender: true, help: true, number: false };
        let scope = Scope { levels: wildcards(&from), captures: Vec::new(), offers };
        let reply = Template::parse(&rule.reply, &scope).map_err(|error| format!("reply: {error}"))?;
        if rule.reply.is_empty() {
            return Err("reply: it is empty, and iLink takes no empty messages".to_owned());
        }
        Ok(Self { rule, from, reply })
    }

    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.rule.name
    }

    /// The rule as it was written.
    #[must_use]
    pub fn rule(&self) -> &OtherwiseRule {
        &self.rule
    }

    /// Whether it is for messages with these levels under `recv/`.
    pub(super) fn is_for(&self, recv: &str) -> bool {
        matches(&self.from, recv)
    }

    /// The answer; `help` is what the sender may say.
    pub(super) fn reply(&self, said: &Said<'_>, help: Option<String>) -> Outcome<Vec<u8>> {
        let document = Document::default();
        let levels = wildcard_levels(&self.from, said.recv).into_iter().map(decoded).collect();
        let values = Values::new(said.payload, &document, levels, said.from_uid, said.time).with_help(help);
        Outcome::of(self.reply.message(&values))
    }
}
