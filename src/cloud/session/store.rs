//! What the session itself keeps in the state directory: `token.json`, `subscriptions.json` and `quotas.json`.
//!
//! They are bound to the account: with another API, `AppKey` or uid they are as good as absent. Losing one costs a few calls,
//! so that a file which cannot be read is no error, and one which cannot be written is a warning. Everything here blocks.

use std::fs;
use std::io;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::clock;
use crate::files::Directory;
use crate::protocol::{Account, Qos, Subject, Uid};

const TOKEN: &str = "token.json";
const SUBSCRIPTIONS: &str = "subscriptions.json";
const QUOTAS: &str = "quotas.json";

/// Whose files these are.
#[derive(Clone)]
pub(super) struct Store {
    dir: Directory,
    owner: Owner,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    api: String,
    appkey: String,
    uid: Uid,
}

/// A token that may still live.
pub(super) struct StoredToken {
    pub(super) token: SecretString,
    /// Its whole life.
    pub(super) life: Duration,
    /// What is left of it.
    pub(super) left: Duration,
}

/// What is subscribed at iLink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subscribed {
    pub(super) topics: Vec<(Subject, Qos)>,
    pub(super) presence: Vec<Uid>,
    /// Those of the above about which a call got no answer: nobody knows whether they are subscribed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) doubtful_topics: Vec<Subject>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) doubtful_presence: Vec<Uid>,
}

impl Subscribed {
    pub(super) fn forget_topic(&mut self, subject: &Subject) {
        self.topics.retain(|(topic, _)| topic != subject);
        self.doubtful_topics.retain(|topic| topic != subject);
    }

    pub(super) fn forget_presence(&mut self, uids: &[Uid]) {
        self.presence.retain(|uid| !uids.contains(uid));
        self.doubtful_presence.retain(|uid| !uids.contains(uid));
    }
}

/// What was asked for too often (1004, 1009): a bridge that is restarted again and again must not go on asking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quotas {
    pub(super) set_config: Option<Quota>,
    pub(super) get_access_token: Option<Quota>,
}

/// A call that was asked for too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quota {
    /// Wall-clock milliseconds before which not to ask again.
    until_ms: u64,
    /// How often in a row.
    pub(super) times: u32,
}

impl Quota {
    pub(super) fn new(left: Duration, times: u32) -> Self {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self { until_ms: clock::wall_now_ms().saturating_add(left), times }
    }

    /// How long not to ask, at most `most`: a wall clock that went back must not make it longer.
    pub(super) fn left(&self, most: Duration) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(clock::wall_now_ms())).min(most)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    #[serde(flatten)]
    owner: Owner,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize, Deserialize)]
struct TokenWire {
    access_token: String,
    expires_in: u64,
    expires_at_ms: u64,
}

impl Store {
    pub(super) fn new(dir: &Directory, api: &Url, account: &Account) -> Self {
        let owner = Owner { api: api.as_str().to_owned(), appkey: account.appkey.clone(), uid: account.uid.clone() };
        Self { dir: dir.clone(), owner }
    }

    pub(super) fn token(&self) -> Option<StoredToken> {
        let stored: TokenWire = self.read(TOKEN)?;
        let life = Duration::from_secs(stored.expires_in);
        // A wall clock that went back must not lengthen the life.
        let left = Duration::from_millis(stored.expires_at_ms.saturating_sub(clock::wall_now_ms())).min(life);
        (!left.is_zero()).then(|| StoredToken { token: stored.access_token.into(), life, left })
    }

    /// Keeps a token that was asked for `age` ago and lives for `life` since.
    pub(super) fn put_token(&self, token: &SecretString, life: Duration, age: Duration) -> io::Result<()> {
        let left = u64::try_from(life.saturating_sub(age).as_millis()).unwrap_or(u64::MAX);
        let wire = TokenWire {
            access_token: token.expose_secret().to_owned(),
            expires_in: life.as_secs(),
            expires_at_ms: clock::wall_now_ms().saturating_add(left),
        };
        self.write(TOKEN, wire)
    }

    pub(super) fn subscribed(&self) -> Subscribed {
        self.read(SUBSCRIPTIONS).unwrap_or_default()
    }

    pub(super) fn put_subscribed(&self, subscribed: &Subscribed) -> io::Result<()> {
        self.write(SUBSCRIPTIONS, subscribed.clone())
    }

    pub(super) fn quotas(&self) -> Quotas {
        self.read(QUOTAS).unwrap_or_default()
    }

    pub(super) fn put_quotas(&self, quotas: &Quotas) -> io::Result<()> {
        if *quotas == Quotas::default() { self.remove(QUOTAS) } else { self.write(QUOTAS, quotas.clone()) }
    }

    /// Forgets the token: whoever unregistered has none.
    pub(super) fn forget_token(&self) -> io::Result<()> {
        self.remove(TOKEN)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.path().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let stored: Stored<T> = serde_json::from_slice(&fs::read(self.dir.path().join(name)).ok()?).ok()?;
        (stored.owner == self.owner).then_some(stored.value)
    }

    fn write<T: Serialize>(&self, name: &str, value: T) -> io::Result<()> {
        let bytes = serde_json::to_vec(&Stored { owner: self.owner.clone(), value })?;
        self.dir.replace(name, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn store(dir: &Path, uid: &str) -> Store {
        let account = Account {
            appkey: "app".to_owned(),
            secretkey: "secret".into(),
            uid: uid.parse().unwrap(),
            presence_action: 2,
        };
        Store::new(&dir.into(), &"https://api.example:8183".parse().unwrap(), &account)
    }

    #[test]
    fn a_token_is_read_back_by_its_account_alone() {
        let dir = tempfile::tempdir().unwrap();
        let life = Duration::from_hours(2);
        store(dir.path(), "414").put_token(&"tok".into(), life, Duration::from_secs(200)).unwrap();
        let stored = store(dir.path(), "414").token().unwrap();
        assert_eq!((stored.token.expose_secret(), stored.life), ("tok", life));
        assert!(
            stored.left <= Duration::from_secs(7000) && stored.left > Duration::from_mins(115),
            "{:?}",
            stored.left
        );
        assert!(store(dir.path(), "415").token().is_none());
        let mode = fs::metadata(dir.path().join(TOKEN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        store(dir.path(), "414").forget_token().unwrap();
        store(dir.path(), "414").forget_token().unwrap();
        assert!(store(dir.path(), "414").token().is_none());
    }

    #[test]
    fn the_wall_clock_lengthens_no_life_and_a_dead_token_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "414");
        let expires_at_ms = clock::wall_now_ms() + 86_400_000;
        store.write(TOKEN, TokenWire { access_token: "tok".to_owned(), expires_in: 60, expires_at_ms }).unwrap();
        assert_eq!(store.token().unwrap().left, Duration::from_mins(1));
        store.put_token(&"tok".into(), Duration::from_mins(1), Duration::from_mins(1)).unwrap();
        assert!(store.token().is_none());
    }

    #[test]
    fn quotas_are_kept_until_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "414");
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let quotas = Quotas { set_config: Some(Quota::new(hour, 3)), get_access_token: None };
        store.put_quotas(&quotas).unwrap();
        let read = store.quotas();
        assert_eq!(read, quotas);
        let read = read.set_config.unwrap();
        assert!(read.times == 3 && read.left(minute) == minute && read.left(hour) > minute * 59);
        assert_eq!(self::store(dir.path(), "415").quotas(), Quotas::default());
        store.put_quotas(&Quotas::default()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn unreadable_files_are_absent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(TOKEN), b"{").unwrap();
        fs::write(dir.path().join(SUBSCRIPTIONS), b"[]").unwrap();
        let store = store(dir.path(), "414");
        assert!(store.token().is_none());
        assert_eq!(store.subscribed(), Subscribed::default());
        let subscribed = Subscribed {
            topics: vec![("home/lamp".parse().unwrap(), Qos::AtLeastOnce)],
            presence: vec!["413".parse().unwrap()],
            ..Subscribed::default()
        };
        store.put_subscribed(&subscribed).unwrap();
        assert_eq!(store.subscribed(), subscribed);
    }
}
