//! What is counted by kind, call or outcome, and what is timed: the numbers of `/metrics` that plain counters cannot hold.
//!
//! A label's values are names that the program itself knows, never what others choose (uids, groups, subjects): the number of
//! series is bounded, whatever is sent. Counting is a look-up and an atomic addition.

use std::fmt;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

use crate::local::{CommandResult, Reason};
use crate::protocol::{Kind, Reply};

/// What every name begins with.
pub const PREFIX: &str = "ilink2mqtt";

/// Upper bounds of the histograms, in seconds: from a commit on a fast disk to the usual life of a command.
const BOUNDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// What became of a try of a push, before it is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// Made durable.
    Stored,
    /// A repeat of one that was stored: not stored again.
    Repeated,
    /// Could not be made durable in time.
    Unstored,
    /// For another uid, under `callback.strict_to_uid`.
    Refused,
}

impl PushOutcome {
    const ALL: [Self; 4] = [Self::Stored, Self::Repeated, Self::Unstored, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Repeated => "repeated",
            Self::Unstored => "unstored",
            Self::Refused => "refused",
        }
    }
}

/// All of them; they only grow while the process lives.
pub struct Series {
    registry: Registry,
    pushes: IntCounterVec,
    delivered: IntCounterVec,
    commands: IntCounterVec,
    rejected: IntCounterVec,
    requests: IntCounterVec,
    push_store: Histogram,
    push_delivery: Histogram,
    command: Histogram,
    request: Histogram,
}

impl Series {
    /// A try of a push was answered, or given up.
    pub fn push(&self, kind: Kind, outcome: PushOutcome) {
        self.pushes.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
    }

    /// A push was durable so long after its request had come.
    pub fn push_stored(&self, took: Duration) {
        self.push_store.observe(took.as_secs_f64());
    }

    /// The broker has all of a push, so long after it was accepted.
    pub fn push_delivered(&self, kind: Kind, age: Duration) {
        self.delivered.with_label_values(&[kind.as_str()]).inc();
        self.push_delivery.observe(age.as_secs_f64());
    }

    /// A command has its result, so long after it was accepted.
    pub fn command(&self, call: &'static str, result: &CommandResult, age: Duration) {
        self.commands.with_label_values(&[call, result.status.as_str(), &result.name]).inc();
        self.command.observe(age.as_secs_f64());
    }

    /// A command was not taken.
    pub fn command_rejected(&self, reason: Reason) {
        self.rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// A request to iLink has ended: with a reply, or without one after which it may (`lost`) or cannot (`unsent`) have been
    /// read.
    pub fn request(&self, path: &'static str, reply: Result<&Reply, bool>, took: Duration) {
        let outcome = match reply {
            Ok(reply) => reply.code.name(),
            Err(true) => "lost",
            Err(false) => "unsent",
        };
        self.requests.with_label_values(&[path, outcome]).inc();
        self.request.observe(took.as_secs_f64());
    }

    /// All of it as Prometheus models it.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

impl Default for Series {
    fn default() -> Self {
        let registry = Registry::new();
        let pushes = counters(
            "pushes_total",
            "Tries of pushes, by kind and by what became of them at the callback",
            &["kind", "outcome"],
        );
        let delivered = counters("pushes_delivered_total", "Pushes of which the broker has all publishes", &["kind"]);
        for kind in Kind::ALL {
            delivered.with_label_values(&[kind.as_str()]);
            for outcome in PushOutcome::ALL {
                pushes.with_label_values(&[kind.as_str(), outcome.as_str()]);
            }
        }
        let commands =
            counters("commands_total", "Commands that have a result, by call and result", &["call", "status", "name"]);
        let rejected = counters("commands_rejected_total", "Commands that were not taken", &["reason"]);
        for reason in Reason::ALL {
            rejected.with_label_values(&[reason.as_str()]);
        }
        let requests = counters(
            "api_requests_total",
            "Requests to iLink, by path and outcome: the name of the reply's code, lost (perhaps executed), or unsent",
            &["path", "outcome"],
        );
        let push_store = histogram("push_store_seconds", "From a push's request to its being durable");
        let push_delivery = histogram("push_delivery_seconds", "From a push's acceptance to the broker's PUBACK");
        let command = histogram("command_seconds", "From a command's acceptance to its result");
        let request = histogram("api_request_seconds", "From a request to iLink to its reply or failure");
        for all in [&pushes, &delivered, &commands, &rejected, &requests] {
            register(&registry, all);
        }
        for all in [&push_store, &push_delivery, &command, &request] {
            register(&registry, all);
        }
        Self { registry, pushes, delivered, commands, rejected, requests, push_store, push_delivery, command, request }
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

/// The whole name of a metric.
fn whole(name: &str) -> String {
    format!("{PREFIX}_{name}")
}

#[expect(clippy::expect_used, reason = "names and labels are fixed, and every test makes them")]
fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(whole(name), help), labels).expect("a valid name")
}

#[expect(clippy::expect_used, reason = "names and bounds are fixed, and every test makes them")]
fn histogram(name: &str, help: &str) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(whole(name), help).buckets(BOUNDS.into())).expect("a valid name")
}

#[expect(clippy::expect_used, reason = "names are fixed, and every test registers them")]
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) {
    registry.register(Box::new(collector.clone())).expect("a name of its own");
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn what_is_counted_is_gathered_under_its_labels() {
        let series = Series::default();
        series.push(Kind::Text, PushOutcome::Repeated);
        series.push_delivered(Kind::Group, Duration::from_millis(3));
        series.command_rejected(Reason::Retained);
        series.request("send_msg", Err(true), Duration::from_secs(2));
        let text = TextEncoder::new().encode_to_string(&series.gather()).unwrap();
        for line in [
            r#"ilink2mqtt_pushes_total{kind="text",outcome="repeated"} 1"#,
            r#"ilink2mqtt_pushes_total{kind="text",outcome="stored"} 0"#,
            r#"ilink2mqtt_pushes_delivered_total{kind="group"} 1"#,
            r#"ilink2mqtt_commands_rejected_total{reason="retained"} 1"#,
            r#"ilink2mqtt_api_requests_total{outcome="lost",path="send_msg"} 1"#,
            r#"ilink2mqtt_push_delivery_seconds_bucket{le="0.0025"} 0"#,
            r#"ilink2mqtt_push_delivery_seconds_bucket{le="0.005"} 1"#,
            "ilink2mqtt_api_request_seconds_sum 2",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line}:\n{text}");
        }
    }
}
