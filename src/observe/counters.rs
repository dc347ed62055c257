//! The counters. Each only grows while the process lives.
//!
//! [`Counters`] has the plain ones. They appear in `bridge/health`, `status` and `/metrics` by themselves. [`Series`] has the
//! counters with labels (kind, call, outcome) and the histograms, and `/metrics` takes them from there as they are. The values of
//! labels are names that the program itself knows, never what others choose (uids, groups, subjects): so the number of series is
//! bounded. Counting is a look-up and an atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

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

/// Instead of a metric's name: `/metrics` has this counter as one label of another metric.
const LABELLED: Option<&str> = None;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $metric:expr,)+) => {
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

            /// Those that are metrics by themselves: name, explanation, and the count so far.
            pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                let all: Vec<(Option<&str>, &str, u64)> =
                    vec![$(($metric, concat!($($doc),+), self.$name.get()),)+];
                all.into_iter().filter_map(|(name, help, count)| {
                    Some((name?, help.trim().trim_end_matches('.'), count))
                })
            }
        }
    };
}

counters! {
    /// Pushes made durable and answered (or about to be).
    pushes_stored => LABELLED,
    /// Repeats of a push that was stored and not answered: answered, not stored again.
    pushes_repeated => LABELLED,
    /// Tries of pushes that could not be made durable in time, and were not answered; why is counted below.
    pushes_unstored => LABELLED,
    /// Of these: `spool.max_bytes` were reached.
    pushes_unanswered_full => LABELLED,
    /// Of these: the disk refused, or has failed.
    pushes_unanswered_failed => LABELLED,
    /// Of these: the disk took too long.
    pushes_unanswered_slow => LABELLED,
    /// Of these: too many others waited.
    pushes_unanswered_overload => LABELLED,
    /// Pushes for another uid than ours.
    pushes_for_other_uid => Some("pushes_for_other_uid_total"),
    /// Requests on the callback from an address outside `callback.allow`.
    callback_rejected_address => LABELLED,
    /// Requests on the callback with a path that is not the secret one.
    callback_rejected_path => LABELLED,
    /// Requests on the callback with a method other than GET and POST.
    callback_rejected_method => LABELLED,
    /// Handshakes without the three parameters.
    callback_rejected_parameters => LABELLED,
    /// Handshakes with a wrong signature.
    callback_rejected_signature => LABELLED,
    /// Push bodies over `callback.max_body`.
    callback_rejected_size => LABELLED,
    /// Push bodies that are not a JSON object: kept all the same.
    callback_rejected_json => LABELLED,
    /// Requests too slow to finish, and connections without any.
    callback_rejected_slow => LABELLED,
    /// What was not TLS or not HTTP, had too large a head, or broke off in its body.
    callback_rejected_malformed => LABELLED,
    /// Connections cut to make room for others.
    callback_rejected_crowded => LABELLED,
    /// Pushes for another uid, refused under `callback.strict_to_uid`.
    callback_rejected_uid => LABELLED,
    /// Verifications of the callback by iLink that were answered.
    handshakes_answered => Some("callback_handshakes_total"),
    /// Pushes delivered: every publish of them is acknowledged by the broker.
    pushes_delivered => LABELLED,
    /// Pushes of which the broker refused a publish for good: set aside, not delivered.
    pushes_set_aside => Some("pushes_set_aside_total"),
    /// Pushes published as events only because they were too old.
    pushes_late => Some("pushes_late_total"),
    /// Pushes published as events only because of their sender (`inbound.allow_from`).
    pushes_not_allowed => Some("pushes_not_allowed_total"),
    /// Presence pushes older than what was published.
    presence_stale => Some("presence_stale_total"),
    /// Publishes that the broker refused for good, set aside.
    publishes_set_aside => Some("set_aside_total"),
    /// Messages that were set aside and put back.
    set_aside_retried => Some("set_aside_retried_total"),
    /// Publishes of routes that were put back and not sent, because they had become too old.
    set_aside_unsent => Some("set_aside_unsent_total"),
    /// Commands made durable.
    commands_stored => Some("commands_stored_total"),
    /// Commands recognised as the broker's redelivery of a stored one.
    commands_redelivered => Some("commands_redelivered_total"),
    /// Commands refused with a result.
    commands_rejected => LABELLED,
    /// Requests made to iLink for commands.
    calls => Some("calls_total"),
    /// Requests made to iLink for commands that repeated an earlier one for the same command.
    calls_repeated => Some("calls_repeated_total"),
    /// Commands that ended `ok`.
    commands_ok => LABELLED,
    /// Commands that ended `error`.
    commands_error => LABELLED,
    /// Commands that ended `expired`.
    commands_expired => LABELLED,
    /// Commands that ended `uncertain`.
    commands_uncertain => LABELLED,
    /// Response topics ignored because they are not allowed.
    response_topics_ignored => Some("response_topics_ignored_total"),
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
#[derive(Debug)]
pub struct Series {
    registry: Registry,
    /// By kind and outcome. Those that every push adds to are not looked up each time.
    pushes: [[IntCounter; PushOutcome::ALL.len()]; Kind::ALL.len()],
    /// By kind.
    delivered: [IntCounter; Kind::ALL.len()],
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
        if let Some(counter) = self.pushes.get(kind as usize).and_then(|of_kind| of_kind.get(outcome as usize)) {
            counter.inc();
        }
    }

    /// A push was durable so long after its request had come.
    pub fn push_stored(&self, took: Duration) {
        self.push_store.observe(took.as_secs_f64());
    }

    /// The broker has all of a push, so long after it was accepted.
    pub fn push_delivered(&self, kind: Kind, age: Duration) {
        if let Some(counter) = self.delivered.get(kind as usize) {
            counter.inc();
        }
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
        let pushes = Kind::ALL
            .map(|kind| PushOutcome::ALL.map(|outcome| pushes.with_label_values(&[kind.as_str(), outcome.as_str()])));
        let delivered = Kind::ALL.map(|kind| delivered.with_label_values(&[kind.as_str()]));
        Self { registry, pushes, delivered, commands, rejected, requests, push_store, push_delivery, command, request }
    }
}

#[expect(clippy::expect_used, reason = "names and labels are fixed, and every test makes them")]
fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), labels).expect("a valid name")
}

#[expect(clippy::expect_used, reason = "names and bounds are fixed, and every test makes them")]
fn histogram(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).namespace(PREFIX).buckets(BOUNDS.into());
    Histogram::with_opts(options).expect("a valid name")
}

#[expect(clippy::expect_used, reason = "names are fixed, and every test registers them")]
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) {
    registry.register(Box::new(collector.clone())).expect("a name of its own");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus::TextEncoder;

    use super::*;

    /// Whoever adds one says which metric it is. That it is a label of another is said here, too.
    #[test]
    fn each_counter_is_a_metric_or_a_label_of_one() {
        let counters = Counters::default();
        let labels = [
            ("pushes_total", &["pushes_stored", "pushes_repeated", "pushes_unstored"][..]),
            ("pushes_delivered_total", &["pushes_delivered"]),
            ("commands_total", &["commands_ok", "commands_error", "commands_expired", "commands_uncertain"]),
            ("commands_rejected_total", &["commands_rejected"]),
        ];
        let by_prefix = ["callback_rejected_", "pushes_unanswered_"];
        let labelled = counters.all().into_iter().filter(|(name, _)| {
            by_prefix.iter().any(|prefix| name.starts_with(prefix)) || labels.iter().any(|(_, all)| all.contains(name))
        });
        let metrics: Vec<_> = counters.metrics().collect();
        assert_eq!(labelled.count() + metrics.len(), counters.all().len());
        let names: BTreeSet<_> = metrics.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), metrics.len(), "two metrics have one name");
        for (name, help, _) in metrics {
            assert!(name.ends_with("_total") && !help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn a_push_is_counted_under_its_own_labels() {
        for (kind, outcome) in Kind::ALL.into_iter().flat_map(|kind| PushOutcome::ALL.map(|outcome| (kind, outcome))) {
            let series = Series::default();
            series.push(kind, outcome);
            series.push_delivered(kind, Duration::ZERO);
            let text = TextEncoder::new().encode_to_string(&series.gather()).unwrap();
            let counted: Vec<_> =
                text.lines().filter(|line| line.contains("_pushes_") && line.ends_with(" 1")).collect();
            let (kind, outcome) = (kind.as_str(), outcome.as_str());
            let delivered = format!(r#"ilink2mqtt_pushes_delivered_total{{kind="{kind}"}} 1"#);
            let pushes = format!(r#"ilink2mqtt_pushes_total{{kind="{kind}",outcome="{outcome}"}} 1"#);
            assert_eq!(counted, [delivered, pushes]);
        }
    }

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
