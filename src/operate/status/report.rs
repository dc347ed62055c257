//! Every part, so that it can be looked at.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::readiness::{Readiness, Ready};
use crate::cloud::{HandshakeLog, Status};
use crate::delivery::busy::AllBusy;
use crate::delivery::routing::RouteStates;
use crate::inbound::callback::LastSeen;
use crate::local::Base;
use crate::mqtt::{LinkCounters, LinkState};
use crate::observe::counters::Counters;
use crate::os::clock;
use crate::protocol::Variant;
use crate::store::Store;

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
}

pub(super) fn time(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    clock::rfc3339(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
