//! This bridge as a member: a lease that is kept alive, and its name registered under it. What has gone is taken up again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::client::{Client, EACH};
use super::config::Keys;
use super::error::EtcdError;
use super::wire::{Compare, Lease as Granted, Message, Number, Put, Step, Transaction};
use crate::os::clock::{boot_now, wall_now_ms};
use crate::os::lock;

/// Between two tries of what has failed.
const PAUSE: Duration = Duration::from_millis(300);
/// Between two looks whether a name that is taken has become free.
const NAME_PAUSE: Duration = Duration::from_secs(1);
/// How long giving a lease back waits for etcd.
const END_WAIT: Duration = Duration::from_secs(2);
/// A leader stops this long before its lease can end: what it began is then over, and a machine's clock may be a little slow.
const MARGIN: Duration = Duration::from_secs(1);

/// A lease, and until when it certainly stands.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: u64,
    /// Milliseconds of the boot-time clock.
    until: AtomicU64,
    pub(super) gone: CancellationToken,
}

impl Lease {
    /// Until when its holder may act, by the boot-time clock.
    pub(super) fn until(&self) -> Duration {
        Duration::from_millis(self.until.load(Ordering::Acquire))
    }

    /// It was kept alive by a request that was sent at this moment.
    fn kept(&self, sent: Duration, ttl: Duration) {
        let until = (sent + ttl).saturating_sub(MARGIN);
        self.until.fetch_max(u64::try_from(until.as_millis()).unwrap_or(0), Ordering::AcqRel);
    }

    fn end(&self) {
        self.until.store(0, Ordering::Release);
        self.gone.cancel();
    }
}

/// A member's name, and the lease under which it is registered.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) key: String,
    pub(super) lease: u64,
}

/// What stands under a member's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Registered {
    /// Of the process.
    run: String,
    pub(super) since_ms: u64,
    #[serde(default)]
    pub(super) leaving: bool,
}

/// The registration of this member.
#[derive(Debug)]
pub(super) struct Session {
    client: Arc<Client>,
    key: String,
    member: String,
    ttl: Duration,
    registered: Registered,
    leaving: AtomicBool,
    has_begun: AtomicBool,
    doubt: Notify,
    lease: watch::Sender<Option<Arc<Lease>>>,
    /// Why it could not begin to lead, though nobody else leads.
    hindered: Mutex<Option<EtcdError>>,
    state: watch::Sender<Result<(), EtcdError>>,
}

impl Session {
    pub(super) fn new(client: Arc<Client>, keys: &Keys, member: String, ttl: Duration) -> Self {
        let key = keys.member(&member);
        let registered = Registered { run: Ulid::generate().to_string(), since_ms: wall_now_ms(), leaving: false };
        let (lease, state) = (watch::Sender::new(None), watch::Sender::new(Err(EtcdError::Starting)));
        let (leaving, has_begun) = (AtomicBool::new(false), AtomicBool::new(false));
        let (doubt, hindered) = (Notify::new(), Mutex::default());
        Self { client, key, member, ttl, registered, leaving, has_begun, doubt, lease, hindered, state }
    }

    /// Whether the member is registered and could lead; if not, why.
    pub(super) fn state(&self) -> watch::Receiver<Result<(), EtcdError>> {
        self.state.subscribe()
    }

    /// What came of trying to lead.
    pub(super) fn stood(&self, hindered: Option<EtcdError>) {
        *lock(&self.hindered) = hindered;
        if self.lease.borrow().is_some() {
            self.tell(Ok(()));
        }
    }

    /// The lease, as soon as there is one.
    pub(super) async fn lease(&self) -> Arc<Lease> {
        let mut lease = self.lease.subscribe();
        // The sender lives as long as `self`.
        match lease.wait_for(Option::is_some).await.ok().and_then(|lease| lease.clone()) {
            Some(lease) => lease,
            None => std::future::pending().await,
        }
    }

    /// What this member's registration stands on; nothing before it was registered first.
    ///
    /// # Errors
    ///
    /// If the lease may have run out: another member may have what this one has in hand.
    pub(super) fn standing(&self) -> Result<Option<Standing>, EtcdError> {
        match &*self.lease.borrow() {
            Some(lease) if boot_now() < lease.until() => Ok(Some(Standing { key: self.key.clone(), lease: lease.id })),
            None if !self.has_begun.load(Ordering::Relaxed) => Ok(None),
            _ => Err(EtcdError::LeaseOver),
        }
    }

    /// The lease seems to have gone: looks at once.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Registers and stays registered.
    pub(super) async fn run(&self) {
        loop {
            match self.register().await {
                Ok(lease) => {
                    let lease = Arc::new(lease);
                    self.has_begun.store(true, Ordering::Relaxed);
                    self.lease.send_replace(Some(Arc::clone(&lease)));
                    self.tell(Ok(()));
                    self.keep(&lease).await;
                    lease.end();
                    self.lease.send_replace(None);
                }
                Err(error) => {
                    let pause = if matches!(error, EtcdError::NameTaken(_)) { NAME_PAUSE } else { PAUSE };
                    self.tell(Err(error));
                    sleep(pause).await;
                }
            }
        }
    }

    /// Says under its name that this member leaves. It keeps its lease until the end.
    pub(super) async fn leave(&self) -> Result<(), EtcdError> {
        self.leaving.store(true, Ordering::Relaxed);
        let Some(lease) = self.lease.borrow().clone() else { return Ok(()) };
        // Under our lease nobody else can have the name; without it, nothing is put.
        let put = Put { key: self.key.clone().into(), value: self.value()?.into(), lease: Number(lease.id) };
        let transaction = Transaction { success: vec![Step::Put(put)], ..Transaction::default() };
        self.client.transact(&transaction).await.map(|_| ())
    }

    fn value(&self) -> Result<Vec<u8>, EtcdError> {
        let registered = Registered { leaving: self.leaving.load(Ordering::Relaxed), ..self.registered.clone() };
        serde_json::to_vec(&registered).map_err(|error| EtcdError::Refused(error.to_string()))
    }

    /// Gives the lease back: all that stands under it goes.
    pub(super) async fn end(&self) {
        if let Some(lease) = self.lease.send_replace(None) {
            lease.end();
            let _ = timeout(END_WAIT, self.revoke(lease.id)).await;
        }
    }

    async fn register(&self) -> Result<Lease, EtcdError> {
        let sent = boot_now();
        let asked = Granted::question(0, self.ttl.as_secs().max(1));
        let granted: Granted = self.client.ask("/v3/lease/grant", &asked, EACH).await?;
        let lease = Lease { id: granted.id.0, until: AtomicU64::new(0), gone: CancellationToken::new() };
        lease.kept(sent, Duration::from_secs(granted.ttl.0));
        match self.put_name(lease.id).await {
            Ok(()) => Ok(lease),
            Err(error) => {
                self.revoke(lease.id).await;
                Err(error)
            }
        }
    }

    async fn put_name(&self, lease: u64) -> Result<(), EtcdError> {
        let value = self.value()?;
        let mut revision = 0;
        loop {
            let put = Put { key: self.key.clone().into(), value: value.clone().into(), lease: Number(lease) };
            let transaction = Transaction {
                compare: vec![Compare::changed(self.key.clone(), revision)],
                success: vec![Step::Put(put)],
                failure: vec![Step::get(self.key.clone())],
            };
            let carried = self.client.transact(&transaction).await?;
            if carried.succeeded {
                return Ok(());
            }
            let Some(there) = carried.found().flatten().next() else {
                revision = 0;
                continue;
            };
            if there.lease.0 == lease {
                return Ok(());
            }
            let run = serde_json::from_slice::<Registered>(&there.value.0).map(|registered| registered.run);
            if run.is_ok_and(|run| run == self.registered.run) {
                // Our own, under a lease that was lost.
                revision = there.mod_revision.0;
            } else {
                return Err(EtcdError::NameTaken(self.member.clone()));
            }
        }
    }

    /// Keeps the lease alive. Returns when it has gone.
    async fn keep(&self, lease: &Lease) {
        // Much of its time may be over already, if etcd was slow to grant it.
        let mut pause = (lease.until().saturating_sub(boot_now()) / 2).min(self.ttl / 3);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.doubt.notified() => {}
            }
            let sent = boot_now();
            let question = Granted::question(lease.id, 0);
            let each = (self.ttl / 6).max(PAUSE);
            match self.client.ask::<Message<Granted>>("/v3/lease/keepalive", &question, each).await {
                Ok(Message { result: Some(kept), .. }) if kept.ttl.0 > 0 => {
                    lease.kept(sent, Duration::from_secs(kept.ttl.0));
                    self.tell(Ok(()));
                    pause = self.ttl / 3;
                }
                Ok(Message { error: None, .. }) => return,
                Ok(Message { error: Some(fault), .. }) => {
                    self.tell(Err(super::error::said(fault.message, fault.grpc_code)));
                    pause = PAUSE;
                }
                Err(error) => {
                    self.tell(Err(error));
                    pause = PAUSE;
                }
            }
        }
    }

    pub(super) async fn revoke(&self, lease: u64) {
        let question = Granted::question(lease, 0);
        // If etcd does not hear it, the lease ends by itself.
        let _ = self.client.ask::<Granted>("/v3/lease/revoke", &question, EACH).await;
    }

    fn tell(&self, now: Result<(), EtcdError>) {
        let now = now.and_then(|()| lock(&self.hindered).clone().map_or(Ok(()), Err));
        self.state.send_if_modified(|state| {
            let changed = *state != now;
            *state = now;
            changed
        });
    }
}
