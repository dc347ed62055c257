//! The files that the answers become: the configuration for all to read, each secret for its owner alone.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::answers::{Answers, Key, SetupError};
use crate::os::files;

/// A service's own user reads it, and no secret is in it.
const READABLE: u32 = 0o644;

/// The configuration and, beside it, the secrets: that of the account, and our password at the broker.
pub(super) fn paths(config: &Path) -> [PathBuf; 3] {
    let directory = config.parent().unwrap_or(Path::new(""));
    [config.to_owned(), directory.join("secretkey"), directory.join("mqtt-password")]
}

/// Which of them are there, and are not what is to be written already.
pub(super) fn would_replace(config: &Path, answers: &Answers) -> Vec<PathBuf> {
    let keys = [None, Some(Key::Secretkey), Some(Key::Password)];
    let differs = |(path, key): &(PathBuf, Option<Key>)| {
        let known = key.and_then(|key| answers.get(key)).map(line);
        path.symlink_metadata().is_ok() && (known.is_none() || fs::read_to_string(path).ok() != known)
    };
    paths(config).into_iter().zip(keys).filter(differs).map(|(path, _)| path).collect()
}

/// Whether they can be written at all: found out before anybody has answered for nothing.
pub(super) fn place(config: &Path) -> Result<(), SetupError> {
    let config = std::path::absolute(config).map_err(|error| failed(config, error))?;
    let there = config.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(failed(there, io::ErrorKind::NotADirectory.into()));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(&config, error.into()))
}

/// A secret as its file holds it.
fn line(secret: &str) -> String {
    format!("{secret}\n")
}

/// Writes all of them, the configuration last: what it names is there by then. Old ones are kept as `FILE.old`.
pub(super) fn all(config: &Path, answers: &Answers) -> Result<Vec<PathBuf>, SetupError> {
    let config = std::path::absolute(config).map_err(|error| failed(config, error))?;
    let [_, secretkey, password] = paths(&config);
    let directory = config.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o755)))
            .map_err(|error| failed(directory, error))?;
    }
    let mut written = Vec::new();
    for (path, key) in [(&secretkey, Key::Secretkey), (&password, Key::Password)] {
        if let Some(secret) = answers.get(key) {
            replace(path, &line(secret), files::MODE)?;
            written.push(path.clone());
        }
    }
    replace(&config, &answers.configuration(&secretkey, &password), READABLE)?;
    written.push(config);
    Ok(written)
}

fn replace(path: &Path, content: &str, mode: u32) -> Result<(), SetupError> {
    if fs::read_to_string(path).is_ok_and(|there| there == content) {
        return fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| failed(path, error));
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    let kept = match fs::rename(path, old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    kept.and_then(|()| files::write_atomically(path, content.as_bytes()))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|error| failed(path, error))
}

fn failed(path: &Path, source: io::Error) -> SetupError {
    let remedy = match source.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root (sudo), or name another place with --config",
        _ => files::remedy(&source),
    };
    SetupError::Write { path: path.display().to_string(), source, remedy }
}
