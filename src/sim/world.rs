//! Everything the simulated service remembers.

use super::accounts::Accounts;
use super::groups::Groups;
use super::records::{Message, Outgoing, presence};

use super::refusal::SUBSCRIPTION_LIMIT;
use crate::protocol::{Qos, ResultCode, Subject, Uid};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
        watchers.filter_map(|watcher| presence(uid, watcher, online, time)).collect()
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

/// Subscriptions of one kind that one uid may have.
const LIMIT: usize = 1000;

/// Kept by subscriber; they outlive a registration.
#[derive(Default, Serialize)]
pub(super) struct Subscriptions {
    topics: BTreeMap<Uid, BTreeMap<Subject, Qos>>,
    presence: BTreeMap<Uid, BTreeSet<Uid>>,
}

impl Subscriptions {
    pub(super) fn subscribe(&mut self, uid: Uid, subject: Subject, qos: Qos) -> Result<(), ResultCode> {
        let own = self.topics.entry(uid).or_default();
        if own.len() >= LIMIT && !own.contains_key(&subject) {
            return Err(SUBSCRIPTION_LIMIT);
        }
        own.insert(subject, qos);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, uid: &Uid, subject: &Subject) {
        if let Some(own) = self.topics.get_mut(uid) {
            own.remove(subject);
        }
    }

    pub(super) fn subscribers(&self, subject: &Subject) -> impl Iterator<Item = &Uid> {
        self.topics.iter().filter(|(_, own)| own.contains_key(subject)).map(|(uid, _)| uid)
    }

    pub(super) fn watch(&mut self, uid: Uid, watched: Vec<Uid>) -> Result<(), ResultCode> {
        let own = self.presence.entry(uid).or_default();
        let added: BTreeSet<&Uid> = watched.iter().filter(|uid| !own.contains(uid)).collect();
        if own.len() + added.len() > LIMIT {
            return Err(SUBSCRIPTION_LIMIT);
        }
        own.extend(watched);
        Ok(())
    }

    pub(super) fn unwatch(&mut self, uid: &Uid, watched: &[Uid]) {
        if let Some(own) = self.presence.get_mut(uid) {
            own.retain(|uid| !watched.contains(uid));
        }
    }

    pub(super) fn watchers(&self, watched: &Uid) -> impl Iterator<Item = &Uid> {
        self.presence.iter().filter(|(_, own)| own.contains(watched)).map(|(uid, _)| uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_new_subscriptions_only() {
        let mut all = Subscriptions::default();
        let uid: Uid = "1".parse().unwrap();
        let subject = |n: usize| Subject::try_from(format!("s{n}")).unwrap();
        for n in 0..LIMIT {
            all.subscribe(uid.clone(), subject(n), Qos::AtMostOnce).unwrap();
        }
        assert_eq!(all.subscribe(uid.clone(), subject(LIMIT), Qos::AtMostOnce), Err(SUBSCRIPTION_LIMIT));
        assert_eq!(all.subscribe(uid.clone(), subject(0), Qos::ExactlyOnce), Ok(()));
        all.unsubscribe(&uid, &subject(0));
        assert_eq!(all.subscribe(uid, subject(LIMIT), Qos::AtMostOnce), Ok(()));
    }
}
