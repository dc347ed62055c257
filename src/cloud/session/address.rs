//! 1003 as an answer to `set_config`: iLink ties a uid to one IP address, and ours may have changed, as it does when another
//! member of a cluster leads. A new token tells iLink the new address, so one is fetched and the call repeated once. What 1003
//! does to other calls is in [`handle`](super::handle).

use tokio::time::Instant;

use super::messages::{Posted, Verb};
use super::task::Task;

impl Task {
    /// iLink has refused our address to `set_config`. A new token is asked for, unless one came just now; after it `set_config`
    /// is repeated once.
    pub(super) fn repeats_with_new_token(&mut self, now: Instant) -> bool {
        let token = &mut self.token;
        let possible = token.living.is_some()
            && token.trouble.is_none()
            && token.not_before <= now
            && self.budgets.token.next(now, 0) <= now;
        if !possible || self.registration.address_refused {
            return false;
        }
        let fresh = token.renewed && token.granted_at.elapsed() < self.config.timing.conflict.first;
        if !fresh {
            (token.wanted, token.renewing) = (true, true);
        }
        self.registration.address_refused = true;
        true
    }

    /// Whether iLink has refused our address to an operator's verb, which is then repeated once with a new token.
    pub(super) fn repeats_verb(&mut self, now: Instant, verb: Verb, posted: &Posted) -> bool {
        let refused = posted.as_ref().is_ok_and(|reply| reply.code.value() == 1003);
        let asked = self.answering.as_ref().is_some_and(|(asked, _)| *asked == verb);
        if !refused || !asked || !self.repeats_with_new_token(now) {
            return false;
        }
        self.again = self.answering.take();
        true
    }

    /// Anything but 1003 ends what 1003 began.
    pub(super) fn hear_of_address(&mut self, posted: &Posted) {
        let Ok(code) = posted.as_ref().map(|reply| reply.code) else { return };
        if code.value() == 1003 || !std::mem::take(&mut self.registration.address_refused) {
            return;
        }
        if (code.is_ok() || code.value() == 1007) && self.registration.trouble.is_none() {
            self.session.shared.tell_of_address(self.token.generation);
        }
    }

    /// iLink has refused our address to `set_config`, and the new token is under way.
    pub(super) fn token_comes_first(&self) -> bool {
        let token = &self.token;
        self.registration.address_refused && token.wanted && token.living.is_some() && token.trouble.is_none()
    }
}
