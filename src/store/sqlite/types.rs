//! What only this store has: what opening found, why it did not open.

use std::io;
use std::path::PathBuf;

/// What opening found, for the caller to log and to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// In plain words, each something the operator has to know: loss, damage, a file moved aside. Empty on a good day.
    pub alarms: Vec<String>,
    /// Where an unreadable or damaged database was moved.
    pub moved_to: Option<PathBuf>,
    /// Rows that were there and could not be read.
    pub damaged_rows: u64,
    /// How often the database was rebuilt, a rebuild that an earlier run began included.
    pub rebuilds: u64,
}

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
