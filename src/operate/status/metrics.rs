//! `/metrics`: all figures, in Prometheus' text format.
//!
//! Units are in the names: seconds, bytes, `_total` for counters. A gauge without a value (the age of a token that does not
//! exist) is left out. Series with labels, and histograms, come from [`Series`](crate::observe::counters::Series).

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{TEXT_FORMAT, TextEncoder};

use super::cluster::Role;
use super::health::{Health, QueueHealth};
use super::report::{Report, describe_parts};
use crate::cloud::{CloudState, Endpoint};
use crate::mqtt::{LinkCounters, NotNow};
use crate::observe::counters::PREFIX;
use crate::store::{Counters, Queue, WhyNot};

/// The content type of [`Report::metrics`].
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

impl Report {
    /// Everything, as Prometheus reads it.
    pub async fn metrics(&self) -> String {
        let health = Health::of(self).await;
        let mut all = self.counters.series.gather();
        let mut page = Page(Vec::new());
        self.bridge(&mut page, &health);
        self.queues(&mut page, &health);
        self.cloud(&mut page);
        self.broker(&mut page);
        self.traffic(&mut page, &health);
        self.membership(&mut page).await;
        all.append(&mut page.0);
        all.sort_by(|one, other| one.name().cmp(other.name()));
        TextEncoder::new().encode_to_string(&all).unwrap_or_default()
    }

    fn bridge(&self, page: &mut Page, health: &Health) {
        let info = self.info.borrow();
        page.gauges("build_info", "Which version runs", [(&[("version", info.version)][..], 1.0)]);
        let started = humantime::parse_rfc3339(&info.started_at).ok();
        page.gauge("start_time_seconds", "When the bridge started, by the wall clock", started.map(since_epoch));
        let ready = self.ready();
        let parts = describe_parts(&ready);
        page.gauges(
            "ready",
            "Whether each part is ready",
            parts.each_ref().map(|(name, part)| (vec![("part", *name)], truth(part.ready))),
        );
        let stores = self.stores().err().map(|not| not.why);
        let states = WhyNot::ALL.map(|why| (vec![("state", why.as_str())], truth(stores == Some(why))));
        page.gauges(
            "store_state",
            "1 for the present state of the spool: ok, full, refused by the disk for now, or failed for good",
            [(vec![("state", "ok")], truth(stores.is_none()))].into_iter().chain(states),
        );
        // All of them, so that the compiler asks for what is new.
        let Counters { damaged_rows, rebuilds, set_aside_dropped, commits_synced, commits_lazy } =
            self.spool.counters();
        page.counter("spool_commits_total", "Commits that were followed by a sync", commits_synced);
        page.counter("spool_commits_lazy_total", "Commits that were left to the next sync", commits_lazy);
        page.counter("spool_damaged_rows_total", "Rows found damaged and left out", damaged_rows);
        page.counter("spool_rebuilds_total", "Times the spool was rebuilt from what was readable", rebuilds);
        page.counter("set_aside_dropped_total", "What made room in the set-aside store", set_aside_dropped);
        let last_push = health.callback.last_push_at.as_ref().and_then(|at| humantime::parse_rfc3339(at).ok());
        page.gauge("last_push_timestamp_seconds", "When the last push was stored", last_push.map(since_epoch));
        let last_get = self.handshakes.last_get_at();
        page.gauge(
            "last_handshake_timestamp_seconds",
            "When iLink last verified the callback",
            last_get.map(since_epoch),
        );
    }

    async fn membership(&self, page: &mut Page) {
        let Some(member) = &self.cluster else { return };
        let health = (member.look)().await;
        page.gauge("cluster_leader", "Whether this member leads its cluster", Some(truth(member.role == Role::Leader)));
        let members = "Members of the cluster that are connected to etcd";
        page.gauge("cluster_members", members, Some(float(health.members.len() as u64)));
        let healthy = "Addresses of etcd that answer";
        page.gauge("cluster_etcd_healthy", healthy, Some(float(health.etcd.healthy as u64)));
        let of = "Addresses of etcd that are configured";
        page.gauge("cluster_etcd_endpoints", of, Some(float(health.etcd.of as u64)));
    }

    fn queues(&self, page: &mut Page, health: &Health) {
        let queues = &health.queues;
        let all = [
            (Queue::Inbound, &queues.inbound),
            (Queue::Outbound, &queues.outbound),
            (Queue::SetAside, &queues.set_aside),
        ];
        let each = |number: fn(&QueueHealth) -> f64| {
            all.map(|(queue, health)| (vec![("queue", queue.as_str())], number(health)))
        };
        page.gauges("queue_messages", "What waits in a queue, or is kept set aside", each(|queue| float(queue.depth)));
        page.gauges("queue_bytes", "The same in bytes, as counted against its limit", each(|queue| float(queue.bytes)));
        page.gauges(
            "queue_limit_bytes",
            "The most bytes a queue may hold",
            all.map(|(queue, _)| (vec![("queue", queue.as_str())], float(self.spool.limit(queue)))),
        );
        let oldest = |queue: &QueueHealth| float(queue.oldest_s.unwrap_or_default());
        page.gauges("queue_oldest_seconds", "The age of the oldest in a queue; 0 if it is empty", each(oldest));
    }

    fn cloud(&self, page: &mut Page) {
        let cloud = self.cloud.borrow();
        page.gauges(
            "cloud_state",
            "1 for the present state of the connection to iLink",
            CloudState::ALL.map(|state| (vec![("state", state.as_str())], truth(state == cloud.state))),
        );
        let closed = |endpoint| cloud.closed.iter().any(|closed| closed.endpoint == endpoint);
        page.gauges(
            "endpoint_closed",
            "Whether calls of one endpoint of iLink wait because it does not work",
            Endpoint::ALL.map(|endpoint| (vec![("endpoint", endpoint.path())], truth(closed(endpoint)))),
        );
        page.gauge("token_age_seconds", "The age of the access token", cloud.token_age().map(|age| age.as_secs_f64()));
        let left = cloud.token_expires_in().map(|left| left.as_secs_f64());
        page.gauge("token_expires_in_seconds", "How long the access token still lives", left);
    }

    fn broker(&self, page: &mut Page) {
        let link = self.link.borrow();
        page.gauge("broker_connected", "Whether messages can flow", Some(truth(link.connected)));
        let all = self.busy.borrow();
        let for_now = NotNow::ALL.map(|how| (how.as_str(), all.values().any(|busy| busy.how == how)));
        let for_good = ("refused", !link.refused.is_empty());
        page.gauges(
            "broker_trouble",
            "1 for each way in which the broker does not take messages at present; refused: for good, and set aside",
            for_now.into_iter().chain([for_good]).map(|(kind, is)| (vec![("kind", kind)], truth(is))),
        );
        let busy: (usize, usize) =
            all.values().fold((0, 0), |(lanes, rows), busy| (lanes + busy.held_up.lanes, rows + busy.held_up.rows));
        let held_up = "Senders (and topics of results) whose messages wait because the broker refused one for now";
        page.gauge("held_up_lanes", held_up, Some(float(busy.0 as u64)));
        page.gauge("held_up_messages", "Messages that wait for that reason", Some(float(busy.1 as u64)));
        link_traffic(page, &self.link_counters);
    }

    fn traffic(&self, page: &mut Page, health: &Health) {
        let counters = &self.counters;
        let rejected = health.callback.rejected.iter().map(|(reason, count)| (vec![("reason", *reason)], *count));
        page.counters("callback_rejected_total", "What the callback turned away", rejected);
        let unanswered = health.callback.unanswered.iter().map(|(cause, count)| (vec![("cause", *cause)], *count));
        let left = "Tries of pushes that could not be stored and got no answer, so that iLink tries again";
        page.counters("pushes_unanswered_total", left, unanswered);
        let routes = health.routes.iter().flat_map(|(route, counts)| {
            let labelled = move |(outcome, count): (&&'static str, &u64)| {
                (vec![("route", route.as_str()), ("outcome", *outcome)], *count)
            };
            counts.iter().map(labelled)
        });
        page.counters("route_messages_total", "Messages that a route's filter selects, by what became of them", routes);
        for (name, help, count) in counters.metrics() {
            page.counter(name, help, count);
        }
    }
}

/// What the link counts: all of it, so that the compiler asks for what is new.
fn link_traffic(page: &mut Page, counters: &LinkCounters) {
    let LinkCounters {
        published,
        acked,
        no_subscribers,
        refused,
        for_now,
        expired,
        withdrawn,
        requeued,
        connects,
        failures,
        sessions_lost,
        commands,
        commands_dropped,
        commands_overlooked,
        stale_acks,
    } = counters;
    let outcomes =
        [("acked", acked), ("refused", refused), ("for_now", for_now), ("expired", expired), ("withdrawn", withdrawn)];
    page.counters(
        "publishes_total",
        "Publishes by outcome: acknowledged by the broker, refused for good (and set aside), not taken for now, too late, or \
         withdrawn before they were sent",
        outcomes.map(|(outcome, count)| (vec![("outcome", outcome)], count.load(Relaxed))),
    );
    let reconnects = connects.load(Relaxed).saturating_sub(1);
    page.counter("broker_reconnects_total", "Connections that the broker accepted after the first", reconnects);
    for (name, help, count) in [
        ("broker_connects_total", "Connections that the broker accepted", connects),
        ("broker_failures_total", "Connections lost, and attempts at one that failed", failures),
        ("broker_sessions_lost_total", "Sessions that the broker had lost", sessions_lost),
        ("broker_stale_acks_total", "Acknowledgements of commands whose connection had gone", stale_acks),
        ("publish_packets_total", "PUBLISH packets sent, repeats included", published),
        ("publishes_requeued_total", "Publishes sent again because a connection was lost", requeued),
        (
            "publishes_without_subscribers_total",
            "Publishes of which the broker says that nobody subscribes to them",
            no_subscribers,
        ),
        ("commands_received_total", "Messages received as commands", commands),
        ("commands_dropped_total", "Commands at QoS 0 dropped because too many came at once", commands_dropped),
        (
            "commands_overlooked_total",
            "Commands at QoS 1 left to the next connection because too many came at once",
            commands_overlooked,
        ),
    ] {
        page.counter(name, help, count.load(Relaxed));
    }
}

/// Families in the making.
struct Page(Vec<MetricFamily>);

impl Page {
    fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.counters(name, help, [(Vec::new(), count)]);
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, u64)>,
    ) {
        let metrics = series.into_iter().map(|(labels, count)| {
            let mut counter = Counter::default();
            counter.set_value(float(count));
            let mut metric = labelled(&labels);
            metric.set_counter(counter);
            metric
        });
        self.family(name, help, MetricType::COUNTER, metrics.collect());
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.gauges(name, help, value.map(|value| (Vec::new(), value)));
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (impl AsRef<[(&'a str, &'a str)]>, f64)>,
    ) {
        let metrics = series.into_iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = labelled(labels.as_ref());
            metric.set_gauge(gauge);
            metric
        });
        self.family(name, help, MetricType::GAUGE, metrics.collect());
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has floats only; they are exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn since_epoch(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
