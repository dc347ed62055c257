//! A member's way to take rows in, whoever leads.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::client::Client;
use super::commit::Committer;
use super::config::Keys;
use super::estimate::Estimate;
use super::handle::{Common, Handle};
use super::keeper::{Keeper, View};
use super::state::State;
use crate::os::files::Failure;
use crate::store::shared::Shared;
use crate::store::types::Limits;

/// The handle of a member.
pub(super) type Member = Handle<()>;

/// Begins to take rows in, under this name.
pub(super) fn open(client: &Arc<Client>, keys: &Keys, name: &str, limits: Limits) -> Arc<Member> {
    let shared = Arc::new(Shared::new(Failure::default()));
    let common = Arc::new(Common::new(shared, State::new(keys.clone()), limits));
    let committer = Committer::new(Arc::clone(client), keys.writer(&format!("member-{name}")), None);
    let view = View::Estimate(Box::new(Estimate::new(Arc::clone(client), keys)));
    let (requests, inbox) = mpsc::unbounded_channel();
    let keeper = Keeper::new(Arc::clone(client), keys.clone(), Arc::clone(&common), inbox, view, committer);
    tokio::spawn(keeper.run());
    Arc::new(Handle::new(requests, common, ()))
}
