//! What is open before a bridge begins. Of one that is alone, that is everything. A member of a cluster has no identity before etcd
//! tells it: until then it answers only who asks how it is, and keeps its callback closed. A push finds nobody there, so that a
//! load balancer tries the next member at once, and iLink again. (A status would be an answer, after which iLink does not.)

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::core::{self, Core, in_state};
use super::election::Election;
use super::error::AppError;
use super::parts;
use crate::config::{Config, Repeats};
use crate::inbound::store::Recognition;
use crate::operate::status::{Info, Report, Role};
use crate::os::files::Files;
use crate::state_dir::{Identity, StateDir, StateDirError};

/// How long a starting daemon waits for a state directory that somebody else has.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is open.
pub(super) enum Opening {
    /// All of it.
    Alone(Box<(Core, Election)>),
    /// What a member of a cluster has without etcd.
    Member(Joining),
}

impl Opening {
    /// Opens what can be had without the network. Waits a little for the state directory: a verb without a daemon has it for a
    /// moment.
    pub(super) async fn begin(config: &Config) -> Result<Self, AppError> {
        let state_dir = patiently(&config.state_dir).await.map_err(|error| in_state(&error))?;
        if !config.cluster.is_on() {
            return Ok(Self::Alone(Box::new(Core::alone(state_dir, config)?)));
        }
        parts::try_files(config)?;
        let cluster = Cluster::join(config)?;
        let files = cluster.files(config);
        Ok(Self::Member(Joining { state_dir, files, cluster: Box::new(cluster) }))
    }

    pub(super) fn state_dir(&self) -> &Path {
        match self {
            Self::Alone(opened) => opened.0.state_dir.path(),
            Self::Member(joining) => joining.state_dir.path(),
        }
    }

    /// What is shown of it.
    pub(super) fn report(&self, config: &Config, info: watch::Receiver<Info>) -> Report {
        match self {
            Self::Alone(opened) => opened.0.report(config, info),
            Self::Member(Joining { cluster, .. }) => Report {
                cluster: Some(cluster.membership(Role::Waiting)),
                ..core::report(config, info, cluster.append(), core::counters(config))
            },
        }
    }
}

/// A member of a cluster that has not begun.
pub(super) struct Joining {
    state_dir: StateDir,
    files: Files,
    cluster: Box<Cluster>,
}

impl Joining {
    /// Waits for etcd: for the identity, and until what a bridge that was alone left here has moved.
    ///
    /// # Errors
    ///
    /// What is there cannot be used.
    pub(super) async fn identity(&self, config: &Config) -> Result<Identity, AppError> {
        let Self { state_dir, files, cluster } = self;
        let identity = cluster.identity(state_dir.directory(), files, &core::overrides(config)).await?;
        cluster.adopt(state_dir.directory(), core::limits(config)).await?;
        Ok(identity)
    }

    /// The rest, with the identity.
    pub(super) fn joined(self, config: &Config, identity: Identity) -> (Core, Election) {
        let Self { state_dir, files, cluster } = self;
        let recognition = match config.callback.repeats {
            Repeats::Unanswered => Recognition::Tokens(cluster.append()),
            Repeats::Off => Recognition::Off,
        };
        let core = Core::of(config, state_dir, files, identity, cluster.append(), recognition);
        (core, Election::Cluster(cluster))
    }
}

async fn patiently(path: &Path) -> Result<StateDir, StateDirError> {
    let since = Instant::now();
    loop {
        match StateDir::open(path) {
            Err(StateDirError::Locked { .. }) if since.elapsed() < LOCK_PATIENCE => sleep(LOCK_PAUSE).await,
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_waits_for_a_verb_to_leave_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let verb = StateDir::open(dir.path()).unwrap();
        let leaving = tokio::spawn(async move {
            sleep(LOCK_PATIENCE.saturating_sub(Duration::from_millis(100))).await;
            drop(verb);
        });
        let daemon = patiently(dir.path()).await.unwrap();
        leaving.await.unwrap();
        // Another daemon does not leave.
        assert!(matches!(patiently(dir.path()).await, Err(StateDirError::Locked { .. })));
        drop(daemon);
    }
}
