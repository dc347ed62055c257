//! The whole state on one screen: the content of the status page, and what `status` prints.

use std::fmt::Write;

use serde::Serialize;
use tokio::time::timeout;

use super::cluster::{ClusterHealth, EtcdHealth, Role};
use super::health::{BusyHealth, ClosedHealth, DISK_PATIENCE, Health, QueueHealth, RefusedHealth, in_words};
use super::problems::{Looked, Problem};
use super::report::{Info, Part, Ready, Report, describe_parts};
use crate::observe::activity::{Minute, Passed, Way, harmless};
use crate::operate::set_aside::Entry;
use crate::store::Queue;

/// Everything at one look.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// What the bridge is.
    #[serde(flatten)]
    pub info: Info,
    /// What is wrong and what to do about it, the worst first.
    pub problems: Vec<Problem>,
    /// Whether each part is ready.
    pub ready: Ready,
    /// Every part's state, the queues, the counters.
    pub health: Health,
    /// The most bytes that the inbound and the outbound queue may each hold.
    pub queue_limit: u64,
    /// The last hour, minute by minute; the present one comes last.
    pub minutes: Vec<Minute>,
    /// The last messages, newest first.
    pub messages: Vec<Passed>,
    /// The oldest messages that are set aside.
    pub set_aside: Vec<Entry>,
    /// The cluster, if this bridge is a member of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterView>,
}

/// The cluster as this member sees it.
#[derive(Debug, Serialize)]
pub struct ClusterView {
    /// This member's name.
    pub member: String,
    /// Who leads, the members, how etcd is.
    #[serde(flatten)]
    pub health: ClusterHealth,
}

impl Overview {
    /// Looks at every part.
    pub async fn of(report: &Report) -> Self {
        let health = Health::of(report).await;
        let (info, ready) = (report.info.borrow().clone(), report.ready());
        let mut overview = Self {
            problems: Vec::new(),
            queue_limit: report.spool.limit(Queue::Inbound),
            minutes: report.counters.activity.minutes(),
            messages: report.counters.activity.messages(),
            set_aside: set_aside(report, &health).await,
            info,
            ready,
            health,
            cluster: match &report.cluster {
                Some(member) => Some(ClusterView { member: member.me.clone(), health: (member.look)().await }),
                None => None,
            },
        };
        let link = report.link.borrow().clone();
        overview.problems = Looked {
            ready: &overview.ready,
            health: &overview.health,
            link: &link,
            cluster: overview.cluster.as_ref().and_then(|cluster| cluster.health.trouble.as_deref()),
            warnings: &overview.info.warnings,
            queue_limit: overview.queue_limit,
        }
        .problems();
        overview
    }

    /// The JSON of `status --json`.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// So many of those set aside are shown; the verb lists all.
const SET_ASIDE: usize = 20;

async fn set_aside(report: &Report, health: &Health) -> Vec<Entry> {
    let desk = report.desk.as_ref().filter(|_| health.queues.set_aside.depth > 0);
    let Some(desk) = desk else { return Vec::new() };
    // Asked of the disk, which may hang; that must not hide all the rest.
    timeout(DISK_PATIENCE, desk.oldest(SET_ASIDE)).await.unwrap_or_default()
}

/// So many messages are printed; the page shows more.
const MESSAGES: usize = 10;

/// The longest line for a service manager, in characters.
const LINE: usize = 1_000;

impl Overview {
    /// What is wrong and what to do; each part with its state, cause and time; the queues; what was counted; the last messages.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text.trim_end().to_owned()
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let (info, health) = (&self.info, &self.health);
        writeln!(text, "ilink2mqtt {} for uid {} is running since {}", info.version, info.uid, info.started_at)?;
        for Problem { grave, part, cause, .. } in &self.problems {
            let what = if *grave { "WRONG" } else { "advice" };
            writeln!(text, "{what:<16}{part}: {}", plain(cause))?;
        }
        if let Some(cluster) = &self.cluster {
            writeln!(text, "{:<16}{}", "cluster", cluster.line())?;
        }
        let cloud = &health.cloud;
        writeln!(text, "{:<16}{} since {}{}", "iLink", cloud.state, cloud.since, cause(Some(&cloud.cause)))?;
        for ClosedHealth { endpoint, cause, since } in &cloud.closed {
            writeln!(text, "{:<16}{endpoint} since {since}: {}", "closed", plain(cause))?;
        }
        for (name, Part { ready, cause: why, since, .. }) in describe_parts(&self.ready) {
            let state = if *ready { "ready" } else { "not ready" };
            writeln!(text, "{name:<16}{state} since {since}{}", cause(why.as_deref()))?;
        }
        for RefusedHealth { topic, cause, since } in &health.broker.refused {
            writeln!(text, "{:<16}{} since {since}: {}", "refused", plain(topic), plain(cause))?;
        }
        for BusyHealth { what, kind, cause, since, lanes, messages } in &health.broker.busy {
            let held_up = format!("{messages} {what} wait in {lanes} lanes");
            writeln!(text, "{:<16}{held_up} since {since}: {}", in_words(kind), plain(cause))?;
        }
        if let Some(left) = health.token_expires_in_s {
            writeln!(text, "{:<16}for another {left} s", "access token")?;
        }
        let never = || "never in this run".to_owned();
        writeln!(text, "{:<16}{}", "last handshake", health.callback.last_get_at.clone().unwrap_or_else(never))?;
        writeln!(text, "{:<16}{}", "last push", health.callback.last_push_at.clone().unwrap_or_else(never))?;
        let queues = &health.queues;
        let all = [
            ("inbound", &queues.inbound, "waiting"),
            ("outbound", &queues.outbound, "waiting"),
            ("set aside", &queues.set_aside, "kept"),
        ];
        for (name, QueueHealth { depth, oldest_s, bytes }, what) in all {
            let oldest = oldest_s.map(|age| format!(", the oldest for {age} s")).unwrap_or_default();
            writeln!(text, "{name:<16}{depth} {what}, {bytes} bytes{oldest}")?;
        }
        let (from, to) =
            self.minutes.iter().fold((0, 0), |(from, to), minute| (from + minute.from_ilink, to + minute.to_ilink));
        writeln!(text, "{:<16}{from} from iLink, {to} to iLink", "last hour")?;
        for (name, counts) in [("turned away", &health.callback.rejected), ("unanswered", &health.callback.unanswered)]
        {
            let counts: Vec<_> =
                counts.iter().filter(|(_, count)| **count > 0).map(|(why, n)| format!("{why} {n}")).collect();
            if !counts.is_empty() {
                writeln!(text, "{name:<16}{}", counts.join(", "))?;
            }
        }
        let counted = health.counters.iter().filter(|(_, count)| **count > 0);
        for (name, count) in counted {
            writeln!(text, "  {name} {count}")?;
        }
        for (name, counts) in &health.routes {
            let counts = counts.iter().filter(|(_, count)| **count > 0).map(|(what, count)| format!(" {what} {count}"));
            writeln!(text, "  route {name}:{}", some_or(counts.collect::<Vec<_>>().join(","), " nothing yet"))?;
        }
        if !self.messages.is_empty() {
            writeln!(text, "last messages")?;
        }
        for passed in self.messages.iter().take(MESSAGES) {
            writeln!(text, "  {}", message(passed))?;
        }
        Ok(())
    }
}

impl ClusterView {
    /// In words.
    #[must_use]
    pub fn line(&self) -> String {
        let ClusterHealth { leader, members, etcd, .. } = &self.health;
        let leader = leader.as_deref().map_or_else(|| "nobody leads".to_owned(), |leader| format!("{leader} leads"));
        let all = members.iter().map(|member| format!("{} ({})", plain(&member.name), member.role.as_str()));
        let all = some_or(all.collect::<Vec<_>>().join(", "), "none is known");
        let (me, EtcdHealth { healthy, of }) = (plain(&self.member), etcd);
        format!("{}; this is {me}; members: {all}; etcd: {healthy} of {of} answer", plain(&leader))
    }
}

impl Report {
    /// How things stand, in one line: for a service manager.
    #[must_use]
    pub fn line(&self) -> String {
        let (cloud, ready) = (self.cloud.borrow().clone(), self.ready());
        let why = cause(ready.spool.cause.as_deref());
        match ready.role {
            Some(Role::Waiting) => format!("waits for etcd, has not begun{why}"),
            Some(Role::Standby) => {
                let spool = if ready.spool.ready { "ready" } else { "not ready" };
                format!("stands by for the member that leads; spool {spool}{why}")
            }
            Some(Role::Leader) | None => line(cloud.state.as_str(), &cloud.cause, &ready),
        }
    }
}

/// One line: what is well in few words, what is not with its cause.
fn line(cloud: &str, why: &str, ready: &Ready) -> String {
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

/// One line for a message.
fn message(passed: &Passed) -> String {
    let Passed { at, way, kind, from, to, bytes, outcome, took_ms, content, .. } = passed;
    let way = if *way == Way::FromIlink { "from iLink" } else { "to iLink" };
    let from = from.as_ref().map(|from| format!(" from {}", plain(from))).unwrap_or_default();
    let to = to.as_ref().map(|to| format!(" to {}", plain(to))).unwrap_or_default();
    let bytes = bytes.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
    let content = content.as_ref().map(|content| format!(": {}", plain(content))).unwrap_or_default();
    format!("{at}  {way:<10}  {kind}{from}{to}{bytes}, {outcome} after {took_ms} ms{content}")
}

fn cause(cause: Option<&str>) -> String {
    cause.filter(|cause| !cause.is_empty()).map(|cause| format!(": {}", plain(cause))).unwrap_or_default()
}

/// On one line.
fn plain(text: &str) -> String {
    harmless(text).replace('\n', "\u{fffd}")
}
