//! Small files that are either the old or the new one, whatever happens while they are written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Everything in the state directory is its owner's alone.
pub const MODE: u32 = 0o600;

/// Replaces a file's content, durably: after a crash at any moment the file is the old one or the new one, and once this has
/// returned it is the new one. The file is readable by its owner only. One writer at a time for one path.
///
/// # Errors
///
/// If it cannot be written; then the old file is still there.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = {
        let mut temporary = name.to_owned();
        temporary.push(".tmp");
        directory.join(temporary)
    };
    write_durably(&temporary, content).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    // The rename itself is in the directory.
    File::open(directory)?.sync_all()
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    give_to_owner_of_directory(path);
    // A leftover of a crash may have had another mode.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(content)?;
    file.sync_all()
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

/// What an operator can do about an error of the file system, to be put behind it; empty if there is nothing to say.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free some space on its disk",
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
            write_atomically(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write_atomically(&path, b"old").unwrap();
        fs::create_dir(directory.path().join("a.json.tmp")).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert!(write_atomically(&directory.path().join("none/a.json"), b"new").is_err());
    }
}
