//! Everything at one look: what the status page shows and `status` prints.

use serde::Serialize;

use super::health::{BusyHealth, Health, in_words};
use super::readiness::Ready;
use super::report::{Info, Report};
use crate::cloud::CloudState;
use crate::mqtt::Subscriptions;
use crate::observe::activity::{Minute, Passed};
use crate::store::Queue;

/// From here on a queue is said to be nearly full, in per cent of its limit.
const NEARLY_FULL: u64 = 80;

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
}

/// Something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether messages wait or are lost because of it; if not, it is advice.
    pub grave: bool,
    /// The part it is about.
    pub part: String,
    /// The cause and the remedy.
    pub cause: String,
    /// Since when, if that is known: RFC 3339.
    pub since: Option<String>,
}

impl Problem {
    fn new(grave: bool, part: impl Into<String>, cause: impl Into<String>, since: Option<&str>) -> Self {
        Self { grave, part: part.into(), cause: cause.into(), since: since.map(str::to_owned) }
    }
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
            info,
            ready,
            health,
        };
        let unverified = match &report.link.borrow().subscriptions {
            Subscriptions::Unverified(_) => Some(overview.health.broker.subscriptions.clone()),
            _ => None,
        };
        overview.problems = overview.find_problems(unverified);
        overview
    }

    fn find_problems(&self, unverified: Option<String>) -> Vec<Problem> {
        let mut found = Vec::new();
        let (ready, cloud) = (&self.ready, &self.health.cloud);
        let parts = [("broker", &ready.broker), ("subscriptions", &ready.subscriptions), ("spool", &ready.spool)];
        for (name, part) in parts {
            // Without a broker there is nothing to say of the subscriptions.
            if part.ready || (name == "subscriptions" && !ready.broker.ready) {
                continue;
            }
            let cause = part.cause.as_deref().unwrap_or("starting");
            found.push(Problem::new(true, name, cause, Some(&part.since)));
        }
        let online = cloud.state == CloudState::Online.as_str();
        if !online || !cloud.cause.is_empty() {
            found.push(Problem::new(!online, format!("iLink is {}", cloud.state), &*cloud.cause, Some(&cloud.since)));
        }
        if let Some(cause) = ready.callback.cause.as_deref().filter(|cause| *cause != cloud.cause) {
            found.push(Problem::new(true, "callback", cause, Some(&ready.callback.since)));
        }
        for refused in &self.health.broker.refused {
            let part = format!("publishes to {}", refused.topic);
            found.push(Problem::new(true, part, &*refused.cause, Some(&refused.since)));
        }
        for busy in &self.health.broker.busy {
            let BusyHealth { what, kind, cause, since, messages, .. } = busy;
            let cause =
                format!("{cause}; {messages} wait and are tried again, none is lost; look into the broker's log");
            found.push(Problem::new(true, format!("{what}, {}", in_words(kind)), cause, Some(since)));
        }
        if let Some(cause) = unverified {
            found.push(Problem::new(false, "subscriptions", cause, None));
        }
        for (name, queue, remedy) in [
            ("inbound queue", &self.health.queues.inbound, "when it is full, pushes are not answered and may be lost"),
            ("outbound queue", &self.health.queues.outbound, "when it is full, commands are refused as queue_full"),
        ] {
            let percent = queue.bytes.saturating_mul(100) / self.queue_limit.max(1);
            if percent >= NEARLY_FULL {
                let cause = format!("{percent} % of spool.max_bytes are used; {remedy}");
                found.push(Problem::new(false, name, cause, None));
            }
        }
        for warning in &self.info.warnings {
            found.push(Problem::new(false, "configuration", *warning, None));
        }
        // A stable sort: within both kinds the order above stays.
        found.sort_by_key(|problem| !problem.grave);
        found
    }

    /// The JSON of `status --json`.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
