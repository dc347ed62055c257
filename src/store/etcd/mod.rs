//! The store of several bridges that share one account, on etcd. With it: who is a member, who leads, small shared values.
//!
//! # Constraints
//!
//! - Answered means on the disks of a majority of etcd's members: that is what etcd promises of every transaction.
//! - A transaction costs milliseconds, whatever is in it. What waits goes into one, up to etcd's default limits.
//! - An answer may be lost, and a request be carried out long after it was given up. Nothing may be done twice for that.
//! - A leader that does not know yet that it is none must be able to change nothing.
//! - etcd keeps all of this in memory and on three disks: what is done is removed. Compaction is the operator's
//!   (`--auto-compaction-retention`).
//!
//! # Below `<prefix>/`
//!
//! | key | what is there | under a lease |
//! |---|---|---|
//! | `member/<name>` | a member that is there | the member's |
//! | `leader` | who leads; the revision of its making is the leadership's number | the leader's |
//! | `writer/<name>` | what the last transaction of a writer was (`commit`) | no |
//! | `queue/in/…`, `queue/out/…`, `queue/aside/…` | a row; its name is explained in `rows` | no |
//! | `key/<packet id>` | the [`Key`](super::Key) of a command | no |
//! | `note/<key>` | a note | no |
//! | `token/<name>` | a [`Token`](super::Token) | one that ends by itself (`tokens`) |
//! | `stats` | how much the queues hold, by the leader | no |
//! | `adopted/<name>` | which rows of a store that was taken over have come (`adopt`) | no |
//! | `trial/<name>` | nothing: put and removed by who looks whether it may (`rights`) | one of a few seconds |
//! | `file/<name>` | a small value that all share | no |
//!
//! # Operation
//!
//! - **Numbers.** A row's number is the revision that made it, and its place in the transaction: the order in which rows were
//!   stored, whoever stored them.
//! - **Members** append on no condition but those of tokens (`tokens`), and not once they have stood still for longer than their lease.
//!   **The leader** writes on the condition that its leadership stands.
//! - **Rows come by a watch**, all of them, those of the leader too: it answers an append when it has seen the row, so that none
//!   comes after with a smaller number.
//! - **In memory** the leader has the names of the rows, not their data, but for the newest inbound ones. A takeover reads names.
//! - **Lazy** changes go with the next durable one, or by themselves after 250 ms; removals of tokens, after 10 ms.
//! - **Full** is counted by the leader; the other members know what it last said, and what they appended since.
//! - **Refused for now**: no endpoint, no majority, no space, too many requests. What was certainly not stored is refused; what may
//!   have been stored waits until that is known. Removals are tried even when etcd is out of space.
//! - **Failed**: another member leads, or etcd says that its members disagree.
//!
//! No Cargo feature: this room, with what leads in `app`, is 2.4 % of the program's code (by its symbols in a debug build) and a
//! tenth of our own lines, and brings no crate. It does not measurably lengthen a build (after a change 5.3 s with it, 5.6 s without,
//! debug). A program of two kinds would cost every test and package more.

mod adopt;
mod answer;
mod choice;
mod client;
mod commit;
mod compose;
mod config;
mod election;
mod endpoint;
mod error;
mod estimate;
mod feed;
mod handle;
mod keeper;
mod lazies;
mod leading;
mod load;
mod member;
mod rights;
mod rows;
mod session;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod values;
mod watch;
mod wire;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use adopt::{Adoption, NotAdopted};
use client::Client;
pub use config::EtcdConfig;
use config::{Keys, end_of};
pub use election::Leadership;
use election::{Candidate, Elected};
pub use error::EtcdError;
use leading::Leader;
use member::Member;
pub use rights::Rights;
use session::{Registered, Session};
use wire::Range;

use super::shared::{Shared, Unexpected};
use super::{Append as _, Limits, Store, Tokens};
use crate::os::files::Failure;

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// When it began, in milliseconds since the Unix epoch by its own clock.
    pub since_ms: u64,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it stops: it will not lead any more.
    pub leaving: bool,
}

/// This bridge as a member of the cluster.
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
    session: Arc<Session>,
    member: String,
    takeover: Duration,
    limits: Limits,
    /// Of what takes rows in, and of all that works for this member.
    shared: Arc<Shared>,
    appending: OnceLock<Arc<Member>>,
    ended: CancellationToken,
    _end: DropGuard,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("member", &self.member).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Begins to be a member: takes a lease, registers the name under it, and stays registered through any trouble. Asks
    /// nobody yet. Of use only within a runtime.
    ///
    /// # Errors
    ///
    /// If the configuration cannot be used, files included.
    pub fn open(config: &EtcdConfig) -> Result<Arc<Self>, EtcdError> {
        let client = Arc::new(Client::new(config)?);
        let keys = Keys::below(&config.prefix);
        let (member, takeover) = (config.member.clone(), config.takeover);
        let session = Arc::new(Session::new(Arc::clone(&client), &keys, member.clone(), takeover));
        let ended = CancellationToken::new();
        let shared = Arc::new(Shared::new(Failure::default()));
        tokio::spawn({
            let (session, ended) = (Arc::clone(&session), ended.clone());
            Unexpected(Arc::clone(&shared)).watch(async move { ended.run_until_cancelled(session.run()).await })
        });
        let end = ended.clone().drop_guard();
        let (limits, appending) = (config.limits, OnceLock::new());
        Ok(Arc::new(Self { client, keys, session, member, takeover, limits, shared, appending, ended, _end: end }))
    }

    /// What each endpoint is (its version), or what is wrong with it. One that is silent for `within` counts as such, and keeps
    /// nobody from being told of the others.
    pub async fn endpoints(&self, within: Duration) -> Vec<(String, Result<String, EtcdError>)> {
        look_at_all(&self.client, within).await
    }

    /// As [`Self::endpoints`], for who does not begin to be a member.
    ///
    /// # Errors
    ///
    /// If the configuration cannot be used, files included.
    pub async fn look_at(config: &EtcdConfig) -> Result<Vec<(String, Result<String, EtcdError>)>, EtcdError> {
        Ok(look_at_all(&Client::new(config)?, Duration::MAX).await)
    }

    /// Whether etcd lets us read and write below the prefix.
    ///
    /// # Errors
    ///
    /// As [`Self::look_at`].
    pub async fn try_rights(config: &EtcdConfig) -> Result<Rights, EtcdError> {
        let user = config.login.as_ref().map(|(user, _)| user.as_str());
        Ok(Rights::tried(&Client::new(config)?, &Keys::below(&config.prefix), user).await)
    }

    /// Whether this member is registered and could lead; if not, why.
    #[must_use]
    pub fn session(&self) -> channel::Receiver<Result<(), EtcdError>> {
        self.session.state()
    }

    /// All members that are there, by name.
    ///
    /// # Errors
    ///
    /// If etcd does not tell.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, EtcdError> {
        let leader = self.client.range(&Range { key: self.keys.leader().into(), ..Range::default() }).await?;
        let leader = leader.kvs.first().and_then(|kv| serde_json::from_slice::<Elected>(&kv.value.0).ok());
        let prefix = self.keys.members();
        let range = Range { key: prefix.clone().into(), end: end_of(&prefix).into(), ..Range::default() };
        let found = self.client.range(&range).await?;
        let member = |kv: &wire::KeyValue| {
            let name = std::str::from_utf8(&kv.key.0).ok()?.strip_prefix(&prefix)?.to_owned();
            let Registered { since_ms, leaving, .. } = serde_json::from_slice(&kv.value.0).ok()?;
            let leads = leader.as_ref().is_some_and(|leader| leader.name == name);
            Some(MemberInfo { name, since_ms, leads, leaving })
        };
        Ok(found.kvs.iter().filter_map(member).collect())
    }

    /// Tells the others that this member stops. It stays one until it is closed.
    ///
    /// # Errors
    ///
    /// If etcd does not take it.
    pub async fn leave(&self) -> Result<(), EtcdError> {
        self.session.leave().await
    }

    /// Resolves when this member leads. Tries for ever; dropped, it is no candidate any more.
    pub async fn campaign(&self) -> Leadership {
        let Self { client, session, keys, member, takeover, .. } = self;
        Candidate { client, session, keys, name: member, takeover: *takeover }.campaign().await
    }

    /// Takes rows in, whoever leads. Those who lead see them by and by.
    #[must_use]
    pub fn member(&self) -> Arc<dyn Tokens> {
        self.taking_in()
    }

    fn taking_in(&self) -> Arc<Member> {
        let Self { client, keys, session, member, limits, shared, .. } = self;
        let open = || member::open(client, keys, session, member, *limits, Arc::clone(shared));
        Arc::clone(self.appending.get_or_init(open))
    }

    /// The whole store, for who leads. What others append is seen there, too.
    ///
    /// # Errors
    ///
    /// If another member leads, or etcd does not answer.
    pub async fn lead(&self, leadership: &Leadership) -> Result<Arc<dyn Store>, EtcdError> {
        Ok(self.open_store(leadership).await?)
    }

    async fn open_store(&self, leadership: &Leadership) -> Result<Arc<Leader>, EtcdError> {
        let (client, keys, every) = (Arc::clone(&self.client), self.keys.clone(), self.takeover / 3);
        leading::open(client, keys, leadership.clone(), self.taking_in(), self.limits, every).await
    }

    /// Takes over what a bridge that was alone kept in this store.
    #[must_use]
    pub fn adoption<'a>(&'a self, old: &'a dyn Store) -> Adoption<'a> {
        Adoption::of(&self.client, &self.keys, old)
    }

    /// Ends the membership: the lease is given back.
    pub async fn close(&self) {
        if let Some(appending) = self.appending.get() {
            appending.close().await;
        }
        self.ended.cancel();
        self.session.end().await;
    }

    /// Nothing is kept alive any more, and nothing given back: as after a kill.
    #[cfg(test)]
    fn fall_silent(&self) {
        self.ended.cancel();
    }

    /// The lease ends behind its holder's back.
    #[cfg(test)]
    async fn lose_lease(&self) {
        let lease = self.session.lease().await;
        self.session.revoke(lease.id).await;
    }
}

async fn look_at_all(client: &Client, within: Duration) -> Vec<(String, Result<String, EtcdError>)> {
    let looks = client.endpoints().map(|(index, url)| async move {
        let silent = |_| Err(EtcdError::Unanswered { at: url.to_owned(), cause: format!("nothing in {within:?}") });
        (url.to_owned(), timeout(within, client.look_at(index)).await.unwrap_or_else(silent))
    });
    futures_util::future::join_all(looks).await
}
