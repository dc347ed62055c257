//! The self-test: the link publishes a *probe* to a topic that it subscribes to, and waits for it to come back.
//!
//! A granted SUBACK is not enough: Mosquitto grants filters and then drops their messages by its ACL. Only a message that has
//! gone to the broker and back shows that commands arrive.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{Connection, Step};
use super::delivery::Delivery;
use super::outbox::Origin;
use super::packets::Version;
use super::refused;
use super::state::Subscriptions;
use crate::local::{Publication, filter};
use crate::os::clock::boot_now;

impl<V: Version> Connection<'_, V> {
    pub(super) fn start_probe(&mut self) {
        if let Some((until, reason)) = self.task.denied.until(Instant::now()) {
            let unverified = Subscriptions::Unverified(reason.to_owned());
            return self.recheck_at(until, unverified);
        }
        let config = &self.task.dialer.config;
        let topic = config.base.self_test(&random());
        if !config.filters.iter().any(|filter| filter::matches(filter, &topic)) {
            // No subscription of ours covers the probe: the SUBACK is all we have.
            return self.task.subscriptions(Subscriptions::Granted);
        }
        let limit = config.timing.self_test_limit;
        self.probe.topic.clone_from(&topic);
        self.probe.recheck_at = None;
        self.probe.others_came = false;
        self.probe.heard_by = Some(Instant::now() + limit);
        // It expires, so that probes do not pile up in the session of an absent bridge.
        let deadline = Some(boot_now() + limit.max(Duration::from_secs(2)));
        let publication = Publication { topic, payload: Bytes::new(), deadline, ..Publication::default() };
        self.task.outbox.add(publication, Origin::Probe);
    }

    pub(super) fn probe_heard(&mut self, topic: &str) {
        if topic != self.probe.topic {
            return;
        }
        self.probe.stop();
        self.task.subscriptions(Subscriptions::Granted);
        info!("commands arrive: our own probe was heard");
    }

    /// The probe was acknowledged, refused, or not sent in time.
    pub(super) fn probe_finished(&mut self, delivery: &Delivery) {
        let Delivery::Refused(refusal) = delivery else {
            if matches!(delivery, Delivery::Acked { .. }) {
                self.task.denied.taken();
            }
            return;
        };
        self.probe.heard_by = None;
        let now = Subscriptions::Unverified(refusal.reason.clone());
        let news = self.task.state.borrow().subscriptions != now;
        let until = self.task.denied.refused(&refusal.reason, Instant::now());
        self.recheck_at(until, now);
        if news {
            let remedy = &refusal.remedy;
            warn!(
                reason = refusal.reason,
                remedy, "whether commands arrive cannot be verified: the broker refuses our probe"
            );
        }
    }

    pub(super) fn recheck_later(&mut self, subscriptions: Subscriptions) {
        self.recheck_at(Instant::now() + self.task.dialer.config.timing.recheck_every, subscriptions);
    }

    fn recheck_at(&mut self, at: Instant, subscriptions: Subscriptions) {
        self.probe.recheck_at = Some(at);
        self.task.subscriptions(subscriptions);
    }

    /// It did not come back in time.
    pub(super) fn probe_unheard(&mut self) {
        self.probe.heard_by = None;
        if self.probe.others_came {
            // A backlog of commands arrives. The probe waits behind it, or has expired there: try again.
            self.start_probe();
        } else {
            self.silently_denied();
        }
    }

    pub(super) fn recheck_if_due(&mut self, now: Instant) -> Step {
        if self.probe.recheck_at.is_some_and(|at| at <= now) {
            self.probe.recheck_at = None;
            let refused = matches!(self.task.state.borrow().subscriptions, Subscriptions::Refused(_));
            if refused {
                return self.send_subscribe();
            }
            self.start_probe();
        }
        Ok(())
    }

    fn silently_denied(&mut self) {
        let news = self.task.state.borrow().subscriptions != Subscriptions::SilentlyDenied;
        self.recheck_later(Subscriptions::SilentlyDenied);
        if news {
            let config = &self.task.dialer.config;
            let remedy = format!("{}, {}", refused::read_lines(&config.filters), refused::probe_line(&config.base));
            warn!(remedy, "commands do not arrive: the broker granted our subscriptions, but drops what comes there");
        }
    }
}

fn random() -> String {
    // It only has to differ from other probes: without randomness, the time will do.
    let random = getrandom::u64().unwrap_or_else(|_| u64::try_from(boot_now().as_nanos()).unwrap_or(0));
    format!("{random:016x}")
}
