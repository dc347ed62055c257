//! What the bridge tells about itself: the retained `bridge/` topics, and the same for readiness and `status`.
//!
//! [`Report`] looks at every part and makes a [`Health`] of it; [`run`] publishes it when something changes and every minute.
//! It watches; it decides nothing.

pub mod bundle;
mod health;
pub mod metrics;
mod overview;
mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use health::Health;
pub use overview::{Overview, Problem};
pub use report::{Info, Part, Readiness, Ready, Report, Reports};

use crate::local::Publication;
use crate::mqtt::Publisher;

/// `bridge/health` is published at least this often.
const EVERY: Duration = Duration::from_mins(1);

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
