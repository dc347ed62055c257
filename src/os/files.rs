//! Small files that are either the old or the new one, whatever happens while they are written: in a directory
//! ([`Directory`]), or wherever a [`FileStore`] keeps them.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

/// Everything in the state directory is its owner's alone.
pub const MODE: u32 = 0o600;

/// The failure of what keeps what was accepted: a sync that failed, whoever issued it. All clones are one.
///
/// After a failed sync nobody knows any more what the disk holds: the kernel counts what it could not write as written, and the
/// next sync succeeds. So whoever syncs says here that one has failed; whoever answers for what is stored looks here first;
/// and the process ends.
#[derive(Debug, Clone, Default)]
pub struct Failure(watch::Sender<Option<String>>);

impl Failure {
    /// Says that it has failed. The first cause stands.
    pub fn set(&self, cause: String) {
        self.0.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(cause);
            first
        });
    }

    /// The cause, if it has failed.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Resolves, with the cause, once it has failed.
    pub async fn wait(&self) -> String {
        let mut failed = self.0.subscribe();
        // The sender lives as long as `self`, so that waiting cannot fail.
        match failed.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone()) {
            Some(cause) => cause,
            None => std::future::pending().await,
        }
    }

    /// Syncs a file or a directory, and sets the failure if that fails. That there is no room is none: what was written is then
    /// worth nothing, and the caller does not use it.
    ///
    /// # Errors
    ///
    /// If it cannot be synced.
    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        file.sync_all().inspect_err(|error| {
            if !is_full(error) {
                self.set(sync_failed(&format_args!("{}: {error}", path.display())));
            }
        })
    }
}

/// In words, with the remedy.
#[must_use]
pub fn sync_failed(error: &dyn fmt::Display) -> String {
    format!("the disk failed to sync: look into the kernel's log (dmesg), it may be failing ({error})")
}

/// A directory with small files, and what tells all others if its disk fails.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    failure: Failure,
}

impl From<&Path> for Directory {
    fn from(path: &Path) -> Self {
        Self { path: path.to_owned(), failure: Failure::default() }
    }
}

impl Directory {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its disk has failed.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Replaces a file's content, durably: after a crash at any moment the file is the old one or the new one, and once this has
    /// returned it is the new one. The file is readable by its owner only. One writer at a time for one name.
    ///
    /// # Errors
    ///
    /// If it cannot be written; then the old file is still there, unless it is the last sync that has failed.
    pub fn replace(&self, name: impl AsRef<OsStr>, content: &[u8]) -> io::Result<()> {
        let path = self.path.join(name.as_ref());
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        self.write(&temporary, content).and_then(|()| fs::rename(&temporary, &path)).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        // The rename itself is in the directory.
        self.failure.sync(&File::open(&self.path)?, &self.path)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
        give_to_owner_of_directory(path);
        // A leftover of a crash may have had another mode.
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(content)?;
        self.failure.sync(&file, path)
    }
}

/// Keeps small files. After a crash at any moment a file is the old one or the new one, and once a call has returned it is the
/// new one. Everything here blocks.
pub trait FileStore: fmt::Debug + Send + Sync + 'static {
    /// The content of a file; none if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be read; [`ErrorKind::TimedOut`]: not now.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes a file if it is not there. Gives its content, which may be somebody else's.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or cannot be read.
    fn create(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>>;

    /// Replaces a file's content, or makes the file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Where a file is, for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// A [`FileStore`] with one owner: this machine's directory, under its lock.
impl FileStore for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(there) = FileStore::read(self, name)? {
            return Ok(there);
        }
        self.replace(name, content)?;
        Ok(content.to_vec())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        Self::replace(self, name, content)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Any [`FileStore`]. All clones are one.
#[derive(Debug, Clone)]
pub struct Files(Arc<dyn FileStore>);

impl Files {
    /// Of files that are kept elsewhere than in a directory.
    #[must_use]
    pub fn new(store: impl FileStore) -> Self {
        Self(Arc::new(store))
    }
}

impl std::ops::Deref for Files {
    type Target = dyn FileStore;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl From<&Directory> for Files {
    fn from(directory: &Directory) -> Self {
        Self::new(directory.clone())
    }
}

impl From<&Path> for Files {
    fn from(path: &Path) -> Self {
        Self::new(Directory::from(path))
    }
}

/// The same for a file anywhere, where nothing depends on its disk.
///
/// # Errors
///
/// As [`Directory::replace`].
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Directory::from(directory).replace(name, content)
}

/// Gives a file that root made to whom its directory belongs: a verb run as root must not lock the service out. Without the
/// right to do so nothing changes, and nothing needs to.
pub fn give_to_owner_of_directory(path: &Path) {
    let owner = |path: &Path| fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid()));
    if let (Ok(file), Some(Ok(directory))) = (owner(path), path.parent().map(owner))
        && file.0 != directory.0
    {
        let _ = std::os::unix::fs::chown(path, Some(directory.0), Some(directory.1));
    }
}

/// Whether there is no room: on the disk, or in the quota of this user.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// What an operator can do about an error of the file system, to be put behind it; empty if there is nothing to say.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_full(error) => ": free some space on its disk",
        ErrorKind::ReadOnlyFilesystem => ": its disk is read-only, make it writable again",
        ErrorKind::PermissionDenied => ": give it to the user that ilink2mqtt runs as (chown)",
        ErrorKind::IsADirectory | ErrorKind::NotADirectory => ": move away what stands there",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        fs::write(directory.path().join("a.json.tmp"), "left over").unwrap();
        for content in ["one", "two, which is longer", "3"] {
            Directory::from(directory.path()).replace("a.json", content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let files = Directory::from(directory.path());
        files.replace("a.json", b"old").unwrap();
        fs::create_dir(directory.path().join("a.json.tmp")).unwrap();
        assert!(files.replace("a.json", b"new").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert!(Directory::from(&*directory.path().join("none")).replace("a.json", b"new").is_err());
        assert_eq!(files.failure().get(), None, "no sync has failed");
    }
}
