//! The same for people: what `status` prints.

use std::fmt::Write;

use super::health::{QueueHealth, RefusedHealth};
use super::{Health, Info, Part, Ready, describe_parts};

/// The longest line, in characters.
const LINE: usize = 1_000;

impl Health {
    /// A few lines: each part with its state, cause and time; the queues; what was counted.
    #[must_use]
    pub fn text(&self, info: &Info, ready: &Ready) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, info, ready);
        text.trim_end().to_owned()
    }

    fn write(&self, text: &mut String, info: &Info, ready: &Ready) -> std::fmt::Result {
        writeln!(text, "ilink2mqtt {} for uid {} is running since {}", info.version, info.uid, info.started_at)?;
        let cloud = &self.cloud;
        writeln!(text, "{:<16}{} since {}{}", "iLink", cloud.state, cloud.since, cause(Some(&cloud.cause)))?;
        for (name, Part { ready, cause: why, since }) in describe_parts(ready) {
            let state = if *ready { "ready" } else { "not ready" };
            writeln!(text, "{name:<16}{state} since {since}{}", cause(why.as_deref()))?;
        }
        for RefusedHealth { topic, cause, since } in &self.broker.refused {
            writeln!(text, "{:<16}{topic} since {since}: {cause}", "refused")?;
        }
        if let Some(left) = self.token_expires_in_s {
            writeln!(text, "{:<16}for another {left} s", "access token")?;
        }
        let never = || "never in this run".to_owned();
        writeln!(text, "{:<16}{}", "last handshake", self.callback.last_get_at.clone().unwrap_or_else(never))?;
        writeln!(text, "{:<16}{}", "last push", self.callback.last_push_at.clone().unwrap_or_else(never))?;
        let queues = &self.queues;
        let all = [
            ("inbound", &queues.inbound, "waiting"),
            ("outbound", &queues.outbound, "waiting"),
            ("set aside", &queues.set_aside, "kept"),
        ];
        for (name, QueueHealth { depth, oldest_s, bytes }, what) in all {
            let oldest = oldest_s.map(|age| format!(", the oldest for {age} s")).unwrap_or_default();
            writeln!(text, "{name:<16}{depth} {what}, {bytes} bytes{oldest}")?;
        }
        let rejected: Vec<_> = self
            .callback
            .rejected
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(why, n)| format!("{why} {n}"))
            .collect();
        if !rejected.is_empty() {
            writeln!(text, "{:<16}{}", "turned away", rejected.join(", "))?;
        }
        let counted = self.counters.iter().filter(|(_, count)| **count > 0);
        for (name, count) in counted {
            writeln!(text, "  {name} {count}")?;
        }
        for (name, counts) in &self.routes {
            let counts = counts.iter().filter(|(_, count)| **count > 0).map(|(what, count)| format!(" {what} {count}"));
            writeln!(text, "  route {name}:{}", some_or(counts.collect::<Vec<_>>().join(","), " nothing yet"))?;
        }
        Ok(())
    }
}

/// One line: what is well in few words, what is not with its cause.
pub(super) fn line(cloud: &str, why: &str, ready: &Ready) -> String {
    let parts = [("broker", &ready.broker), ("subscriptions", &ready.subscriptions), ("spool", &ready.spool)];
    let (well, unwell): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(_, part)| part.ready);
    let mut line = format!("iLink {cloud}{}", cause(Some(why)));
    for (name, part) in unwell {
        let _ = write!(line, "; {name} not ready{}", cause(part.cause.as_deref()));
    }
    if !well.is_empty() {
        let _ = write!(line, "; ready: {}", well.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect()
}

fn some_or(text: String, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text }
}

fn cause(cause: Option<&str>) -> String {
    cause.filter(|cause| !cause.is_empty()).map(|cause| format!(": {cause}")).unwrap_or_default()
}
