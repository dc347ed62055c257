//! Whether each part is ready, why not, and since when: `/readyz`.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::cloud::Status;
use crate::local::Base;
use crate::mqtt::{LinkState, Subscriptions};
use crate::os::clock;
use crate::store::NotStored;

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
    /// Whether every part is.
    pub ready: bool,
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
        Ready { ready, broker, subscriptions, callback, spool }
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
