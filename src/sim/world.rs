//! The state of the simulated service: who is registered, who holds which token and who is online (§3, §5.1, §5.12),
//! the groups (§5.4–§5.9), and who is subscribed to what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::records::{Message, Outgoing, presence};
use super::refusal::{
    FORBIDDEN, INVALID_OPERATION, INVALID_TOKEN, NO_SUCH_GROUP, NOT_REGISTERED, SUBSCRIPTION_LIMIT, TOKEN_NOT_FETCHED,
};
use crate::protocol::{GroupId, Qos, ResultCode, Subject, Uid};

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

    fn watchers(&self, watched: &Uid) -> impl Iterator<Item = &Uid> {
        self.presence.iter().filter(|(_, own)| own.contains(watched)).map(|(uid, _)| uid)
    }
}

/// Deliberately without `Debug`: it holds tokens.
#[derive(Default)]
pub(super) struct Accounts {
    registered: BTreeMap<Uid, Url>,
    tokens: HashMap<Uid, Token>,
    issued: u64,
    online: BTreeMap<Uid, bool>,
    users: BTreeMap<String, Uid>,
}

struct Token {
    text: String,
    ends: Instant,
}

impl Accounts {
    pub(super) fn register(&mut self, uid: Uid, url: Url) {
        self.registered.insert(uid, url);
    }

    pub(super) fn unregister(&mut self, uid: &Uid) -> Result<(), ResultCode> {
        self.registered.remove(uid).map(drop).ok_or(NOT_REGISTERED)
    }

    pub(super) fn callback(&self, uid: &Uid) -> Option<&Url> {
        self.registered.get(uid)
    }

    pub(super) fn registered(&self) -> impl Iterator<Item = (&Uid, &Url)> {
        self.registered.iter()
    }

    /// Forgets all registrations, as a service that lost its memory would: nobody is told.
    pub(super) fn forget(&mut self) -> usize {
        for uid in self.registered.keys() {
            self.online.insert(uid.clone(), false);
        }
        std::mem::take(&mut self.registered).len()
    }

    /// Issues `text` to `uid`, which ends the uid's earlier token.
    pub(super) fn issue(&mut self, uid: Uid, text: String, lifetime: Duration, now: Instant) {
        self.issued += 1;
        self.tokens.insert(uid, Token { text, ends: now + lifetime });
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    /// Ends all tokens; says how many were alive.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let living = self.tokens.values_mut().filter(|token| now < token.ends);
        living.map(|token| token.ends = now).count()
    }

    /// Whether `uid` may make calls with this token.
    pub(super) fn authorise(&self, uid: &Uid, token: Option<&str>, now: Instant) -> Result<(), ResultCode> {
        if !self.registered.contains_key(uid) {
            return Err(NOT_REGISTERED);
        }
        let issued = self.tokens.get(uid).ok_or(TOKEN_NOT_FETCHED)?;
        if token == Some(issued.text.as_str()) && now < issued.ends { Ok(()) } else { Err(INVALID_TOKEN) }
    }

    pub(super) fn is_online(&self, uid: &Uid) -> bool {
        self.online.get(uid).copied().unwrap_or(false)
    }

    /// Says whether this is a change.
    pub(super) fn set_online(&mut self, uid: Uid, online: bool) -> bool {
        self.online.insert(uid, online).unwrap_or(false) != online
    }

    pub(super) fn online(&self) -> &BTreeMap<Uid, bool> {
        &self.online
    }

    /// The userid of that name: the known one, else `fresh`.
    pub(super) fn add_user(&mut self, username: &str, fresh: Uid) -> &Uid {
        self.users.entry(username.to_owned()).or_insert(fresh)
    }

    pub(super) fn users(&self) -> &BTreeMap<String, Uid> {
        &self.users
    }
}

/// In the order of their creation.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Groups(Vec<Group>);

#[derive(Serialize)]
struct Group {
    #[serde(rename = "group_id")]
    id: GroupId,
    #[serde(rename = "group_name")]
    name: String,
    owner: Uid,
    /// The owner included.
    members: BTreeSet<Uid>,
    #[serde(rename = "create_time")]
    created: String,
}

impl Groups {
    pub(super) fn create(&mut self, id: GroupId, name: &str, owner: Uid, others: Vec<Uid>, created: String) {
        let members = others.into_iter().chain([owner.clone()]).collect();
        self.0.push(Group { id, name: name.to_owned(), owner, members, created });
    }

    pub(super) fn delete(&mut self, id: &GroupId, by: &Uid) -> Result<(), ResultCode> {
        self.owned(id, by)?;
        self.0.retain(|group| group.id != *id);
        Ok(())
    }

    /// The groups `uid` is in, as §5.6 lists them.
    pub(super) fn list(&self, uid: &Uid) -> Value {
        let mine = self.0.iter().filter(|group| group.members.contains(uid));
        mine.map(|group| json!({"group_id": group.id, "group_name": group.name, "create_time": group.created}))
            .collect()
    }

    pub(super) fn add(&mut self, id: &GroupId, by: &Uid, uids: Vec<Uid>) -> Result<(), ResultCode> {
        self.owned(id, by)?.members.extend(uids);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &GroupId, by: &Uid, uids: &[Uid]) -> Result<(), ResultCode> {
        let group = self.find(id)?;
        let leaves = group.members.contains(by) && uids.iter().all(|uid| uid == by);
        if group.owner != *by && !leaves {
            return Err(FORBIDDEN);
        }
        if uids.contains(&group.owner) {
            return Err(INVALID_OPERATION);
        }
        group.members.retain(|member| !uids.contains(member));
        Ok(())
    }

    /// Everybody in the group but `uid`, who must be in it.
    pub(super) fn others(&mut self, id: &GroupId, uid: &Uid) -> Result<Vec<Uid>, ResultCode> {
        let group = self.find(id)?;
        if !group.members.contains(uid) {
            return Err(FORBIDDEN);
        }
        Ok(group.members.iter().filter(|member| *member != uid).cloned().collect())
    }

    fn find(&mut self, id: &GroupId) -> Result<&mut Group, ResultCode> {
        self.0.iter_mut().find(|group| group.id == *id).ok_or(NO_SUCH_GROUP)
    }

    fn owned(&mut self, id: &GroupId, by: &Uid) -> Result<&mut Group, ResultCode> {
        let group = self.find(id)?;
        if group.owner == *by { Ok(group) } else { Err(FORBIDDEN) }
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

    #[test]
    fn a_token_ends_by_its_successor_by_time_and_by_order() {
        let mut accounts = Accounts::default();
        let uid: Uid = "414".parse().unwrap();
        let now = Instant::now();
        let life = Duration::from_secs(10);
        assert_eq!(accounts.authorise(&uid, Some("a"), now), Err(NOT_REGISTERED));
        accounts.register(uid.clone(), Url::parse("http://127.0.0.1/cb").unwrap());
        assert_eq!(accounts.authorise(&uid, Some("a"), now), Err(TOKEN_NOT_FETCHED));
        accounts.issue(uid.clone(), "a".to_owned(), life, now);
        assert_eq!(accounts.authorise(&uid, Some("a"), now), Ok(()));
        assert_eq!(accounts.authorise(&uid, Some("a"), now + life), Err(INVALID_TOKEN));
        assert_eq!(accounts.authorise(&uid, None, now), Err(INVALID_TOKEN));
        accounts.issue(uid.clone(), "b".to_owned(), life, now);
        assert_eq!(accounts.authorise(&uid, Some("a"), now), Err(INVALID_TOKEN));
        assert_eq!(accounts.authorise(&uid, Some("b"), now), Ok(()));
        assert_eq!(accounts.expire(now), 1);
        assert_eq!(accounts.authorise(&uid, Some("b"), now), Err(INVALID_TOKEN));
    }

    fn uid(text: &str) -> Uid {
        text.parse().unwrap()
    }

    #[test]
    fn the_owner_rules_and_a_member_may_leave() {
        let mut groups = Groups::default();
        let id: GroupId = "g".parse().unwrap();
        let (owner, member, stranger) = (uid("1"), uid("2"), uid("3"));
        groups.create(id.clone(), "聊天群", owner.clone(), vec![member.clone()], String::new());
        assert_eq!(groups.others(&id, &owner), Ok(vec![member.clone()]));
        assert_eq!(groups.others(&id, &stranger), Err(FORBIDDEN));
        assert_eq!(groups.add(&id, &member, vec![stranger.clone()]), Err(FORBIDDEN));
        assert_eq!(groups.remove(&id, &stranger, std::slice::from_ref(&stranger)), Err(FORBIDDEN));
        assert_eq!(groups.remove(&id, &owner, std::slice::from_ref(&owner)), Err(INVALID_OPERATION));
        assert_eq!(groups.remove(&id, &member, std::slice::from_ref(&member)), Ok(()));
        assert_eq!(groups.others(&id, &owner), Ok(vec![]));
        assert_eq!(groups.delete(&id, &member), Err(FORBIDDEN));
        assert_eq!(groups.delete(&id, &owner), Ok(()));
        assert_eq!(groups.delete(&id, &owner), Err(NO_SUCH_GROUP));
    }
}
