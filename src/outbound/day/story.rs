//! All that is known of one command, for the checks and for who reads of a failure.

use std::fmt::{self, Debug};
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Ledger;
use super::service::Try;
use super::weather::End;
use crate::local::CommandResult;

/// What calls without a receiver go to.
pub(super) const NOBODY: &str = "nobody";
/// So much of the time before its end is told.
const TOLD: Duration = Duration::from_mins(20);

/// A command, as it was asked for.
pub(super) struct Asked {
    pub(super) mark: String,
    pub(super) path: &'static str,
    /// Its client and receiver.
    pub(super) lane: String,
    /// It is never to be repeated.
    pub(super) once: bool,
    pub(super) ttl: Duration,
    pub(super) at: Instant,
}

/// A run of the bridge, and how it ended.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) how: End,
    /// Somebody waited for the disk when it was killed.
    pub(super) at_work: bool,
}

pub(super) struct Story<'a> {
    pub(super) asked: &'a Asked,
    pub(super) acked: Option<Instant>,
    pub(super) tries: &'a [Try],
    pub(super) results: Vec<&'a (Instant, CommandResult)>,
}

impl Story<'_> {
    /// When it had its first result.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.results.first().map(|(at, _)| *at)
    }

    pub(super) fn executed(&self) -> usize {
        self.tries.iter().filter(|one| one.executed).count()
    }

    /// What is wrong with it, and all that happened around.
    pub(super) fn told(&self, wrong: &str, ledger: &Ledger) -> String {
        let Asked { mark, path, lane, ttl, at, .. } = self.asked;
        let end = self.ended().unwrap_or(*at + *ttl);
        let mut lines = vec![(*at, format!("asked; acknowledged: {}", self.acked.is_some()))];
        let mut add = |at: Instant, what: fmt::Arguments<'_>| {
            if at + TOLD >= end && at <= end {
                lines.push((at, what.to_string()));
            }
        };
        for one in self.tries {
            add(one.at, format_args!("{mark}: {one:?}"));
        }
        for (at, result) in &self.results {
            add(*at, format_args!("{result:?}"));
        }
        for (mark, tries) in &ledger.memory.tries {
            for one in tries {
                add(one.at, format_args!("{mark} was answered {:?}", one.said));
            }
        }
        for (at, path, trouble) in &ledger.memory.odd {
            add(*at, format_args!("{path}: {trouble:?}"));
        }
        for (path, at) in &ledger.memory.own {
            add(*at, format_args!("{path}"));
        }
        for up in &ledger.ups {
            add(up.from, format_args!("the bridge starts"));
            add(up.to, format_args!("the bridge ends: {:?}, at work: {}", up.how, up.at_work));
        }
        for spell in &ledger.spells {
            add(ledger.began + spell.from, format_args!("begins: {spell:?}"));
            add(ledger.began + spell.to, format_args!("ends: {spell:?}"));
        }
        lines.sort();
        let lines = lines.iter().map(|(at, what)| format!("\n    {:.3} {what}", (*at - ledger.began).as_secs_f64()));
        format!("{mark} ({path}, {lane}, ttl {ttl:?}): {wrong}{}", lines.collect::<String>())
    }
}
