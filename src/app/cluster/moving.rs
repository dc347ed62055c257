//! Moves the state of a single bridge into the cluster, once: identity, token and similar files, and what its spool holds.
//!
//! Each item is stored in the cluster before it is removed here. An interrupted move continues at the next start.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::app::error::AppError;
use crate::os::files::{Directory, FileStore, Files};
use crate::state_dir::IDENTITY;
use crate::store::etcd::{Etcd, NotAdopted};
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Limits, Queue, SpoolError};

/// The files of the state directory that the members share.
const FILES: [&str; 5] = [IDENTITY, "token.json", "subscriptions.json", "quotas.json", "budgets.json"];
/// What a file is called here once it has moved.
const MOVED: &str = ".in-cluster";
/// Before what etcd does not take for now is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Moves the small files. What the cluster has already stays as it is.
///
/// # Errors
///
/// If one cannot be read here or written there; those before it have moved.
pub(super) fn move_files(from: &Directory, to: &Files) -> io::Result<()> {
    for name in FILES {
        let Some(content) = FileStore::read(from, name)? else { continue };
        let there = to.create(name, &content)?;
        if there == content {
            info!(name, "moved from the state directory into the cluster");
        } else {
            info!(name, "not moved from the state directory: the cluster has its own");
        }
        std::fs::rename(from.path().join(name), from.path().join(format!("{name}{MOVED}")))?;
    }
    Ok(())
}

/// Moves what the spool of the state directory holds, if there is one. Waits for etcd, and notes in `awaits` why. What etcd never
/// takes stays there.
///
/// # Errors
///
/// If the spool has failed.
pub(super) async fn move_spool(
    from: &Directory,
    limits: Limits,
    to: &Etcd,
    awaits: &watch::Sender<String>,
) -> Result<(), AppError> {
    if !from.path().join("spool.db").exists() {
        return Ok(());
    }
    let (spool, recovered) = Spool::open_in(from, limits).map_err(|error| AppError::State(error.to_string()))?;
    for alarm in &recovered.alarms {
        error!("{alarm}");
    }
    let mut adoption = to.adoption(&*spool);
    let mut told = false;
    awaits.send_replace("what waits in the spool of the state directory moves into etcd".to_owned());
    while let Err(error) = adoption.run().await {
        awaits.send_replace(format!(
            "what waits in the spool of the state directory cannot be moved into etcd yet: {error}"
        ));
        match error {
            NotAdopted::Old(SpoolError::Failed(cause)) => return Err(AppError::State(cause)),
            error if !std::mem::replace(&mut told, true) => {
                warn!(%error, "what waits in the spool cannot be moved into the cluster yet; the bridge starts once it is");
            }
            error => debug!(%error, "it cannot be moved yet"),
        }
        sleep(AGAIN).await;
    }
    for queue in [Queue::Inbound, Queue::Outbound, Queue::SetAside] {
        let (rows, left) = adoption.outcome(queue);
        let queue = queue.as_str();
        if rows > 0 {
            info!(queue, rows, "what waited in the spool has moved into the cluster");
        }
        if left > 0 {
            error!(queue, rows = left, "rows that are too large for etcd stay in the spool of the state directory");
        }
    }
    spool.close().await;
    Ok(())
}
