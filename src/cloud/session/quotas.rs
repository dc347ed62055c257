//! Keeps on disk which quotas iLink said are used up, and what the budgets have spent: a bridge that is restarted again
//! and again must not go on asking.

use std::io;

use tokio::time::Instant;
use url::Url;

use super::explanations;
use super::own_calls::life;
use super::state::{Budgets, QuotaMarks};
use super::store::{Quota, Quotas, Store};
use super::task::{Task, on_disk};
use crate::cloud::{Post, Timing};
use crate::os::files::Files;
use crate::protocol::{Account, ResultCode, TokenGrant, get_access_token};

impl Task {
    /// What is spent is on disk before the call leaves: the call is polled after this.
    pub(super) async fn keep_budgets(&mut self) {
        if !std::mem::take(&mut self.budgets.unsaved) {
            return;
        }
        let (store, marks) = (self.store.clone(), self.budgets.marks(Instant::now()));
        if let Err(error) = on_disk(move || store.put_spent(&marks)).await {
            tracing::warn!(%error, "could not record how often iLink was called: after a restart the bridge may call it too often");
        }
    }

    /// Takes up the quotas of an earlier run.
    pub(super) fn restore_quotas(&mut self, quotas: &Quotas) {
        let (now, most) = (Instant::now(), self.config.timing.quota.most);
        if let Some(quota) = &quotas.set_config {
            self.registration.quota_failures = quota.times;
            // Also if it is over: a mark, so that it is struck off the disk once a set_config succeeds.
            self.registration.quota_until = Some(now);
            let left = quota.left(most);
            if !left.is_zero() {
                self.config_quota_holds(now, ResultCode::new(1004), left);
            }
        }
        if let Some(quota) = &quotas.get_access_token {
            self.token.quota_failures = quota.times;
            let left = quota.left(most);
            if !left.is_zero() {
                self.token.stall(Some(explanations::token_quota(ResultCode::new(1009), left)), now + left);
            }
        }
        self.kept_quotas = self.quota_marks();
    }

    fn quota_marks(&self) -> QuotaMarks {
        let (registration, token) = (&self.registration, &self.token);
        [
            registration.quota_until.map(|until| (registration.quota_failures, until)),
            Some((token.quota_failures, token.not_before)),
        ]
        .map(|quota| quota.filter(|(times, _)| *times > 0))
    }

    /// Writes the quotas down when they have changed.
    pub(super) async fn keep_quotas(&mut self) {
        let marks = self.quota_marks();
        if marks == self.kept_quotas {
            return;
        }
        self.kept_quotas = marks;
        let now = Instant::now();
        let [set_config, get_access_token] =
            marks.map(|quota| quota.map(|(times, until)| Quota::new(until.saturating_duration_since(now), times)));
        let (store, quotas) = (self.store.clone(), Quotas { set_config, get_access_token });
        if let Err(error) = on_disk(move || store.put_quotas(&quotas)).await {
            tracing::warn!(%error, "could not record that iLink asked for a pause: a restart would call it again at once");
        }
    }
}

/// The quota of `set_config`, and the token that may need renewal first, for who calls it without a session. Reads and writes a small file.
pub struct ConfigQuota {
    store: Store,
    timing: Timing,
}

impl ConfigQuota {
    /// That of this account, as it is kept in the state directory.
    #[must_use]
    pub fn new(state_dir: impl Into<Files>, api: &Url, account: &Account) -> Self {
        Self { store: Store::new(&state_dir.into(), api, account), timing: Timing::default() }
    }

    /// Why not to call now: iLink has said so, or the operator's allowance is used up. Else one call is taken from that.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let quotas = self.store.quotas().unwrap_or_default();
        let quota = quotas.set_config.map(|quota| quota.left(self.timing.quota.most));
        if let Some(left) = quota.filter(|left| !left.is_zero()) {
            return Some(explanations::config_quota(ResultCode::new(1004), left));
        }
        let now = Instant::now();
        let mut budgets = Budgets::restore(now, &self.store.spent().unwrap_or_default());
        if let Err(held) = budgets.spend_verb(now) {
            return Some(held);
        }
        budgets.config.spend(now);
        if let Err(error) = self.store.put_spent(&budgets.marks(now)) {
            tracing::warn!(%error, "could not record how often iLink was called: after a restart the bridge may call it too often");
        }
        None
    }

    /// Notes what iLink answered.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn heard(&self, code: ResultCode) -> io::Result<()> {
        let mut quotas = self.store.quotas()?;
        let before = quotas.set_config.take();
        if code.value() == 1004 {
            let times = before.map_or(0, |quota| quota.times).saturating_add(1);
            quotas.set_config = Some(Quota::new(self.timing.quota.jittered(times), times));
        } else if before.is_none() || !code.is_ok() {
            return Ok(());
        }
        self.store.put_quotas(&quotas)
    }

    /// Fetches a new access token, because iLink refuses our address (1003). Whether there is one now: not if iLink or our own
    /// budget allows none.
    pub async fn renew_token(&self, client: &impl Post, account: &Account) -> bool {
        let mut quotas = self.store.quotas().unwrap_or_default();
        let quota = quotas.get_access_token.take();
        let now = Instant::now();
        let mut budgets = Budgets::restore(now, &self.store.spent().unwrap_or_default());
        let held = quota.as_ref().is_some_and(|quota| !quota.left(self.timing.quota.most).is_zero());
        if held || budgets.token.next(now, 0) > now {
            return false;
        }
        budgets.token.spend(now);
        // What is not on record could be asked for too often.
        if self.store.put_spent(&budgets.marks(now)).is_err() {
            return false;
        }
        let Ok(reply) = client.post(&get_access_token(account), None).await else { return false };
        if let Some(grant) = TokenGrant::from_reply(&reply) {
            if let Err(error) = self.store.put_token(&grant.access_token, life(&grant), now.elapsed()) {
                tracing::warn!(%error, "could not store the access token: the next start asks for another");
            }
            return true;
        }
        if reply.code.value() == 1009 {
            let times = quota.map_or(0, |quota| quota.times).saturating_add(1);
            quotas.get_access_token = Some(Quota::new(self.timing.quota.jittered(times), times));
            if let Err(error) = self.store.put_quotas(&quotas) {
                tracing::warn!(%error, "could not record that iLink asked for a pause: a restart would call it again at once");
            }
        }
        false
    }
}
