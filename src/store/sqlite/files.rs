//! The spool's files: readable by their owner alone, moved aside together, replaced so that a crash at any point loses
//! nothing.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::fault::Fault;
use crate::os::files::Failure;

/// What SQLite keeps beside a database: its log, and the log's index.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// What a damaged database is called, before its number, and how many of them are kept.
const ASIDE: &str = "spool.db.damaged-";
const KEPT_ASIDE: u32 = 3;

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}: {source}{}", path.display(), crate::os::files::remedy(source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite cannot work with the file, and it is not the file's fault.
    #[error("cannot open {}: {cause}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// What was found where the database belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A file of no bytes.
    Empty,
    /// A file.
    File,
    /// A log with commits, but no database to go with it.
    LogOnly,
}

/// The paths of the spool in its directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    /// The database.
    pub(super) main: PathBuf,
    /// A rebuilt database in the making: worth nothing if found.
    pub(super) fresh: PathBuf,
    /// A rebuilt database, complete: to take the place of the damaged one.
    rebuilt: PathBuf,
    /// Room on the disk that is ours to give up.
    ballast: PathBuf,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            main: dir.join("spool.db"),
            fresh: dir.join("spool.db.new"),
            rebuilt: dir.join("spool.db.rebuilt"),
            ballast: dir.join("spool.ballast"),
        }
    }

    /// Looks what is there, and sees to it that only we can read it.
    pub(super) fn prepare(&self) -> Result<Found, OpenError> {
        let at = |source| OpenError::File { path: self.main.clone(), source };
        // SQLite would say nothing of its companions but that it cannot write.
        for path in COMPANIONS.map(|suffix| companion(&self.main, suffix)).into_iter().chain([self.main.clone()]) {
            if fs::metadata(&path).is_ok_and(|file| !file.is_file()) {
                let source = io::Error::new(ErrorKind::IsADirectory, "it is not a file");
                return Err(OpenError::File { path, source });
            }
        }
        let found = match fs::metadata(&self.main) {
            Ok(file) if file.len() > 0 => Found::File,
            Ok(_) if self.log_size() > 0 => Found::LogOnly,
            Ok(_) => Found::Empty,
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(error)),
            Err(_) if self.log_size() > 0 => Found::LogOnly,
            Err(_) => Found::Nothing,
        };
        if matches!(found, Found::File | Found::Empty) {
            fs::set_permissions(&self.main, Permissions::from_mode(0o600)).map_err(at)?;
        }
        Ok(found)
    }

    /// Size of the log, 0 if there is none.
    pub(super) fn log_size(&self) -> u64 {
        fs::metadata(companion(&self.main, "-wal")).map_or(0, |file| file.len())
    }

    /// Whether the disk gives back all of the database and its log. `SQLite` calls a file damaged that the disk did not read for it.
    pub(super) fn can_be_read(&self) -> bool {
        let read = |path: &Path| match File::open(path) {
            Ok(mut file) => io::copy(&mut file, &mut io::sink()).is_ok(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        read(&self.main) && read(&companion(&self.main, "-wal"))
    }

    /// Moves the database and its companions out of the way, under the next number. Only the last few are kept: a failing disk
    /// would fill itself with them.
    pub(super) fn move_aside(&self) -> io::Result<PathBuf> {
        let aside_at = |n: u32| self.dir.join(format!("{ASIDE}{n}"));
        let numbers = self.aside_numbers()?;
        let next = numbers.iter().max().map_or(1, |last| last.saturating_add(1));
        let aside = aside_at(next);
        for suffix in COMPANIONS {
            rename_if_there(&companion(&self.main, suffix), &companion(&aside, suffix))?;
        }
        rename_if_there(&self.main, &aside)?;
        self.sync_dir()?;
        for old in numbers.into_iter().filter(|n| n.saturating_add(KEPT_ASIDE) <= next) {
            // One that stays is in nobody's way.
            let _ = remove_all(&aside_at(old));
        }
        Ok(aside)
    }

    /// The numbers that damaged databases, or what is left of them, have.
    fn aside_numbers(&self) -> io::Result<BTreeSet<u32>> {
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(ASIDE)?.split('-').next()?.parse::<u32>().ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }

    /// An empty file to rebuild the database in.
    pub(super) fn create_fresh(&self) -> io::Result<()> {
        self.remove_fresh()?;
        create_private(&self.fresh)
    }

    pub(super) fn remove_fresh(&self) -> io::Result<()> {
        remove_all(&self.fresh)
    }

    /// Gives the complete, closed, fresh database the name of the main one, of which there is none.
    pub(super) fn install(&self) -> io::Result<()> {
        File::open(&self.fresh)?.sync_all()?;
        fs::rename(&self.fresh, &self.main)?;
        self.sync_dir()
    }

    /// Puts the complete, closed, fresh database in the place of the damaged one, and says where that one went.
    pub(super) fn exchange(&self) -> io::Result<PathBuf> {
        File::open(&self.fresh)?.sync_all()?;
        // From this rename on it will be the database, whatever happens.
        fs::rename(&self.fresh, &self.rebuilt)?;
        self.sync_dir()?;
        self.finish_exchange()
    }

    /// Whether an exchange was begun and not finished.
    pub(super) fn is_exchanging(&self) -> bool {
        self.rebuilt.exists()
    }

    pub(super) fn finish_exchange(&self) -> io::Result<PathBuf> {
        let aside = self.move_aside()?;
        fs::rename(&self.rebuilt, &self.main)?;
        self.sync_dir()?;
        Ok(aside)
    }

    pub(super) fn ballast_size(&self) -> u64 {
        fs::metadata(&self.ballast).map_or(0, |file| file.len())
    }

    /// Makes the ballast this large: as much of it as the disk takes. Only a sync that fails is a fault.
    pub(super) fn take_ballast(&self, size: u64) -> Result<(), Fault> {
        let failure = Failure::default();
        let grow = || {
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.ballast)?;
            let mut left = size.saturating_sub(self.ballast_size());
            while left > 0 {
                let zeros = [0; 4096];
                let part = zeros.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(&zeros);
                file.write_all(part)?;
                left -= part.len() as u64;
            }
            failure.sync(&file, &self.ballast)
        };
        // What there is not room for is no ballast, and nothing is lost by that.
        let _: io::Result<()> = grow();
        failure.get().map_or(Ok(()), |cause| Err(Fault::Fatal(cause)))
    }

    /// Gives the ballast's room back to the disk. False if there was none.
    pub(super) fn drop_ballast(&self) -> bool {
        self.ballast_size() > 0 && fs::remove_file(&self.ballast).is_ok()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// SQLite gives its log and index the database's permissions.
fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()
}

/// Removes a database and its companions, as far as they are there.
fn remove_all(database: &Path) -> io::Result<()> {
    for path in COMPANIONS.map(|suffix| companion(database, suffix)).iter().map(PathBuf::as_path).chain([database]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
