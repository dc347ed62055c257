//! The counters. Each only grows while the process lives.
//!
//! [`Counters`] has the plain ones. They appear in `bridge/health` and `status` by themselves, and in `/metrics` by a
//! line in `operate/status/metrics.rs`. [`Series`] has the counters with labels (kind, call, outcome) and the
//! histograms, and `/metrics` takes them from there as they are. The values of labels are names that the program itself
//! knows, never what others choose (uids, groups, subjects): so the number of series is bounded. Counting is a look-up
//! and an atomic addition.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

use crate::local::{CommandResult, Reason};
use crate::observe::activity::Activity;
use crate::protocol::{Kind, Reply};

/// Why a push is left unanswered, so that iLink sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The inbound queue holds `spool.max_bytes`.
    Full,
    /// The disk refuses: an error, or no space left.
    Failed,
    /// The disk takes too long.
    Slow,
    /// Too many wait already, or their bodies take all the memory that there is for them.
    Overload,
}

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more, if `condition`.
    pub fn add_if(&self, condition: bool) {
        self.0.fetch_add(u64::from(condition), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Everything that is counted.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// What is counted by label, and what is timed.
            pub series: Series,
            /// What has passed lately.
            pub activity: Activity,
        }

        impl Counters {
            /// A try of a push is left unanswered.
            pub fn unanswered(&self, why: Unanswered) {
                self.pushes_unstored.add();
                match why {
                    Unanswered::Full => self.pushes_unanswered_full.add(),
                    Unanswered::Failed => self.pushes_unanswered_failed.add(),
                    Unanswered::Slow => self.pushes_unanswered_slow.add(),
                    Unanswered::Overload => self.pushes_unanswered_overload.add(),
                }
            }

            /// Every plain counter's name and its count so far.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// Pushes made durable and answered (or about to be).
    pushes_stored,
    /// Repeats of a push that was stored and not answered: answered, not stored again.
    pushes_repeated,
    /// Tries of pushes that could not be made durable in time, and were not answered; why is counted below.
    pushes_unstored,
    /// Of these: `spool.max_bytes` were reached.
    pushes_unanswered_full,
    /// Of these: the disk refused, or has failed.
    pushes_unanswered_failed,
    /// Of these: the disk took too long.
    pushes_unanswered_slow,
    /// Of these: too many others waited.
    pushes_unanswered_overload,
    /// Pushes for another uid than ours.
    pushes_for_other_uid,
    /// Requests on the callback from an address outside `callback.allow`.
    callback_rejected_address,
    /// Requests on the callback with a path that is not the secret one.
    callback_rejected_path,
    /// Requests on the callback with a method other than GET and POST.
    callback_rejected_method,
    /// Handshakes without the three parameters.
    callback_rejected_parameters,
    /// Handshakes with a wrong signature.
    callback_rejected_signature,
    /// Push bodies over `callback.max_body`.
    callback_rejected_size,
    /// Push bodies that are not a JSON object: kept all the same.
    callback_rejected_json,
    /// Requests too slow to finish, and connections without any.
    callback_rejected_slow,
    /// What was not TLS or not HTTP, had too large a head, or broke off in its body.
    callback_rejected_malformed,
    /// Connections cut to make room for others.
    callback_rejected_crowded,
    /// Pushes for another uid, refused under `callback.strict_to_uid`.
    callback_rejected_uid,
    /// Handshakes answered.
    handshakes_answered,
    /// Pushes delivered: every publish of them is acknowledged by the broker.
    pushes_delivered,
    /// Pushes of which the broker refused a publish for good: set aside, not delivered.
    pushes_set_aside,
    /// Pushes that went to `event/` only because they were too old.
    pushes_late,
    /// Pushes that went to `event/` only because of their sender.
    pushes_not_allowed,
    /// Presence pushes older than what was published.
    presence_stale,
    /// Publishes that the broker refused for good, set aside.
    publishes_set_aside,
    /// Messages that were set aside and put back.
    set_aside_retried,
    /// Commands made durable.
    commands_stored,
    /// Commands recognised as the broker's redelivery of a stored one.
    commands_redelivered,
    /// Commands refused with a result.
    commands_rejected,
    /// Requests made to iLink for commands.
    calls,
    /// Of these, how many repeated an earlier one for the same command.
    calls_repeated,
    /// Commands that ended `ok`.
    commands_ok,
    /// Commands that ended `error`.
    commands_error,
    /// Commands that ended `expired`.
    commands_expired,
    /// Commands that ended `uncertain`.
    commands_uncertain,
    /// Response topics ignored because they are not allowed.
    response_topics_ignored,
}

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
