//! The state of every part: whether it is ready, why not, and since when (`/readyz`).

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::cluster::{Membership, Role};
use crate::cloud::{HandshakeLog, Status};
use crate::delivery::refused::AllBusy;
use crate::delivery::routing::RouteStates;
use crate::inbound::callback::LastSeen;
use crate::local::Base;
use crate::mqtt::{LinkCounters, LinkState, Subscriptions};
use crate::observe::counters::Counters;
use crate::observe::progress::Progress;
use crate::operate::set_aside::Desk;
use crate::os::clock;
use crate::protocol::Variant;
use crate::store::{Append, NotStored, Store, WhyNot};

/// What the bridge is. No secrets: hosts, not URLs.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// Of the program.
    pub version: &'static str,
    /// Ours.
    pub uid: String,
    /// The host of `ilink.api`.
    pub api_host: String,
    /// The host of `callback.public_url`, which a reload may change.
    pub callback_host: String,
    /// `mqtt.base_topic`.
    pub base_topic: String,
    /// RFC 3339.
    pub started_at: String,
    /// What the operator should know of the configuration, for `status` and the status page only.
    #[serde(skip)]
    pub warnings: Vec<&'static str>,
}

impl Info {
    /// The JSON of `bridge/info`; the variant is known once iLink has signed a handshake.
    #[must_use]
    pub fn json(&self, variant: Option<Variant>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(flatten)]
            info: &'a Info,
            signature_variant: Option<&'static str>,
        }
        serde_json::to_vec(&Wire { info: self, signature_variant: variant.map(Variant::as_str) }).unwrap_or_default()
    }
}

/// The report that holds now: in a cluster, another one each time this member begins or ceases to lead.
pub type Reports = watch::Receiver<Arc<Report>>;

/// Everything that is looked at.
pub struct Report {
    /// What changes with the configuration alone.
    pub info: watch::Receiver<Info>,
    /// The base topic.
    pub base: Base,
    /// Whether pushes are stored.
    pub spool: Arc<dyn Append>,
    /// The queues; none on a member that stands by.
    pub queues: Option<Arc<dyn Store>>,
    /// What is set aside; none on a member that stands by.
    pub desk: Option<Arc<Desk>>,
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
    /// The loops that must make progress, by name.
    pub loops: Vec<(&'static str, Progress)>,
    /// This member and its cluster; none if the bridge is alone.
    pub cluster: Option<Membership>,
}

impl Report {
    /// The present readiness of every part.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let ready = self.readiness.update(&self.link.borrow(), &self.cloud.borrow(), self.stores(), &self.base);
        let role = self.role();
        // Who stands by has only to store.
        Ready { ready: if role == Some(Role::Standby) { ready.spool.ready } else { ready.ready }, role, ..ready }
    }

    /// What this member of a cluster does.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.cluster.as_ref().map(|member| member.role)
    }

    /// Whether pushes are stored; if not, why.
    pub(super) fn stores(&self) -> Result<(), NotStored> {
        match &self.cluster {
            Some(Membership { role: Role::Waiting, awaits, .. }) => {
                Err(NotStored { cause: awaits.borrow().clone(), why: WhyNot::Refused })
            }
            _ => self.spool.stores(),
        }
    }
}

pub(super) fn time(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    clock::rfc3339(clock::millis(since))
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Whether it is ready.
    pub ready: bool,
    /// Why not.
    pub cause: Option<String>,
    /// Since when it is, or is not: RFC 3339.
    pub since: String,
    /// Of the spool, the cause for programs: `full`, `refused` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
}

/// All parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Whether every part is; of a member that stands by, whether it can store.
    pub ready: bool,
    /// What this member of a cluster does; one that waits is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The connection to the broker.
    pub broker: Part,
    /// The right to receive commands.
    pub subscriptions: Part,
    /// The registration at iLink.
    pub callback: Part,
    /// The disk.
    pub spool: Part,
}

/// Remembers since when each part is ready or not.
#[derive(Debug)]
pub struct Readiness(Mutex<[Part; 4]>);

impl Default for Readiness {
    fn default() -> Self {
        let starting = Part { ready: false, cause: None, since: clock::rfc3339(clock::wall_now_ms()), kind: None };
        Self(Mutex::new(std::array::from_fn(|_| starting.clone())))
    }
}

impl Readiness {
    /// Looks at the parts' states.
    pub fn update(&self, link: &LinkState, cloud: &Status, stores: Result<(), NotStored>, base: &Base) -> Ready {
        let subscriptions = match &link.subscriptions {
            _ if !link.connected => Err("the broker is not connected".to_owned()),
            Subscriptions::Granted | Subscriptions::Unverified(_) => Ok(()),
            not => Err(describe(not, base)),
        };
        let why = |cause: Option<&str>, otherwise: &str| {
            cause.filter(|cause| !cause.is_empty()).unwrap_or(otherwise).to_owned()
        };
        let broker = link.connected.then_some(()).ok_or_else(|| why(link.cause.as_deref(), "not connected"));
        let callback = cloud.registered.then_some(()).ok_or_else(|| why(Some(&cloud.cause), "not registered"));
        let kind = stores.as_ref().err().map(|not| not.why.as_str());
        let stores = stores.map_err(|not| not.cause);
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, now) in parts.iter_mut().zip([broker, subscriptions, callback, stores]) {
            part.update(now);
        }
        let [broker, subscriptions, callback, mut spool] = parts.clone();
        spool.kind = kind;
        let ready = broker.ready && subscriptions.ready && callback.ready && spool.ready;
        Ready { ready, role: None, broker, subscriptions, callback, spool }
    }
}

impl Part {
    fn update(&mut self, now: Result<(), String>) {
        if self.ready != now.is_ok() {
            self.since = clock::rfc3339(clock::wall_now_ms());
        }
        self.ready = now.is_ok();
        self.cause = now.err();
    }
}

/// In words, for people.
pub(super) fn describe(subscriptions: &Subscriptions, base: &Base) -> String {
    match subscriptions {
        Subscriptions::Pending => "pending".to_owned(),
        Subscriptions::Granted => "granted".to_owned(),
        Subscriptions::Refused(filters) => format!("refused: {}", filters.join(", ")),
        Subscriptions::SilentlyDenied => {
            let lines = base.command_filters().map(|filter| format!("topic read {filter}")).join(", ");
            format!("granted, but the bridge's own probe was not heard: the broker's ACL needs: {lines}")
        }
        Subscriptions::Unverified(reason) => format!("granted, not verified: the probe was refused ({reason})"),
    }
}

/// Every part with its name for people.
pub(super) fn describe_parts(ready: &Ready) -> [(&'static str, &Part); 4] {
    [
        ("broker", &ready.broker),
        ("subscriptions", &ready.subscriptions),
        ("callback", &ready.callback),
        ("spool", &ready.spool),
    ]
}
