//! A member of a cluster: what it keeps in etcd instead of in its state directory, and how it becomes the leader.
//!
//! Every member accepts pushes and serves the callback under the shared identity. One member leads: it holds a lease at etcd,
//! and its writes are refused once another member leads. `deploy/docs/cluster.md` says when a cluster is worth having.

mod files;
mod moving;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::error::AppError;
use super::parts;
use super::seat::Seat;
use crate::config::Config;
use crate::operate::status::{ClusterHealth, EtcdHealth, Member, Membership, Role};
use crate::os::clock;
use crate::os::files::{Directory, Files};
use crate::os::lease::Lease;
use crate::os::tasks;
use crate::state_dir::{Identity, IdentityError, Overrides};
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError, Leadership, MemberInfo};
use crate::store::{Limits, Tokens};
use files::{Present, Shared};

/// Between two attempts at what etcd does not do for now.
const AGAIN: Duration = Duration::from_millis(300);
/// So long after it stepped down a member leaves the leadership to the others.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(5);
/// So much longer than a lease lasts, a member that cannot take part waits before it says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Whose account it is.
const ACCOUNT: &str = "uid";
/// How long `status` waits for etcd.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How long who stops or steps down waits for etcd each time that it asks or tells something.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);
/// How long the last member waits for the seat of one that is just giving it up.
const LAST_SEAT_WITHIN: Duration = Duration::from_secs(3);

/// This member.
pub(super) struct Cluster {
    etcd: Arc<Etcd>,
    me: String,
    uid: String,
    prefix: String,
    endpoints: usize,
    takeover: Duration,
    present: Present,
    /// Why this member has not begun, until it has.
    awaits: watch::Sender<String>,
    /// Won, and not yet used.
    won: Option<Leadership>,
    not_before: Instant,
}

impl Cluster {
    /// Joins the cluster of the configuration. No network is needed for that.
    ///
    /// # Errors
    ///
    /// If the TLS files that it names cannot be used.
    pub(super) fn join(config: &Config) -> Result<Self, AppError> {
        clock::run_among_others();
        let etcd = Etcd::open(&etcd_config(config)).map_err(|error| AppError::Config(error.to_string()))?;
        let (me, endpoints) = (config.cluster.member.clone(), config.cluster.endpoints.len());
        let (uid, prefix) = (config.ilink.uid.as_str().to_owned(), config.cluster.prefix.clone());
        let (present, not_before) = (Present::default(), Instant::now());
        let takeover = config.cluster.takeover;
        let awaits = watch::Sender::new(EtcdError::Starting.to_string());
        Ok(Self { etcd, me, uid, prefix, endpoints, takeover, present, awaits, won: None, not_before })
    }

    /// Where the members keep their small files.
    pub(super) fn files(&self, config: &Config) -> Files {
        Files::new(Shared::new(&self.etcd, &self.present, &config.cluster.prefix))
    }

    /// The shared identity: that of the first member, whose state directory has one, or a new one. Waits for etcd.
    ///
    /// # Errors
    ///
    /// What is there is damaged.
    pub(super) async fn identity(
        &self,
        local: &Directory,
        files: &Files,
        overrides: &Overrides,
    ) -> Result<Identity, AppError> {
        let mut told = false;
        self.claim_prefix(&mut told).await?;
        loop {
            let (local, files, overrides) = (local.clone(), files.clone(), overrides.clone());
            let opening = move || {
                let moved = moving::move_files(&local, &files);
                moved.map_err(|error| error.to_string()).map(|()| Identity::open(files, overrides))
            };
            let error = match tokio::task::spawn_blocking(opening).await {
                Ok(Ok(Ok(identity))) => return Ok(identity),
                Ok(Ok(Err(error @ IdentityError::Inaccessible { .. }))) => error.to_string(),
                Ok(Ok(Err(error))) => return Err(AppError::State(error.to_string())),
                Ok(Err(error)) => error,
                Err(error) => {
                    tasks::fault(error);
                    return Err(AppError::Failed("the process is ending".to_owned()));
                }
            };
            self.not_yet(error, &mut told).await;
        }
    }

    /// What is below the prefix belongs to one account. Waits for etcd.
    async fn claim_prefix(&self, told: &mut bool) -> Result<(), AppError> {
        loop {
            match self.etcd.get_or_create(ACCOUNT, self.uid.as_bytes()).await {
                Ok(uid) if uid == self.uid.as_bytes() => return Ok(()),
                Ok(other) => {
                    return Err(AppError::Config(belongs_to_another(&self.prefix, &other, &self.uid)));
                }
                Err(error) => self.not_yet(error.to_string(), told).await,
            }
        }
    }

    /// Moves what a bridge that was alone left in the spool of this directory. Waits for etcd.
    ///
    /// # Errors
    ///
    /// If the spool has failed.
    pub(super) async fn adopt(&self, local: &Directory, limits: Limits) -> Result<(), AppError> {
        moving::move_spool(local, limits, &self.etcd, &self.awaits).await
    }

    async fn not_yet(&self, error: String, told: &mut bool) {
        if !std::mem::replace(told, true) {
            warn!(error, "the identity cannot be read from etcd yet; the bridge starts once it can be");
        }
        self.awaits.send_replace(error);
        sleep(AGAIN).await;
    }

    /// Takes pushes in.
    pub(super) fn append(&self) -> Arc<dyn Tokens> {
        self.etcd.member()
    }

    /// Resolves when this member leads. Cancel-safe: a leadership that was won is kept for the next call.
    pub(super) async fn seat(&mut self) -> Seat {
        loop {
            sleep_until(self.not_before).await;
            if self.won.is_none() {
                self.won = Some(self.etcd.campaign().await);
            }
            if let Some(leadership) = &self.won
                && let Some(seat) = self.take(leadership.clone()).await
            {
                self.won = None;
                return seat;
            }
            self.won = None;
        }
    }

    /// Reads what is there; none if the leadership is lost meanwhile.
    async fn take(&self, leadership: Leadership) -> Option<Seat> {
        let reading = async {
            loop {
                match self.etcd.lead(&leadership).await {
                    Ok(store) => return store,
                    Err(error) => debug!(%error, "what is stored cannot be read yet"),
                }
                sleep(AGAIN).await;
            }
        };
        // Both may be dropped: nothing was changed.
        let store = tokio::select! {
            store = reading => store,
            cause = leadership.lost() => {
                info!(cause, "this member was to lead, and does not");
                return None;
            }
        };
        self.present.set(Some(leadership.clone()));
        let (deadline, losing, failing) = (leadership.clone(), leadership.clone(), store.clone());
        // Both resolve once, and only tell.
        let lost = async move {
            tokio::select! {
                cause = losing.lost() => cause,
                cause = failing.failed() => cause,
            }
        };
        let present = self.present.clone();
        let giving_back = async move {
            present.set(None);
            leadership.resign().await;
        };
        Some(Seat::held(store, Lease::until(move || deadline.valid_until()), lost.boxed(), giving_back.boxed()))
    }

    /// Leaves the leadership to the others for a while.
    pub(super) fn stand_back(&mut self) {
        self.not_before = Instant::now() + LEFT_TO_OTHERS;
    }

    /// Whether another member could take over now. None is known if etcd does not tell.
    pub(super) async fn has_successor(&self) -> bool {
        self.others().await.is_some_and(|others| others > 0)
    }

    /// How many others are there that do not stop; none if etcd does not tell.
    async fn others(&self) -> Option<usize> {
        let members = timeout(HAND_OVER_WITHIN, self.etcd.members()).await.ok()?.ok()?;
        Some(members.iter().filter(|member| member.name != self.me && !member.leaving).count())
    }

    /// Tells the others that this member stops: it is nobody's successor any more.
    pub(super) async fn leave(&self) {
        if let Ok(Err(error)) = timeout(HAND_OVER_WITHIN, self.etcd.leave()).await {
            debug!(%error, "the others could not be told that this member stops");
        }
    }

    /// The seat, if this member stops, and nobody is left who could take it.
    pub(super) async fn last_seat(&mut self) -> Option<Seat> {
        if self.others().await? > 0 {
            return None;
        }
        self.not_before = Instant::now();
        timeout(LAST_SEAT_WITHIN, self.seat()).await.ok()
    }

    /// This member in this role, for who looks at it.
    pub(super) fn membership(&self, role: Role) -> Membership {
        let (etcd, of) = (Arc::clone(&self.etcd), self.endpoints);
        let look = move || look(Arc::clone(&etcd), of).boxed();
        Membership { me: self.me.clone(), role, awaits: self.awaits.subscribe(), look: Arc::new(look) }
    }

    /// Says when etcd does not do its part, until `stop`.
    pub(super) fn tell_trouble(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        watching::tell_trouble(self.etcd.session(), self.takeover + PATIENCE, stop)
    }

    /// Takes over what another member made of the identity, until `stop`.
    pub(super) fn follow_identity(
        &self,
        identity: Arc<Identity>,
        path_secrets: watch::Sender<Vec<SecretString>>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        watching::follow_identity(Arc::clone(&self.etcd), identity, path_secrets, stop)
    }

    pub(super) async fn close(&self) {
        self.etcd.close().await;
    }
}

/// What each endpoint is, or what is wrong with it. Joins nothing.
///
/// # Errors
///
/// If the TLS files that the configuration names cannot be used.
pub(super) async fn endpoints(config: &Config) -> Result<Vec<(String, Result<String, String>)>, AppError> {
    let looked = Etcd::look_at(&etcd_config(config)).await.map_err(|error| AppError::Config(error.to_string()))?;
    let text = |(endpoint, version): (String, Result<String, EtcdError>)| {
        (endpoint, version.map_err(|error| error.to_string()))
    };
    Ok(looked.into_iter().map(text).collect())
}

fn belongs_to_another(prefix: &str, other: &[u8], uid: &str) -> String {
    let other = String::from_utf8_lossy(other);
    format!(
        "cluster.prefix {prefix} belongs to the account {other}, and ilink.uid is {uid}: give each account a prefix of its own"
    )
}

/// Tries whether etcd lets us read and write, and whether what is below the prefix is ours; all that is wrong.
///
/// # Errors
///
/// As [`endpoints`].
pub(super) async fn denied(config: &Config) -> Result<Vec<String>, AppError> {
    let etcd = etcd_config(config);
    let tried = Etcd::try_rights(&etcd).await.map_err(|error| AppError::Config(error.to_string()))?;
    let mut wrong: Vec<_> = [tried.read, tried.write].into_iter().filter_map(Result::err).collect();
    wrong.dedup();
    let mut wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    let uid = config.ilink.uid.as_str();
    if let Ok(Some(other)) = Etcd::peek(&etcd, ACCOUNT).await
        && other != uid.as_bytes()
    {
        wrong.push(belongs_to_another(&etcd.prefix, &other, uid));
    }
    Ok(wrong)
}

async fn look(etcd: Arc<Etcd>, of: usize) -> ClusterHealth {
    let trouble = etcd.session().borrow().clone().err().map(|error| error.to_string());
    let (members, endpoints) = tokio::join!(timeout(LOOK_WITHIN, etcd.members()), etcd.endpoints(LOOK_WITHIN));
    let healthy = endpoints.iter().filter(|(_, version)| version.is_ok()).count();
    let members = members.ok().and_then(Result::ok).unwrap_or_default();
    let member = |member: &MemberInfo| Member {
        name: member.name.clone(),
        role: if member.leads { Role::Leader } else { Role::Standby },
        since: clock::rfc3339(member.since_ms),
    };
    ClusterHealth {
        leader: members.iter().find(|member| member.leads).map(|member| member.name.clone()),
        members: members.iter().map(member).collect(),
        etcd: EtcdHealth { healthy, of },
        trouble,
    }
}

fn etcd_config(config: &Config) -> EtcdConfig {
    let cluster = &config.cluster;
    EtcdConfig {
        endpoints: cluster.endpoints.clone(),
        prefix: cluster.prefix.clone(),
        member: cluster.member.clone(),
        login: cluster.username.clone().zip(cluster.password.clone()),
        tls: cluster.tls.clone(),
        takeover: cluster.takeover,
        limits: Limits { inbound: cluster.max_bytes, outbound: cluster.max_bytes, set_aside: parts::SET_ASIDE_BYTES },
    }
}
