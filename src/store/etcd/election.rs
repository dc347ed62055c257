//! Who leads: one key, put with the leader's lease on the condition that it is not there.
//!
//! The revision in which it was put is the leadership's number. Every write of a leader is made on the condition that the key
//! still has it, so that a former leader can change nothing, whatever it believes. What a leader does elsewhere (publish, call)
//! it does before [`Leadership::valid_until`]: until then no other member can lead.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use ulid::Ulid;

use super::client::{Client, EACH};
use super::config::Keys;
use super::error::EtcdError;
use super::session::{Lease, Session};
use super::watch::{DELETES, Watch};
use super::wire::{Blob, Compare, KeyValue, Number, Put, Range, Step, Transaction};
use crate::os::clock::{boot_now, nap, wall_now_ms};

/// Between two tries of what has failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long handing over is tried: then the lease decides.
const RESIGN_WAIT: Duration = Duration::from_secs(2);

/// What stands under the leader's key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Elected {
    pub(super) name: String,
    /// Of this candidacy: by it a leader knows its own key when the answer to its putting was lost.
    candidacy: String,
    pub(super) since_ms: u64,
}

/// This member leads, until it is lost or resigned. All clones are one; when the last is dropped, it is resigned.
#[derive(Debug, Clone)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Arc<Client>,
    key: String,
    revision: u64,
    lease: Arc<Lease>,
    over: watch::Sender<Option<String>>,
    runtime: Handle,
}

/// A candidate.
pub(super) struct Candidate<'a> {
    pub(super) client: &'a Arc<Client>,
    pub(super) session: &'a Session,
    pub(super) keys: &'a Keys,
    pub(super) name: &'a str,
    pub(super) takeover: Duration,
}

impl Candidate<'_> {
    /// Resolves when this member leads.
    pub(super) async fn campaign(&self) -> Leadership {
        loop {
            let lease = self.session.lease().await;
            match self.attempt(&lease).await {
                Ok(Some(revision)) => {
                    self.session.stood(None);
                    return Leadership(Arc::new(Inner {
                        client: Arc::clone(self.client),
                        key: self.keys.leader(),
                        revision,
                        lease,
                        over: watch::Sender::new(None),
                        runtime: Handle::current(),
                    }));
                }
                Ok(None) => self.session.stood(None),
                Err(error) => {
                    self.session.stood(Some(error));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The revision of the leadership. None: it may be free by now.
    async fn attempt(&self, lease: &Lease) -> Result<Option<u64>, EtcdError> {
        // Looked at first, because a transaction is written to etcd's disks even if its condition does not hold.
        let range = Range { key: self.keys.leader().into(), ..Range::default() };
        // A silent endpoint must not take the time in which the next one would tell.
        let each = (self.takeover / 3).min(EACH);
        let found = self.client.range_within(&range, each).await?;
        match found.kvs.into_iter().next() {
            // A leadership whose time is over before it begins would only be given back, again and again.
            None if lease.until() <= boot_now() => {
                sleep(PAUSE).await;
                Ok(None)
            }
            None => self.stand(lease).await,
            // An earlier leadership of this process, which is over.
            Some(leader) if leader.lease.0 == lease.id => {
                remove(self.client, &self.keys.leader(), leader.create_revision.0).await?;
                Ok(None)
            }
            Some(_) => {
                // The revision of the answer, because that of the key may be compacted by now. The watch may hang together with
                // its endpoint, so it is not trusted for long.
                match timeout(self.takeover / 3, self.gone(found.header.revision.0 + 1)).await {
                    // Compacted since: it is looked at again.
                    Ok(Ok(()) | Err(EtcdError::Compacted)) | Err(_) => Ok(None),
                    Ok(Err(error)) => Err(error),
                }
            }
        }
    }

    /// Puts the leader's key. None: another was quicker.
    async fn stand(&self, lease: &Lease) -> Result<Option<u64>, EtcdError> {
        let candidacy = Ulid::generate().to_string();
        let leader = Elected { name: self.name.to_owned(), candidacy, since_ms: wall_now_ms() };
        let value = serde_json::to_vec(&leader).map_err(|error| EtcdError::Refused(error.to_string()))?;
        let value = Blob::from(value);
        let key = self.keys.leader();
        let put = Put { key: key.clone().into(), value: value.clone(), lease: Number(lease.id) };
        let transaction = Transaction {
            compare: vec![Compare::created(key.clone(), 0)],
            success: vec![Step::Put(put)],
            failure: vec![Step::get(key)],
        };
        let carried = self.client.transact(&transaction).await?;
        if carried.succeeded {
            return Ok(Some(carried.header.revision.0));
        }
        let there = carried.found().flatten().next();
        // Our own value: an earlier try of this request was carried out, and its answer was lost.
        Ok(there.filter(|there| there.value == value).map(|there| there.create_revision.0))
    }

    async fn gone(&self, from: u64) -> Result<(), EtcdError> {
        let mut watch = Watch::open(self.client, &self.keys.leader(), Vec::new(), from, DELETES).await?;
        while watch.next().await?.is_empty() {}
        Ok(())
    }
}

/// Removes the leader's key, if it is the one of this revision.
async fn remove(client: &Client, key: &str, revision: u64) -> Result<(), EtcdError> {
    let transaction = Transaction {
        compare: vec![Compare::created(key.to_owned(), revision)],
        success: vec![Step::delete(key.to_owned())],
        failure: Vec::new(),
    };
    client.transact(&transaction).await.map(|_| ())
}

impl Leadership {
    /// Until when this member may act, by the boot-time clock: counted from the moment at which the last successful keep-alive
    /// was *sent*, and a second short of the lease. Zero once it is over. No I/O.
    #[must_use]
    pub fn valid_until(&self) -> Duration {
        if self.0.over.borrow().is_some() { Duration::ZERO } else { self.0.lease.until() }
    }

    /// Resolves, with the cause, once it is over: its time ran out, its lease has gone, another leads, or it was resigned.
    pub async fn lost(&self) -> String {
        let mut over = self.0.over.subscribe();
        loop {
            if let Some(cause) = over.borrow_and_update().clone() {
                return cause;
            }
            let (until, now) = (self.0.lease.until(), boot_now());
            if self.0.lease.gone.is_cancelled() {
                self.depose("its lease has run out");
            } else if now >= until {
                self.depose("etcd did not confirm it in time");
            } else {
                // Each arm only wakes the loop, which looks at everything again.
                tokio::select! {
                    _ = over.changed() => {}
                    () = self.0.lease.gone.cancelled() => {}
                    () = sleep(nap(until, now)) => {}
                }
            }
        }
    }

    /// Hands over: another member may lead at once.
    pub async fn resign(&self) {
        self.depose("it was handed over");
        self.0.remove().await;
    }

    /// It is over. The first cause stands.
    pub(super) fn depose(&self, cause: &str) {
        self.0.depose(cause);
    }

    /// The condition of everything that a leader writes.
    pub(super) fn fence(&self) -> Compare {
        Compare::created(self.0.key.clone(), self.0.revision)
    }

    /// Reads the leader's key.
    pub(super) fn question(&self) -> Range {
        Range { key: Blob::from(self.0.key.clone()), ..Range::default() }
    }

    /// Whether what was read there is this leadership.
    pub(super) fn is_of(&self, leader: Option<&KeyValue>) -> bool {
        leader.is_some_and(|leader| leader.create_revision.0 == self.0.revision)
    }
}

impl Inner {
    fn depose(&self, cause: &str) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert_with(|| cause.to_owned());
            first
        });
    }

    /// If it does not succeed, the lease decides.
    async fn remove(&self) {
        let removing = async {
            while !self.lease.gone.is_cancelled() && remove(&self.client, &self.key, self.revision).await.is_err() {
                sleep(PAUSE).await;
            }
        };
        let _ = timeout(RESIGN_WAIT, removing).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Resigned already, or gone with the lease.
        let handed_over = self.over.borrow().as_deref() == Some("it was handed over");
        if handed_over || self.lease.gone.is_cancelled() {
            return;
        }
        let (client, key, revision) = (Arc::clone(&self.client), self.key.clone(), self.revision);
        self.runtime.spawn(async move {
            let _ = remove(&client, &key, revision).await;
        });
    }
}
