//! What the broker does not take for now, for those who look and for the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{info, warn};

use super::lanes::HeldUp;
use crate::mqtt::{ForNow, NotNow};
use crate::observe::log::Seldom;

/// Messages wait because the broker refused one before them for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Since when.
    pub since: SystemTime,
    /// What it said last.
    pub cause: String,
    /// The same for programs.
    pub how: NotNow,
    /// What waits.
    pub held_up: HeldUp,
}

/// By whose messages they are; empty when all is well.
pub type AllBusy = BTreeMap<&'static str, Busy>;

/// Tells it of one kind of messages.
#[derive(Debug)]
pub struct BusyBoard {
    what: &'static str,
    all: Arc<watch::Sender<AllBusy>>,
    /// Whether there is anything to tell, without a look at the others'.
    busy: AtomicBool,
    said: Seldom,
}

impl BusyBoard {
    /// A board for `what`, which is a name for people and programs.
    #[must_use]
    pub fn new(what: &'static str, all: Arc<watch::Sender<AllBusy>>) -> Self {
        Self { what, all, busy: AtomicBool::new(false), said: Seldom::default() }
    }

    /// Something was refused for now.
    pub fn refused(&self, why: &ForNow) {
        let ForNow { cause, how } = why;
        let mut begins = false;
        self.all.send_if_modified(|all| {
            let busy = all.entry(self.what).or_insert_with(|| {
                begins = true;
                let held_up = HeldUp { lanes: 1, rows: 1 };
                Busy { since: SystemTime::now(), cause: String::new(), how: *how, held_up }
            });
            let news = busy.cause != *cause;
            (busy.cause, busy.how) = (cause.clone(), *how);
            news
        });
        self.busy.store(true, Ordering::Relaxed);
        if begins && self.said.may() {
            warn!(
                what = self.what,
                cause,
                "the broker does not take a message for now: it is tried again, and what must come after it waits (said once a minute at most)"
            );
        }
    }

    /// So much is held up now.
    pub fn show(&self, held_up: HeldUp) {
        if !self.busy.load(Ordering::Relaxed) {
            return;
        }
        let over = held_up == HeldUp::default();
        // How many they are is no news by itself.
        self.all.send_if_modified(|all| {
            if over {
                all.remove(self.what);
            } else if let Some(busy) = all.get_mut(self.what) {
                busy.held_up = held_up;
            }
            over
        });
        if over {
            self.busy.store(false, Ordering::Relaxed);
            info!(what = self.what, "the broker takes everything again");
        }
    }
}
