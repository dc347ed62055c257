//! A member's way to take rows in, whoever leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::client::Client;
use super::commit::Committer;
use super::config::Keys;
use super::estimate::Estimate;
use super::handle::{Bar, Common, Handle, fits};
use super::keeper::{Keeper, View};
use super::session::Session;
use super::state::State;
use super::tokens::TokenOp;
use crate::store::shared::{Shared, Unexpected};
use crate::store::types::{AppendError, Limits, NotStored, Once, SpoolError, Token, WhyNot};
use crate::store::{Answer, Tokens};

/// The handle of a member.
pub(super) type Member = Handle<Arc<Session>>;

/// Begins to take rows in, under this name.
pub(super) fn open(
    client: &Arc<Client>,
    keys: &Keys,
    session: &Arc<Session>,
    name: &str,
    limits: Limits,
    shared: Arc<Shared>,
) -> Arc<Member> {
    let unexpected = Unexpected(Arc::clone(&shared));
    let common = Arc::new(Common::new(shared, State::new(keys.clone()), limits));
    let key = keys.writer(&format!("member-{name}"));
    let committer = Committer::new(Arc::clone(client), key, None, Some(Arc::clone(session)));
    let view = View::Estimate(Box::new(Estimate::new(Arc::clone(client), keys)));
    let (requests, inbox) = mpsc::unbounded_channel();
    let keeper = Keeper::new(Arc::clone(client), keys.clone(), Arc::clone(&common), inbox, view, committer);
    tokio::spawn(unexpected.watch(keeper.run()));
    Arc::new(Handle::new(requests, common, Arc::clone(session)))
}

impl Bar for Arc<Session> {
    fn bar(&self) -> Option<NotStored> {
        let over = self.standing().err()?;
        Some(NotStored { cause: over.to_string(), why: WhyNot::Refused })
    }
}

impl Tokens for Member {
    fn append_once(&self, data: Bytes, token: Token, until: Duration) -> Answer<'_, Once, AppendError> {
        async move {
            fits(&data)?;
            if let Some(not) = self.rights.bar() {
                return Err(SpoolError::Unwritable(not.cause).into());
            }
            self.ask(|reply| TokenOp::Append { data, token, until, reply }).await
        }
        .boxed()
    }

    fn put(&self, token: Token) -> Answer<'_, Option<u64>> {
        async move { self.ask(|reply| TokenOp::Put { token, reply }).await }.boxed()
    }

    fn end(&self, name: [u8; 32], version: u64, until: Duration) {
        self.common.state().end_token(name, version, until);
        self.common.lazily.notify_one();
    }
}
