//! Moves the state of a single bridge into the cluster, once: identity, token and similar files, the rows waiting in the spool,
//! and the spool's notes.
//!
//! Each item is stored in the cluster before it is removed here. An interrupted move continues at the next start; the row that
//! was being moved may then be there twice, with the same id.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::app::error::AppError;
use crate::os::files::{Directory, FileStore, Files};
use crate::state_dir::IDENTITY;
use crate::store::sqlite::Spool;
use crate::store::{Append, AppendError, Limits, Queue, SpoolError, Store};

/// The files of the state directory that the members share.
const FILES: [&str; 5] = [IDENTITY, "token.json", "subscriptions.json", "quotas.json", "budgets.json"];
/// What a file is called here once it has moved.
const MOVED: &str = ".in-cluster";
/// Rows and bytes that are read at once.
const ROWS: usize = 64;
const BYTES: usize = 1 << 20;
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

/// Moves what waits in the spool of the state directory, if there is one. Gives the spool if it has notes.
///
/// # Errors
///
/// If it cannot be read.
pub(super) async fn move_rows(
    from: &Directory,
    limits: Limits,
    to: &dyn Append,
) -> Result<Option<Arc<dyn Store>>, AppError> {
    if !from.path().join("spool.db").exists() {
        return Ok(None);
    }
    let failed = |error: SpoolError| AppError::State(error.to_string());
    let (spool, recovered) = Spool::open_in(from, limits).map_err(|error| AppError::State(error.to_string()))?;
    for alarm in &recovered.alarms {
        tracing::error!("{alarm}");
    }
    for queue in [Queue::Inbound, Queue::Outbound, Queue::SetAside] {
        let mut moved = 0_u64;
        loop {
            let rows = spool.read_after(queue, 0, ROWS, BYTES).await.map_err(failed)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                append(to, queue, &row.data).await?;
                spool.complete(queue, row.seq);
                moved += 1;
            }
        }
        if moved > 0 {
            info!(queue = queue.as_str(), rows = moved, "what waited in the spool has moved into the cluster");
        }
    }
    if spool.notes("").await.map_err(failed)?.is_empty() {
        spool.close().await;
        return Ok(None);
    }
    Ok(Some(spool))
}

/// Appends a row, however long that takes.
async fn append(to: &dyn Append, queue: Queue, data: &bytes::Bytes) -> Result<(), AppError> {
    let mut told = false;
    loop {
        match to.append(queue, data.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(AppendError::Spool(SpoolError::Failed(cause))) => return Err(AppError::State(cause)),
            Err(error) if !told => {
                warn!(%error, "what waits in the spool cannot be moved into the cluster yet; the bridge starts once it is");
                told = true;
            }
            Err(error) => debug!(%error, "it cannot be moved yet"),
        }
        sleep(AGAIN).await;
    }
}

/// Moves the notes to the member that leads, which is this one. A note that the cluster has stays as it is.
pub(super) async fn move_notes(from: &Arc<dyn Store>, to: &Arc<dyn Store>) -> Result<(), SpoolError> {
    let known = to.notes("").await?;
    for (key, value) in from.notes("").await? {
        if known.iter().all(|(there, _)| *there != key) {
            to.put_note(&key, value);
        }
        from.remove_note(&key);
    }
    Ok(())
}
