//! What the bridge tells about itself: the retained `bridge/` topics, and the same for readiness and `status`.
//!
//! [`Report`] looks at every part and makes a [`Health`] of it; [`run`] publishes it when something changes and every minute.
//! It watches; it decides nothing.

pub mod bundle;
mod health;
pub mod metrics;
mod overview;
mod readiness;
mod text;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use health::{Health, Info};
pub use overview::{Overview, Problem};
pub use readiness::{Part, Readiness, Ready};

use crate::cloud::{HandshakeLog, Status};
use crate::delivery::busy::AllBusy;
use crate::inbound::callback::LastSeen;
use crate::local::{Base, Publication};
use crate::mqtt::{LinkCounters, LinkState, Publisher};
use crate::observe::counters::Counters;
use crate::os::clock;
use crate::routing::RouteStates;
use crate::store::Store;

/// `bridge/health` is published at least this often.
const EVERY: Duration = Duration::from_mins(1);

/// Everything that is looked at.
pub struct Report {
    /// What changes with the configuration alone.
    pub info: watch::Receiver<Info>,
    /// The base topic.
    pub base: Base,
    /// The queues.
    pub spool: Arc<dyn Store>,
    /// The session with iLink.
    pub cloud: watch::Receiver<Status>,
    /// The link to the broker.
    pub link: watch::Receiver<LinkState>,
    /// What the link counts.
    pub link_counters: Arc<LinkCounters>,
    /// What the callback saw.
    pub handshakes: HandshakeLog,
    /// What the callback stored.
    pub seen: Arc<LastSeen>,
    /// What everybody counts.
    pub counters: Arc<Counters>,
    /// What the broker does not take for now.
    pub busy: watch::Receiver<AllBusy>,
    /// What each route did.
    pub routes: Arc<RouteStates>,
    /// Since when each part is ready or not.
    pub readiness: Readiness,
}

impl Report {
    /// The present readiness of every part.
    #[must_use]
    pub fn ready(&self) -> Ready {
        self.readiness.update(&self.link.borrow(), &self.cloud.borrow(), self.spool.stores(), &self.base)
    }

    /// How things stand, in one line: for a service manager.
    #[must_use]
    pub fn line(&self) -> String {
        let cloud = self.cloud.borrow().clone();
        text::line(cloud.state.as_str(), &cloud.cause, &self.ready())
    }
}

/// Every part with its name for people.
fn describe_parts(ready: &Ready) -> [(&'static str, &Part); 4] {
    [
        ("broker", &ready.broker),
        ("subscriptions", &ready.subscriptions),
        ("callback", &ready.callback),
        ("spool", &ready.spool),
    ]
}

/// Publishes the retained `bridge/` topics until `stop`.
pub async fn run(report: Arc<Report>, publisher: Publisher, stop: CancellationToken) {
    let (mut cloud, mut link) = (report.cloud.clone(), report.link.clone());
    let (mut info, mut writable, mut busy) = (report.info.clone(), report.spool.writable(), report.busy.clone());
    let mut told = Told::default();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All arms only observe.
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = cloud.changed() => {}
            Ok(()) = link.changed() => {}
            Ok(()) = writable.changed() => {}
            Ok(()) = info.changed() => {}
            Ok(()) = busy.changed() => {}
            _ = tick.tick() => {}
        }
        cloud.mark_unchanged();
        link.mark_unchanged();
        writable.mark_unchanged();
        info.mark_unchanged();
        busy.mark_unchanged();
        let _ = report.ready();
        told.tell(&report, &publisher).await;
    }
}

/// What was published last, so that retained topics are not published again for nothing.
#[derive(Default)]
struct Told {
    cloud: String,
    info: Vec<u8>,
}

impl Told {
    async fn tell(&mut self, report: &Report, publisher: &Publisher) {
        let base = &report.base;
        let cloud = report.cloud.borrow().state.as_str();
        if self.cloud != cloud {
            cloud.clone_into(&mut self.cloud);
            publisher.set_state(Publication::raw(base.bridge("cloud"), cloud).retained());
        }
        let info = report.info.borrow().json(report.handshakes.variant());
        if self.info != info {
            self.info.clone_from(&info);
            publisher.set_state(Publication::json(base.bridge("info"), info).retained());
        }
        let health = Health::of(report).await.json();
        publisher.set_state(Publication::json(base.bridge("health"), health).retained());
    }
}

fn time(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    clock::rfc3339(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
