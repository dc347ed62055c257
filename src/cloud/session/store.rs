//! What the session itself keeps in the state directory, or in the cluster: `token.json`, `subscriptions.json`, `quotas.json`
//! and `budgets.json`.
//!
//! They are bound to the account: with another API, `AppKey` or uid they are as good as absent. Losing one costs a few calls,
//! so that a file which cannot be read is as good as absent, too, and one which cannot be written is a warning. Only what cannot
//! be read *now* is an error: the cluster's files are waited for. Everything here blocks.

use std::io;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::budget::Spent;
use crate::os::clock;
use crate::os::files::Files;
use crate::protocol::{Account, Qos, Subject, Uid};

const TOKEN: &str = "token.json";
const SUBSCRIPTIONS: &str = "subscriptions.json";
const QUOTAS: &str = "quotas.json";
const BUDGETS: &str = "budgets.json";

/// Whose files these are.
#[derive(Clone)]
pub(super) struct Store {
    files: Files,
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
        let left = clock::millis(left);
        Self { until_ms: clock::wall_now_ms().saturating_add(left), times }
    }

    /// How long not to ask, at most `most`: a wall clock that went back must not make it longer.
    pub(super) fn left(&self, most: Duration) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(clock::wall_now_ms())).min(most)
    }
}

/// What is spent of each budget: when each bucket is as good as new, in wall-clock milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SpentMarks {
    set_config: [u64; 2],
    get_access_token: [u64; 2],
    verbs: [u64; 2],
}

impl SpentMarks {
    pub(super) fn new([set_config, get_access_token, verbs]: [Spent; 3]) -> Self {
        let now = clock::wall_now_ms();
        let until = |spent: Spent| {
            spent.map(|left| {
                let left = clock::millis(left);
                if left == 0 { 0 } else { now.saturating_add(left) }
            })
        };
        Self { set_config: until(set_config), get_access_token: until(get_access_token), verbs: until(verbs) }
    }

    /// What is spent still: of `set_config`, `get_access_token` and the verbs.
    pub(super) fn spent(&self) -> [Spent; 3] {
        let now = clock::wall_now_ms();
        [self.set_config, self.get_access_token, self.verbs]
            .map(|until| until.map(|until| Duration::from_millis(until.saturating_sub(now))))
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
    pub(super) fn new(files: &Files, api: &Url, account: &Account) -> Self {
        let owner = Owner { api: api.as_str().to_owned(), appkey: account.appkey.clone(), uid: account.uid.clone() };
        Self { files: files.clone(), owner }
    }

    pub(super) fn token(&self) -> io::Result<Option<StoredToken>> {
        let Some(stored) = self.read::<TokenWire>(TOKEN)? else { return Ok(None) };
        let life = Duration::from_secs(stored.expires_in);
        // A wall clock that went back must not lengthen the life.
        let left = Duration::from_millis(stored.expires_at_ms.saturating_sub(clock::wall_now_ms())).min(life);
        Ok((!left.is_zero()).then(|| StoredToken { token: stored.access_token.into(), life, left }))
    }

    /// Keeps a token that was asked for `age` ago and lives for `life` since.
    pub(super) fn put_token(&self, token: &SecretString, life: Duration, age: Duration) -> io::Result<()> {
        let left = clock::millis(life.saturating_sub(age));
        let wire = TokenWire {
            access_token: token.expose_secret().to_owned(),
            expires_in: life.as_secs(),
            expires_at_ms: clock::wall_now_ms().saturating_add(left),
        };
        self.write(TOKEN, wire)
    }

    pub(super) fn subscribed(&self) -> io::Result<Subscribed> {
        Ok(self.read(SUBSCRIPTIONS)?.unwrap_or_default())
    }

    pub(super) fn put_subscribed(&self, subscribed: &Subscribed) -> io::Result<()> {
        self.write(SUBSCRIPTIONS, subscribed.clone())
    }

    pub(super) fn quotas(&self) -> io::Result<Quotas> {
        Ok(self.read(QUOTAS)?.unwrap_or_default())
    }

    pub(super) fn put_quotas(&self, quotas: &Quotas) -> io::Result<()> {
        if *quotas == Quotas::default() { self.files.remove(QUOTAS) } else { self.write(QUOTAS, quotas.clone()) }
    }

    pub(super) fn spent(&self) -> io::Result<SpentMarks> {
        Ok(self.read(BUDGETS)?.unwrap_or_default())
    }

    pub(super) fn put_spent(&self, spent: &SpentMarks) -> io::Result<()> {
        self.write(BUDGETS, *spent)
    }

    /// Forgets the token: whoever unregistered has none.
    pub(super) fn forget_token(&self) -> io::Result<()> {
        self.files.remove(TOKEN)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let content = match self.files.read(name) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            read => read.ok().flatten(),
        };
        let stored: Option<Stored<T>> = content.and_then(|content| serde_json::from_slice(&content).ok());
        Ok(stored.filter(|stored| stored.owner == self.owner).map(|stored| stored.value))
    }

    fn write<T: Serialize>(&self, name: &str, value: T) -> io::Result<()> {
        let bytes = serde_json::to_vec(&Stored { owner: self.owner.clone(), value })?;
        self.files.replace(name, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
        let stored = store(dir.path(), "414").token().unwrap().unwrap();
        assert_eq!((stored.token.expose_secret(), stored.life), ("tok", life));
        assert!(
            stored.left <= Duration::from_secs(7000) && stored.left > Duration::from_mins(115),
            "{:?}",
            stored.left
        );
        assert!(store(dir.path(), "415").token().unwrap().is_none());
        let mode = fs::metadata(dir.path().join(TOKEN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        store(dir.path(), "414").forget_token().unwrap();
        store(dir.path(), "414").forget_token().unwrap();
        assert!(store(dir.path(), "414").token().unwrap().is_none());
    }

    #[test]
    fn the_wall_clock_lengthens_no_life_and_a_dead_token_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "414");
        let expires_at_ms = clock::wall_now_ms() + 86_400_000;
        store.write(TOKEN, TokenWire { access_token: "tok".to_owned(), expires_in: 60, expires_at_ms }).unwrap();
        assert_eq!(store.token().unwrap().unwrap().left, Duration::from_mins(1));
        store.put_token(&"tok".into(), Duration::from_mins(1), Duration::from_mins(1)).unwrap();
        assert!(store.token().unwrap().is_none());
    }

    #[test]
    fn quotas_are_kept_until_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "414");
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let quotas = Quotas { set_config: Some(Quota::new(hour, 3)), get_access_token: None };
        store.put_quotas(&quotas).unwrap();
        let read = store.quotas().unwrap();
        assert_eq!(read, quotas);
        let read = read.set_config.unwrap();
        assert!(read.times == 3 && read.left(minute) == minute && read.left(hour) > minute * 59);
        assert_eq!(self::store(dir.path(), "415").quotas().unwrap(), Quotas::default());
        store.put_quotas(&Quotas::default()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_spent_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "414");
        assert_eq!(store.spent().unwrap().spent(), [[Duration::ZERO; 2]; 3]);
        let minutes = |minutes| [Duration::from_mins(minutes), Duration::from_mins(10 * minutes)];
        store.put_spent(&SpentMarks::new([minutes(1), minutes(2), minutes(0)])).unwrap();
        let [config, token, verbs] = store.spent().unwrap().spent();
        let near = |spent: Duration, minutes| {
            let most = Duration::from_mins(minutes);
            assert!(spent <= most && spent > most.saturating_sub(Duration::from_secs(20)), "{spent:?}");
        };
        near(config[0], 1);
        near(config[1], 10);
        near(token[0], 2);
        near(token[1], 20);
        assert_eq!(verbs, [Duration::ZERO; 2]);
    }

    #[test]
    fn unreadable_files_are_absent() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(TOKEN), b"{").unwrap();
        fs::write(dir.path().join(SUBSCRIPTIONS), b"[]").unwrap();
        let store = store(dir.path(), "414");
        assert!(store.token().unwrap().is_none());
        assert_eq!(store.subscribed().unwrap(), Subscribed::default());
        let subscribed = Subscribed {
            topics: vec![("home/lamp".parse().unwrap(), Qos::AtLeastOnce)],
            presence: vec!["413".parse().unwrap()],
            ..Subscribed::default()
        };
        store.put_subscribed(&subscribed).unwrap();
        assert_eq!(store.subscribed().unwrap(), subscribed);
    }
}
