//! Who is registered, who holds which token, who is online, and who was added as a user (§3, §5.1, §5.12).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::refusal::{INVALID_TOKEN, NOT_REGISTERED, TOKEN_NOT_FETCHED};
use crate::protocol::{ResultCode, Uid};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
