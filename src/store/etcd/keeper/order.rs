//! Rows to iLink keep their order also where etcd refuses one of them for now: whoever asked for it asks again, and what
//! came behind it must not be there before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::error::EtcdError;
use super::{Behind, Keeper};
use crate::store::types::SpoolError;

/// Who was refused knows it after so long, and lets nobody pass who comes later. To ask again takes twice as long.
const KNOWN_AFTER: Duration = Duration::from_millis(50);

impl Keeper {
    /// A row to iLink is refused for this cause, and will be asked for again, unless only an operator can help.
    pub(super) fn passed_over(&mut self, cause: &EtcdError) {
        if *cause != EtcdError::NoSpace {
            self.behind = Some(Behind { cause: cause.to_string(), since: Instant::now() });
        }
    }

    /// Refuses the rows to iLink that are behind a refused one: those that wait, and those that come while etcd is in trouble.
    pub(super) fn turn_away(&mut self) {
        let Some(Behind { cause, since }) = &self.behind else { return };
        let refuses = self.refused.as_ref().is_some_and(|refused| refused.cause != EtcdError::NoSpace);
        if !refuses && self.trouble.borrow().is_none() && since.elapsed() >= KNOWN_AFTER {
            self.behind = None;
            return;
        }
        let (behind, others): (VecDeque<_>, _) =
            self.waiting.drain(..).partition(|waiter| waiter.asked.goes_to_ilink());
        self.waiting = others;
        for waiter in behind {
            waiter.asked.refused(SpoolError::Unwritable(cause.clone()));
        }
    }
}
