//! What the bridge tells about itself: the retained `bridge/` topics, and the same for readiness and `status`.
//!
//! [`Report`] looks at every part and makes a [`Health`] of it. [`run`] publishes that when something changes, soon after a
//! queue has emptied or filled, and every minute. It observes and decides nothing.

pub mod bundle;
mod cluster;
mod condition;
mod health;
pub mod metrics;
mod overview;
mod problems;
mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use cluster::{ClusterHealth, EtcdHealth, Member, Membership, Role, tell_cluster};
pub use condition::{Condition, Weight};
pub use health::Health;
pub use overview::{ClusterView, Overview};
pub use problems::Problem;
pub use report::{Info, Part, Readiness, Ready, Report, Reports};

use crate::local::Publication;
use crate::mqtt::Publisher;
use crate::store::{Queue, Store};

/// `bridge/health` is published at least this often.
const EVERY: Duration = Duration::from_mins(1);

/// How often it is looked whether a queue has emptied or filled, while something waits or just came.
const LOOK: Duration = Duration::from_secs(2);

/// Publishes the retained `bridge/` topics until `stop`.
pub async fn run(report: Arc<Report>, store: Arc<dyn Store>, publisher: Publisher, stop: CancellationToken) {
    let (mut cloud, mut link) = (report.cloud.clone(), report.link.clone());
    let (mut info, mut writable, mut busy) = (report.info.clone(), report.spool.writable(), report.busy.clone());
    let mut told = Told::default();
    let [mut tick, mut look] = [EVERY, LOOK].map(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let queues = [Queue::Inbound, Queue::Outbound, Queue::SetAside];
    let [mut inbound, mut outbound, mut set_aside] = queues.map(|queue| store.appended(queue));
    let depths = || queues.map(|queue| store.stats(queue).depth);
    // While nothing waits, nothing wakes this but the minute.
    let mut looks = true;
    loop {
        // All arms only observe.
        let what = tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = inbound.changed(), if !looks => Woken::Queued,
            Ok(()) = outbound.changed(), if !looks => Woken::Queued,
            Ok(()) = set_aside.changed(), if !looks => Woken::Queued,
            _ = look.tick(), if looks => Woken::Looks,
            Ok(()) = cloud.changed() => Woken::Tells,
            Ok(()) = link.changed() => Woken::Tells,
            Ok(()) = writable.changed() => Woken::Tells,
            Ok(()) = info.changed() => Woken::Tells,
            Ok(()) = busy.changed() => Woken::Tells,
            _ = tick.tick() => Woken::Tells,
        };
        // Before their depths are asked for: what comes after that wakes this again.
        for queue in [&mut inbound, &mut outbound, &mut set_aside] {
            queue.mark_unchanged();
        }
        let now = depths();
        match what {
            Woken::Queued => {
                looks = true;
                look.reset();
                continue;
            }
            Woken::Looks if !told.is_news(now) => {
                looks = now != [0; 3];
                continue;
            }
            Woken::Looks | Woken::Tells => {}
        }
        looks = true;
        cloud.mark_unchanged();
        link.mark_unchanged();
        writable.mark_unchanged();
        info.mark_unchanged();
        busy.mark_unchanged();
        told.tell(&report, &publisher).await;
    }
}

/// Why it is awake.
enum Woken {
    /// Something came into a queue: soon it is looked what became of it.
    Queued,
    /// It looks at the queues.
    Looks,
    /// There is something to tell.
    Tells,
}

/// What was published last, so that retained topics are not published again for nothing.
#[derive(Default)]
struct Told {
    cloud: String,
    info: Vec<u8>,
    /// What waited.
    depths: [u64; 3],
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
        let health = Health::of(report).await;
        self.depths = health.depths();
        publisher.set_state(Publication::json(base.bridge("health"), health.json()).retained());
    }

    /// Whether a queue has emptied or filled since. How much waits in one that is not empty is told every minute.
    fn is_news(&self, now: [u64; 3]) -> bool {
        self.depths.map(|depth| depth == 0) != now.map(|depth| depth == 0)
    }
}
