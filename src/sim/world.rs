//! Everything the simulated service remembers.

use super::accounts::Accounts;
use super::groups::Groups;
use super::outgoing::{self, Message, Outgoing};
use super::subscriptions::Subscriptions;
use crate::protocol::Uid;

/// The memory; it does no input or output, and time is told to it.
#[derive(Default)]
pub(super) struct World {
    pub(super) accounts: Accounts,
    pub(super) groups: Groups,
    pub(super) subscriptions: Subscriptions,
}

impl World {
    /// `uid` came or went: its state, and the pushes to those who watch it if that changed anything.
    pub(super) fn set_online(&mut self, uid: &Uid, online: bool, time: u64) -> Vec<Outgoing> {
        if !self.accounts.set_online(uid.clone(), online) {
            return Vec::new();
        }
        let watchers = self.subscriptions.watchers(uid).filter(|watcher| self.is_registered(watcher));
        watchers.filter_map(|watcher| outgoing::presence(uid, watcher, online, time)).collect()
    }

    /// The message to each of `receivers` that has a callback.
    pub(super) fn address<'a>(
        &self,
        message: Message<'_>,
        receivers: impl IntoIterator<Item = &'a Uid>,
    ) -> Vec<Outgoing> {
        receivers.into_iter().filter(|uid| self.is_registered(uid)).filter_map(|uid| message.to(uid)).collect()
    }

    fn is_registered(&self, uid: &Uid) -> bool {
        self.accounts.callback(uid).is_some()
    }
}
