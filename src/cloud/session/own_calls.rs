//! The calls that only the task makes: `set_config` (§3) and `get_access_token` (§5.1), one at a time.
//!
//! Each runs beside the loop and ends as a [`Done`], which carries what was asked for: what is wanted may have changed
//! meanwhile. What must be on disk with its outcome is written before that.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::explanations;
use super::messages::{Done, Verb};
use super::state::Want;
use super::task::{Task, on_disk};
use super::types::RegisterPolicy;
use crate::protocol::{Reply, SetConfig, TokenGrant, get_access_token};

/// No token lives longer than this, whatever its reply says.
const LONGEST_LIFE: Duration = Duration::from_hours(30 * 24);

/// How long a token lives.
pub(super) fn life(grant: &TokenGrant) -> Duration {
    Duration::from_secs(grant.expires_in).min(LONGEST_LIFE)
}

impl Task {
    /// One `set_config` more: on disk before it leaves, see [`Task::keep_budgets`].
    fn spend_config(&mut self) {
        self.budgets.config.spend(Instant::now());
        self.budgets.unsaved = true;
    }

    pub(super) fn start_query(&mut self) {
        self.spend_config();
        let session = self.session.clone();
        let url = self.config.callback_url.clone();
        self.calling = Some(Box::pin(async move {
            let request = SetConfig::Query { url: url.expose_secret() }.request(&session.shared.account);
            let posted = session.shared.client.post(&request, None).await;
            Done::Query { url, posted }
        }));
    }

    pub(super) fn start_register(&mut self) {
        self.spend_config();
        let (session, handshakes) = (self.session.clone(), self.handshakes.clone());
        let (registry, url, token) =
            (Arc::clone(&self.registry), self.config.callback_url.clone(), self.config.handshake_token.clone());
        // Whoever registers wants it to last: should this attempt fail, it is repeated, also by the next run.
        let again = std::mem::take(&mut self.unregistered);
        let (store, outlived) = (self.store.clone(), self.upkeep.outliving());
        self.calling = Some(Box::pin(async move {
            if again {
                let registry = Arc::clone(&registry);
                if let Err(error) = on_disk(move || registry.set_unregistered_by_operator(false)).await {
                    tracing::warn!(%error, "that we are to be registered again could not be recorded");
                }
            }
            let mark = handshakes.mark();
            let config = SetConfig::Register { url: url.expose_secret(), token: token.expose_secret() };
            let posted = session.shared.client.post(&config.request(&session.shared.account), None).await;
            let seen = handshakes.explain_since(&mark);
            if posted.as_ref().is_ok_and(|reply| reply.code.is_ok()) {
                let registered = url.clone();
                // The subscriptions first: those of a registration that is over must not be on record beside a new one.
                let recorded = on_disk(move || {
                    store.put_subscribed(&outlived)?;
                    registry.record(&registered, &token)
                });
                if let Err(error) = recorded.await {
                    tracing::warn!(%error, "the registration could not be recorded: it will be repeated at the next start");
                }
            }
            Done::Register { url, posted, seen }
        }));
    }

    pub(super) fn start_unregister(&mut self) {
        self.spend_config();
        let (session, registry, store) = (self.session.clone(), Arc::clone(&self.registry), self.store.clone());
        self.calling = Some(Box::pin(async move {
            let request = SetConfig::Unregister.request(&session.shared.account);
            let posted = session.shared.client.post(&request, None).await;
            let gone = posted.as_ref().is_ok_and(|reply| matches!(reply.code.value(), 0 | 1007));
            let recorded = if gone {
                on_disk(move || {
                    registry.set_unregistered_by_operator(true)?;
                    registry.forget()?;
                    store.forget_token()
                })
                .await
            } else {
                Ok(())
            };
            Done::Unregister(posted, recorded)
        }));
    }

    pub(super) fn start_token(&mut self, now: Instant) {
        self.budgets.token.spend(now);
        self.budgets.unsaved = true;
        let (session, store) = (self.session.clone(), self.store.clone());
        self.calling = Some(Box::pin(async move {
            let posted = session.shared.client.post(&get_access_token(&session.shared.account), None).await;
            if let Some(grant) = posted.as_ref().ok().and_then(TokenGrant::from_reply) {
                let (life, age) = (life(&grant), now.elapsed());
                if let Err(error) = on_disk(move || store.put_token(&grant.access_token, life, age)).await {
                    tracing::warn!(%error, "the access token could not be kept: the next start asks for another");
                }
            }
            Done::Token(posted, now)
        }));
    }

    pub(super) fn start_verb(&mut self, now: Instant, verb: Verb, answer: oneshot::Sender<Result<Reply, String>>) {
        if self.config.register == RegisterPolicy::Never {
            let _ = answer.send(Err(explanations::never()));
            return;
        }
        if let Some(quota) = self.registration.quota_until.filter(|quota| *quota > now) {
            let wait = explanations::minutes(quota - now);
            let _ = answer.send(Err(format!("iLink was asked too often (1004): not again before {wait}")));
            return;
        }
        if let Err(paced) = self.budgets.spend_verb(now) {
            let _ = answer.send(Err(paced));
            return;
        }
        self.answering = Some((verb, answer));
        match verb {
            Verb::Register => {
                self.registration.want(Want::Register, now);
                self.start_register();
            }
            Verb::Unregister => self.start_unregister(),
            Verb::Query => self.start_query(),
        }
    }
}
