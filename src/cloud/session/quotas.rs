//! Quotas that iLink says are used up outlive the process: a bridge that is restarted again and again must not go on asking.

use std::io;

use tokio::time::Instant;
use url::Url;

use super::store::{Quota, Quotas, Store};
use super::task::{Task, on_disk};
use super::words;
use crate::cloud::Timing;
use crate::files::Directory;
use crate::protocol::{Account, ResultCode};

/// What there is to keep: for `set_config` and `get_access_token`, how often in a row and until when.
pub(super) type QuotaMarks = [Option<(u32, Instant)>; 2];

impl Task {
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
                self.token.stall(Some(words::token_quota(ResultCode::new(1009), left)), now + left);
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
            tracing::warn!(%error, "that iLink was asked too often could not be recorded: a restart asks it again at once");
        }
    }
}

/// The quota of `set_config`, for who calls it without a session. Reads and writes a small file.
pub struct ConfigQuota {
    store: Store,
    timing: Timing,
}

impl ConfigQuota {
    /// That of this account, as it is kept in the state directory.
    #[must_use]
    pub fn new(state_dir: &Directory, api: &Url, account: &Account) -> Self {
        Self { store: Store::new(state_dir, api, account), timing: Timing::default() }
    }

    /// Why not to call now, if iLink has said so.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let left = self.store.quotas().set_config?.left(self.timing.quota.most);
        (!left.is_zero()).then(|| words::config_quota(ResultCode::new(1004), left))
    }

    /// Notes what iLink answered.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn heard(&self, code: ResultCode) -> io::Result<()> {
        let mut quotas = self.store.quotas();
        let before = quotas.set_config.take();
        if code.value() == 1004 {
            let times = before.map_or(0, |quota| quota.times).saturating_add(1);
            quotas.set_config = Some(Quota::new(self.timing.quota.jittered(times), times));
        } else if before.is_none() || !code.is_ok() {
            return Ok(());
        }
        self.store.put_quotas(&quotas)
    }
}
