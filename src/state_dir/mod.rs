//! The state directory: who may use it, and how small files in it are written.
//!
//! `app` opens it before anything else and keeps it open for as long as the process lives; a second process is refused.
//! The files in it belong to other modules: `identity.json` to [`Identity`], `token.json` to the session, `spool.db` to
//! the spool.
//!
//! Everything here blocks. It is called at start, and rarely after.

mod identity;
mod random;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::os::files::{self, Directory};
pub use identity::{FILE as IDENTITY, Identity, IdentityError, IdentityRegistry, Overrides};

/// Nobody but us.
const DIRECTORY_MODE: u32 = 0o700;

/// The state directory, ours alone until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    directory: Directory,
    /// Closing it gives the lock back.
    _lock: File,
}

/// The state directory cannot be used: exit code 73.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process has it.
    #[error(
        "the state directory {} is in use by another ilink2mqtt{}: stop that one, or give this one another state_dir",
        path.display(), .holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// Which.
        path: PathBuf,
        /// Whose it is, if that can be told.
        holder: Option<u32>,
    },
    /// It cannot be made, opened or written.
    #[error("the state directory {} cannot be used: {action}: {source}{}", path.display(), files::remedy(source))]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// `identity.json` cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl StateDir {
    /// Makes the directory if there is none, closes it to others, and locks it.
    ///
    /// # Errors
    ///
    /// If another process has it, or it cannot be used.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let unusable = |action| move |source| StateDirError::Unusable { path: path.to_owned(), action, source };
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(unusable("creating it"))?;
        let metadata = fs::metadata(path).map_err(unusable("looking at it"))?;
        close_to_others(path, &metadata).map_err(unusable("taking others' access away"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(files::MODE)
            .open(path.join("lock"))
            .map_err(unusable("opening the lock file in it"))?;
        files::give_to_owner_of_directory(&path.join("lock"));
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StateDirError::Locked { path: path.to_owned(), holder: holder(&mut lock) });
            }
            Err(errno) => return Err(unusable("locking it")(errno.into())),
        }
        close_files_to_others(path).map_err(unusable("taking others' access to its files away"))?;
        match sign(&mut lock) {
            // It is only for the message to a second process, and a full disk is no reason not to start.
            Err(error) if files::is_full(&error) => {}
            signed => signed.map_err(unusable("writing in it"))?,
        }
        Ok(Self { directory: path.into(), _lock: lock })
    }

    /// Whether a process has it. Makes nothing, and has the lock for an instant at most.
    #[must_use]
    pub fn is_locked(path: &Path) -> bool {
        File::open(path.join("lock"))
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// For who keeps files in it.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }
}

/// Closes our own directory to others. One that belongs to another user (a container's volume, say) gets only a warning.
fn close_to_others(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let others = metadata.mode() & 0o077;
    if others == 0 {
        return Ok(());
    }
    if metadata.uid() == rustix::process::geteuid().as_raw() {
        return fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE));
    }
    tracing::warn!(path = %path.display(), "the state directory belongs to another user and is open to others");
    Ok(())
}

/// What others may read here was put here by somebody else's hand, a backup's say.
fn close_files_to_others(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Of a link itself, not of what it leads to.
        let metadata = entry.metadata()?;
        let others = metadata.mode() & 0o077;
        if !metadata.is_file() || others == 0 {
            continue;
        }
        let file = entry.path();
        match fs::set_permissions(&file, Permissions::from_mode(files::MODE)) {
            Ok(()) => tracing::warn!(
                path = %file.display(),
                "others could read this file of the state directory; it is closed to them now. If others use this machine, make new secrets: `ilink2mqtt register --new-secret`"
            ),
            Err(error) => tracing::warn!(
                path = %file.display(), %error,
                "others can read this file of the state directory, and it cannot be closed to them: correct its owner and mode"
            ),
        }
    }
    Ok(())
}

/// Notes in the lock file who holds it, for the message that a second process gives.
fn sign(lock: &mut File) -> io::Result<()> {
    // Over what is there, which needs no room; then what is left of it goes.
    lock.rewind()?;
    let text = format!("{}\n", std::process::id());
    lock.write_all(text.as_bytes())?;
    lock.set_len(text.len() as u64)
}

fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
